"""The figures of quality that a compression leaves behind, beside those of the finished models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from assets import DEMO_DIR
from compress import projection
from compress.calibration import CalibrationSize, demo_windows, text_windows
from compress.pipeline import CompressJob, compress
from compress.quality import HELD_OUT_SEED, HELD_OUT_SIZE, Head
from engine.checkpoint import load_model
from engine.config import ModelConfig
from engine.errors import CheckpointError
from engine.manifest import MANIFEST_NAME, read_manifest
from engine.model import Model, Norm
from engine.quality import Agreement
from engine.tokenizer import Tokenizer
from tests.checkpoints_for_tests import write_tiny_checkpoint
from tests.compressions_for_tests import quiet
from tests.unit.models_for_tests import save_tiny_mixtral
from tests.unit.tokenizers_for_tests import SPECIAL, byte_level, speak_as_the_demo

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = CalibrationSize(samples=4, window=48)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def in_sixteen_bits(folder: Path) -> None:
    """As an original is: then nothing outside the experts and attention is rounded."""
    path = folder / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    save_tiny_mixtral(
        folder, hidden_size=64, intermediate_size=64, vocab_size=320, num_hidden_layers=3,
        num_local_experts=4, initializer_range=0.1,
    )  # fmt: skip
    in_sixteen_bits(folder)
    byte_level().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(SPECIAL))
    return folder


@pytest.fixture(scope="module")
def demo_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that speaks the demo's language."""
    folder = tmp_path_factory.mktemp("source") / "demo"
    save_tiny_mixtral(
        folder, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_local_experts=4,
        initializer_range=0.1, max_position_embeddings=512,
        vocab_size=ModelConfig.from_folder(DEMO_DIR).vocab_size,
    )  # fmt: skip
    in_sixteen_bits(folder)
    speak_as_the_demo(folder)
    return folder


@pytest.fixture
def job(source: Path, tmp_path: Path) -> CompressJob:
    text = tmp_path / "text.txt"
    text.write_text((REPOSITORY / "engine" / "layout.py").read_text())
    return CompressJob(
        source, tmp_path / "out", text=text, samples=SIZE.samples, window=SIZE.window,
        group_size=64, bits=2.0,
    )  # fmt: skip


def streams(model: Model, tokens: Tensor) -> list[Tensor]:
    """The residual stream behind each layer."""
    rope = model.rope.at(0, tokens.shape[1])
    found = [model.embed_tokens(tokens)]
    for layer in model.layers:
        found.append(layer.forward(found[-1], rope))
    return found[1:]


@torch.inference_mode()
def drift(original: Path, compressed: Path, tokens: Tensor) -> list[float]:
    """How far the stream behind each layer is from the original's, with both whole models."""
    exact, rounded = (streams(load_model(folder), tokens) for folder in (original, compressed))
    return [float((q - x).norm() / x.norm()) for q, x in zip(rounded, exact, strict=True)]


@torch.inference_mode()
def compared(original: Path, compressed: Path, tokens: Tensor) -> tuple[float, float, float]:
    """Share of the same likeliest tokens, and both perplexities: with the logits of both whole
    models, in float64."""
    logits = [
        load_model(folder).forward(tokens)[:, :-1].double() for folder in (original, compressed)
    ]
    targets = tokens[:, 1:]
    losses = [F.cross_entropy(each.flatten(0, 1), targets.flatten()).exp() for each in logits]
    same = (logits[0].argmax(-1) == logits[1].argmax(-1)).double().mean()
    return float(same), float(losses[1]), float(losses[0])


def calibration(job: CompressJob) -> Tensor:
    assert job.text is not None
    assert isinstance(job.source, Path)
    return text_windows(job.text, Tokenizer.from_folder(job.source), SIZE, job.seed)


@pytest.mark.parametrize("options", [{}, {"allocator": "pmq", "head_bits": 4, "router_bits": 4}])
def test_the_figures_are_those_of_the_finished_models(
    job: CompressJob, source: Path, options: dict[str, Any]
) -> None:
    out = compress(replace(job, **options), quiet)
    quality = read_manifest(out).quality
    assert quality is not None
    assert quality.agreement is not None
    tokens = calibration(job)
    same, perplexity, original = compared(source, out, tokens)
    found = quality.agreement
    assert found.text.startswith("text.txt")
    assert not found.held_out
    assert found.tokens == tokens[:, 1:].numel()
    assert found.same_token == pytest.approx(same, abs=1.5 / found.tokens)
    assert 0.2 < found.same_token < 1
    assert found.perplexity == pytest.approx(perplexity, rel=1e-3)
    assert found.original_perplexity == pytest.approx(original, rel=1e-4)
    assert found.perplexity_ratio == pytest.approx(perplexity / original, rel=1e-3)
    assert quality.stream_errors == pytest.approx(drift(source, out, tokens), rel=1e-3)


def test_two_passes_compare_some_windows_layer_by_layer_and_all_at_the_end(
    job: CompressJob, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "COMPARED_TOKENS", 2 * SIZE.window)
    out = compress(replace(job, quantizer="rtn"), quiet)
    quality = read_manifest(out).quality
    assert quality is not None
    assert quality.agreement is not None
    tokens = calibration(job)
    _, perplexity, _ = compared(source, out, tokens)
    assert quality.agreement.tokens == tokens[:, 1:].numel()
    assert quality.agreement.perplexity == pytest.approx(perplexity, rel=1e-3)
    assert quality.stream_errors == pytest.approx(drift(source, out, tokens[:2]), rel=1e-3)
    assert quality.stream_errors != pytest.approx(drift(source, out, tokens), rel=1e-3)


def test_a_quick_build_has_nothing_to_compare(job: CompressJob) -> None:
    assert read_manifest(compress(replace(job, quantizer="hqq", text=None), quiet)).quality is None


def test_the_demo_is_compared_on_text_that_it_was_not_fitted_to(
    job: CompressJob, demo_source: Path
) -> None:
    """A small model with the demo's tokenizer has the demo's text."""
    out = compress(replace(job, source=demo_source, text=None, quantizer="rtn"), quiet)
    quality = read_manifest(out).quality
    assert quality is not None
    assert quality.agreement is not None
    found = quality.agreement
    assert found.held_out
    tokens = demo_windows("heldout", HELD_OUT_SIZE, HELD_OUT_SEED)
    same, perplexity, original = compared(demo_source, out, tokens)
    assert found.same_token == pytest.approx(same, abs=0.002)
    assert found.perplexity == pytest.approx(perplexity, rel=1e-3)
    assert found.original_perplexity == pytest.approx(original, rel=1e-4)


@pytest.mark.parametrize("vocabulary", [5, 8192, 20_000])
def test_predictions_do_not_depend_on_stripes(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    weight = torch.randn(vocabulary, 16, generator=generator)
    x = torch.randn(7, 16, generator=generator)
    targets = torch.randint(0, vocabulary, (7,), generator=generator)
    norm = Norm(torch.rand(16, generator=generator) + 0.5, 1e-5)
    losses, top = Head(norm, weight).predict(x, targets)
    logits = norm.forward(x).double() @ weight.double().T
    assert torch.allclose(losses, F.cross_entropy(logits, targets, reduction="none"), atol=1e-5)
    assert torch.equal(top, logits.argmax(1))


@pytest.mark.parametrize(
    "damage",
    [
        {"agreement": {"same_token": 1.5}},
        {"agreement": {"perplexity": float("inf")}},
        {"agreement": {"perplexity": 0.5}},
        {"agreement": {"tokens": 0}},
        {"stream_errors": [-0.1]},
        {"stream_errors": [float("nan")]},
        {"stream_errors": "many"},
        {"unheard_of": 1},
    ],
)
def test_figures_that_cannot_be_are_refused(tmp_path: Path, damage: dict[str, object]) -> None:
    write_tiny_checkpoint(tmp_path)
    raw = json.loads((tmp_path / MANIFEST_NAME).read_text())
    whole = vars(Agreement("a text", True, 10, 0.9, 3.0, 2.5))
    changed = damage.get("agreement")
    raw["quality"] = {"stream_errors": [0.1, 0.2], "agreement": whole}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(raw))
    assert read_manifest(tmp_path).quality is not None
    raw["quality"] |= {"agreement": whole | changed} if isinstance(changed, dict) else damage
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"damaged|no number"):
        read_manifest(tmp_path)
