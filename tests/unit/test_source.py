"""Reading original checkpoints: single, sharded, damaged, dangerous."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.routed import StreamedExperts
from compress.source import Source, open_folder, tensor_names
from engine.errors import McChatError, SourceError
from engine.tensor_names import EMBEDDING
from tests.unit.models_for_tests import save_tiny_mixtral

SINGLE = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny_mixtral(tmp_path / "tiny")
    return tmp_path / "tiny"


def shard(folder: Path) -> list[Path]:
    """Split the single file into three shards with an index."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    names = sorted(tensors)
    weight_map = {}
    for part in range(3):
        name = f"model-{part}.safetensors"
        save_file({key: tensors[key] for key in names[part::3]}, folder / name)
        weight_map |= dict.fromkeys(names[part::3], name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return [folder / f"model-{part}.safetensors" for part in range(3)]


def refusal(folder: Path) -> str:
    """The one line that opening, or else reading everything, fails with."""
    with pytest.raises(McChatError) as error:
        read_all(open_folder(folder))
    message = str(error.value)
    assert "\n" not in message
    assert isinstance(error.value, SourceError)
    return message


def read_all(source: Source) -> dict[str, torch.Tensor]:
    tensors = {name: source.tensor(name) for name in tensor_names(source.config)}
    for index in range(source.config.num_layers):
        experts = source.layer(index).experts
        assert isinstance(experts, StreamedExperts)
        for k in range(experts.count):
            experts.read(k)
    return tensors


def test_sharded_and_single_read_the_same(folder: Path) -> None:
    single = read_all(open_folder(folder))
    assert set(single) == set(load_file(folder / SINGLE))
    shard(folder)
    sharded = read_all(open_folder(folder))
    assert all(torch.equal(single[name], sharded[name]) for name in single)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_stays_dense_is_16_bit(folder: Path, dtype: torch.dtype) -> None:
    tensors = {name: t.to(dtype) for name, t in load_file(folder / SINGLE).items()}
    save_file(tensors, folder / SINGLE)
    source = open_folder(folder)
    kept = {"embed.weight": source.half(EMBEDDING), **source.layer_tensors(1)}
    expected = torch.float16 if dtype == torch.float32 else dtype
    assert {tensor.dtype for tensor in kept.values()} == {expected}
    torch.testing.assert_close(
        kept["embed.weight"].float(),
        tensors["model.embed_tokens.weight"].float(),
        rtol=1e-3,
        atol=1e-6,
    )
    assert source.layer(0).input_norm.weight.dtype == torch.float32


def test_large_float32_values_keep_their_range(folder: Path) -> None:
    tensors = load_file(folder / SINGLE)
    tensors["model.norm.weight"][0] = 1e6
    save_file(tensors, folder / SINGLE)
    norm = open_folder(folder).half("model.norm.weight")
    assert norm.dtype == torch.bfloat16
    assert torch.isfinite(norm).all()


def test_hash_follows_the_content_not_the_place(folder: Path, tmp_path: Path) -> None:
    first = open_folder(folder).provenance()
    moved = folder.rename(tmp_path / "moved")
    assert open_folder(moved).provenance().sha256 == first.sha256
    tensors = load_file(moved / SINGLE)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, moved / SINGLE)
    heard: list[float] = []
    assert open_folder(moved).provenance(heard.append).sha256 != first.sha256
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


def test_missing_folder_and_other_architectures_are_named(folder: Path, tmp_path: Path) -> None:
    assert "no folder" in refusal(tmp_path / "nowhere")
    raw = json.loads((folder / "config.json").read_text())
    raw |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(raw))
    assert "LlamaForCausalLM" in refusal(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    assert "safetensors" in refusal(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "no weights" in refusal(folder)


def test_truncated_and_missing_shards_are_named(folder: Path) -> None:
    shards = shard(folder)
    data = shards[1].read_bytes()
    shards[1].write_bytes(data[:-100])
    assert shards[1].name in refusal(folder)
    shards[1].write_bytes(data[:4])
    assert shards[1].name in refusal(folder)
    shards[1].unlink()
    assert f"{shards[1].name} is missing" in refusal(folder)


def test_missing_tensors_and_wrong_shapes_are_named(folder: Path) -> None:
    tensors = load_file(folder / SINGLE)
    name = "model.layers.1.block_sparse_moe.experts.2.w2.weight"
    save_file({key: t for key, t in tensors.items() if key != name}, folder / SINGLE)
    assert name in refusal(folder)
    save_file(tensors | {name: torch.zeros(3, 3)}, folder / SINGLE)
    assert "experts.2.w2" in refusal(folder)
    save_file(tensors | {name: tensors[name].int()}, folder / SINGLE)
    assert name in refusal(folder)
    tensors[name][0, 0] = torch.nan
    save_file(tensors, folder / SINGLE)
    assert "NaN" in refusal(folder)


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "../x"}}'])
def test_damaged_index_is_one_line(folder: Path, text: str) -> None:
    (folder / "model.safetensors.index.json").write_text(text)
    assert "index.json" in refusal(folder)
