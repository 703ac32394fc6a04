"""Whole compressions of tiny random models of other kinds than Mixtral, and what comes out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from compress.calibration import CalibrationSize, text_windows
from compress.interchange.hqq_export import export_hqq
from compress.pipeline import CompressJob, compress
from engine import budget
from engine.cache import KVCache
from engine.checkpoint import PROJECTIONS, load_model, open_checkpoint, read_dense, read_layer
from engine.decoding.plain import PlainOperations
from engine.decoding.state import DecodeState
from engine.decoding.step import DecodeStep
from engine.errors import UsageError
from engine.manifest import RestBits
from engine.model import Model
from engine.packing import dequantize
from engine.pruning import NO_PRUNING
from engine.tensor_names import dense_matrices, small_tensors
from engine.tokenizer import Tokenizer
from tests.compressions_for_tests import quiet
from tests.unit.architectures_for_tests import KINDS, save_tiny
from tests.unit.tokenizers_for_tests import SPECIAL, byte_level

REPOSITORY = Path(__file__).resolve().parents[2]
SHAPE: dict[str, Any] = {"hidden_size": 64, "vocab_size": 320, "initializer_range": 0.06}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=KINDS)
def original(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, PreTrainedModel]:
    folder = tmp_path_factory.mktemp("source") / request.param
    changes = {"intermediate_size": 128}
    if request.param != "olmoe":
        changes = {"moe_intermediate_size": 128, "head_dim": 32}
    model = save_tiny(request.param, folder, 0, **SHAPE, **changes)
    byte_level().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(SPECIAL))
    return folder, model


@pytest.fixture
def job(original: tuple[Path, PreTrainedModel], tmp_path: Path) -> CompressJob:
    text = tmp_path / "text.txt"
    text.write_text((REPOSITORY / "engine" / "layout.py").read_text())
    return CompressJob(
        original[0], tmp_path / "out", text=text, samples=4, window=64, group_size=64, bits=2.0
    )


def as_stored(folder: Path, model: PreTrainedModel) -> PreTrainedModel:
    """transformers' own model with what the checkpoint's packed matrices stand for."""
    manifest, config = open_checkpoint(folder)
    state = model.state_dict()
    for index in range(config.num_layers):
        layer = read_layer(folder, manifest, config, index)
        dense, small = dense_matrices(config, index), small_tensors(config, index)
        for name in PROJECTIONS:
            original = dense[f"attention.{name}"]
            state[original.name] = dequantize(layer.attention[name])
        for part, matrix in layer.shared.items():
            state[dense[f"shared.{part}"].name] = dequantize(matrix)
        state |= {small[kept].name: tensor.float() for kept, tensor in layer.rest.items()}
        if layer.router is not None:
            state[small["router.weight"].name] = dequantize(layer.router)
        experts = layer.experts.dequantize()
        prefix = f"model.layers.{index}.mlp.experts"
        state[f"{prefix}.gate_up_proj"] = torch.cat((experts.gate, experts.up), dim=1)
        state[f"{prefix}.down_proj"] = experts.down
    ends = read_dense(folder, manifest, config)
    state["model.embed_tokens.weight"] = ends.rest["embed.weight"].float()
    state["model.norm.weight"] = ends.rest["norm.weight"].float()
    head = dequantize(ends.head) if ends.head is not None else ends.rest["head.weight"]
    state["lm_head.weight"] = head.float()
    changed = type(model)(model.config).eval()
    changed.load_state_dict(state)
    return changed


@pytest.mark.parametrize(
    ("allocator", "rest"), [("pmq", RestBits()), ("global", RestBits(router=4, head=8))]
)
@torch.inference_mode()
def test_a_packed_model_computes_what_its_codes_stand_for(
    allocator: str, rest: RestBits, job: CompressJob, original: tuple[Path, PreTrainedModel]
) -> None:
    job = replace(job, allocator=allocator, router_bits=rest.router, head_bits=rest.head)
    out = compress(job, quiet)
    manifest, config = open_checkpoint(out)
    for record in manifest.layers:
        assert sum(record.frequency) == pytest.approx(1)
        assert sum(record.routing_weight) == pytest.approx(1)
    model, reference = load_model(out), as_stored(out, original[1])
    tokens = torch.randint(0, 320, (1, 30))
    expected = reference(tokens).logits
    found = model.forward(tokens)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    cache = KVCache(config, capacity=30)
    parts = torch.split(tokens, [20, *[1] * 10], dim=1)
    cached = torch.cat([model.forward(part, cache, NO_PRUNING) for part in parts], dim=1)
    torch.testing.assert_close(cached, expected, rtol=1e-3, atol=1e-3)
    assert model.decoder.step(model) is not None, "single tokens took the compiled step"
    torch.testing.assert_close(stepped(model, tokens[:, :9]), expected[:, :9], rtol=1e-3, atol=1e-3)
    widths = [record.expert_bits for record in manifest.layers]
    promised = budget.compressed_budget(
        config, widths, 64, 30, "cpu", rest, rotated=manifest.recipe.rotated
    )
    assert model.memory_bytes() == promised.weights
    stored = budget.dense_bytes(config, 64, "cuda", rest)
    assert manifest.sizes.dense_bytes == stored
    files = [out / name for name in manifest.files if name.endswith(".safetensors")]
    tensors = sum(path.stat().st_size for path in files)
    headers = tensors - manifest.sizes.total_bytes
    assert 0 < headers < 10_000 * len(files)


def stepped(model: Model, tokens: Tensor) -> Tensor:
    """Logits [1, T, V] by the step that a GPU captures, its operations in plain torch."""
    state, cache = DecodeState.allocate(model), KVCache(model.config, tokens.shape[1])
    step = DecodeStep(model, cache, state, PlainOperations())
    found = []
    for token in tokens[0]:
        state.token.copy_(token)
        state.slot.zero_()
        step.run()
        found.append(state.activations.logits.clone())
    return torch.stack(found, dim=1)


@torch.inference_mode()
def test_what_rounding_changed_is_measured_behind_every_layer(
    job: CompressJob, original: tuple[Path, PreTrainedModel]
) -> None:
    """The streams that a compression carries are those of the two models."""
    out = compress(replace(job, quantizer="rtn"), quiet)
    manifest, _ = open_checkpoint(out)
    assert manifest.quality is not None
    assert job.text is not None
    reference = as_stored(out, original[1])
    size = CalibrationSize(samples=4, window=64)
    tokens = text_windows(job.text, Tokenizer.from_folder(original[0]), size, job.seed)
    streams = [
        model(tokens, output_hidden_states=True).hidden_states for model in (original[1], reference)
    ]
    assert len(manifest.quality.stream_errors) == 2
    for layer, error in enumerate(manifest.quality.stream_errors[:-1]):  # the last one is normed
        exact, rounded = (stream[layer + 1] for stream in streams)
        assert error == pytest.approx(float((rounded - exact).norm() / exact.norm()), rel=1e-2)


@torch.inference_mode()
def test_without_a_text_the_weights_alone_are_looked_at(
    job: CompressJob, original: tuple[Path, PreTrainedModel]
) -> None:
    out = compress(replace(job, quantizer="hqq", text=None, samples=None, window=None), quiet)
    tokens = torch.randint(0, 320, (1, 20))
    expected = as_stored(out, original[1])(tokens).logits
    torch.testing.assert_close(load_model(out).forward(tokens), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(UsageError, match="for MixtralForCausalLM only, not for"):
        export_hqq(out, out.parent / "exported", lambda step: None)
    assert not (out.parent / "exported").exists()
