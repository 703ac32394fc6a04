import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine import checkpoint
from engine.cache import KVCache
from engine.checkpoint import load_model, write_dense
from engine.counters import ActivationCosts
from engine.errors import CheckpointError, DiskFullError
from engine.experts import PackedExperts
from engine.linear import FloatLinear, Linear, PackedLinear
from engine.model import Layer, Model
from engine.packing import dequantize
from tests.unit.models_for_tests import save_tiny_mixtral, write_compressed

WIDTHS = (3, 1, 2, 2)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    save_tiny_mixtral(folder, seed=5)
    return folder


@pytest.fixture
def compressed(original: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    write_compressed(original, folder, WIDTHS)
    return folder


def dequantized(model: Model) -> Model:
    """The same model with plain float32 matrices."""

    def plain(linear: Linear) -> FloatLinear:
        assert isinstance(linear, PackedLinear)
        return FloatLinear(dequantize(linear.matrix))

    def plain_layer(layer: Layer) -> Layer:
        assert isinstance(layer.experts, PackedExperts)
        attention = layer.attention
        projections = {name: plain(getattr(attention, name)) for name in ("q", "k", "v", "o")}
        return replace(
            layer,
            attention=replace(attention, **projections),
            experts=layer.experts.dequantize(),
        )

    assert isinstance(model.head, FloatLinear)
    head = FloatLinear(model.head.weight.float())
    return replace(model, layers=[plain_layer(layer) for layer in model.layers], head=head)


def test_a_quantized_model_equals_itself_dequantized(compressed: Path) -> None:
    model = load_model(compressed)
    plain = dequantized(model)
    tokens = torch.randint(0, 96, (2, 19))
    expected = plain.forward(tokens)
    found = model.forward(tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    cache = KVCache(model.config, capacity=19, batch=2)
    parts = [tokens[:, :12], *tokens[:, 12:].split(1, dim=1)]
    cached = torch.cat([model.forward(part, cache) for part in parts], dim=1)
    torch.testing.assert_close(cached, expected, rtol=1e-4, atol=1e-4)


def test_memory_is_what_the_files_hold(compressed: Path) -> None:
    """Router and norms alone grow, from 16 to 32 bits, on a CPU."""
    model = load_model(compressed)
    stored, widened = 0, 0
    for path in compressed.glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            stored += tensor.nbytes
            widened += tensor.nbytes if "norm" in name or "router" in name else 0
    assert model.memory_bytes() == stored + widened


def test_wider_experts_cost_more(compressed: Path) -> None:
    costs = ActivationCosts.of(load_model(compressed))
    three, one, two, other_two = costs.expert_bytes[0]
    assert three > two == other_two > one


def test_loading_tells_how_far_it_is(compressed: Path) -> None:
    heard: list[float] = []
    load_model(compressed, listener=lambda fraction, stage: heard.append(fraction))
    assert heard == sorted(heard)
    assert heard[0] == 0.0
    assert heard[-1] == 1.0


def test_tied_embeddings_are_stored_once(tmp_path: Path) -> None:
    save_tiny_mixtral(tmp_path / "tied", tie_word_embeddings=True)
    write_compressed(tmp_path / "tied", tmp_path / "small", WIDTHS)
    assert "head.weight" not in load_file(tmp_path / "small" / "dense.safetensors")
    model = load_model(tmp_path / "small")
    assert isinstance(model.head, FloatLinear)
    assert model.head.weight is model.embed


def test_the_same_model_gives_the_same_bytes(original: Path, tmp_path: Path) -> None:
    first = write_compressed(original, tmp_path / "a" / "m", WIDTHS)
    second = write_compressed(original, tmp_path / "b" / "m", WIDTHS)
    assert first == second


def change(folder: Path, file: str, name: str, tensor: Tensor | None) -> None:
    """Replace a tensor, or drop it, and correct the manifest's size of the file."""
    path = folder / file
    tensors = load_file(path)
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    save_file(tensors, path)
    manifest = json.loads((folder / "mc.json").read_text())
    manifest["files"][file]["bytes"] = path.stat().st_size
    (folder / "mc.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("experts.codes", None, "has no tensor experts.codes"),
        (
            "experts.codes",
            torch.zeros(8, dtype=torch.int32),
            r"experts.codes is torch.int32 \(8,\)",
        ),
        ("experts.scales", torch.zeros(8, dtype=torch.int32), "instead of torch.float16"),
        ("attention.k.zeros", torch.zeros(1, dtype=torch.float16), "attention.k.zeros is"),
        ("router.weight", torch.zeros(4, 63), r"instead of torch.bfloat16 \(4, 64\)"),
    ],
)
def test_tensors_that_do_not_fit_the_layout_are_named(
    compressed: Path, name: str, tensor: Tensor | None, message: str
) -> None:
    change(compressed, "layer-01.safetensors", name, tensor)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(compressed)
    assert "layer-01.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_named(compressed: Path) -> None:
    path = compressed / "layer-00.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"layer-00.*truncated or altered"):
        load_model(compressed)


def test_a_layer_that_the_manifest_does_not_know_is_noticed(compressed: Path) -> None:
    config = json.loads((compressed / "config.json").read_text())
    config["num_hidden_layers"] = 3
    text = json.dumps(config)
    (compressed / "config.json").write_text(text)
    manifest = json.loads((compressed / "mc.json").read_text())
    manifest["files"]["config.json"]["bytes"] = len(text)
    (compressed / "mc.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"describes 2 layers, config.json 3"):
        load_model(compressed)


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {"embed.weight": torch.ones(4, 4), "norm.weight": torch.ones(4)}
    path = write_dense(tmp_path, tensors)
    before = path.read_bytes()

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync", full)
    with pytest.raises(DiskFullError, match="no space left"):
        write_dense(tmp_path, {"embed.weight": torch.zeros(4, 4)})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
