"""Files written aligned and read as memory maps, beside safetensors' own reader and writer."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import CheckpointError
from engine.tensor_file import ALIGNMENT, TensorFile, write_tensors

CPU = torch.device("cpu")
DTYPES = [torch.int64, torch.float32, torch.int32, torch.bfloat16, torch.float16, torch.uint8]


def header(path: Path) -> tuple[int, dict[str, dict[str, list[int]]]]:
    """Where the data begin, and what the header says."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return 8 + length, json.loads(raw[8 : 8 + length])


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.dictionaries(
        st.text('abc.é"\\', min_size=1, max_size=9),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3)),
        max_size=6,
    )
)
def test_safetensors_reads_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, tuple[torch.dtype, list[int]]]
) -> None:
    path = tmp_path_factory.mktemp("files") / "any.safetensors"
    tensors = {
        name: torch.randint(0, 100, shape).to(dtype) for name, (dtype, shape) in shapes.items()
    }
    write_tensors(path, tensors)
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_tensors_begin_at_lines_of_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    tensors = {
        "norm.weight": torch.ones(96).bfloat16(),
        "codes": torch.arange(320, dtype=torch.int32),
        "scales": torch.ones(32).half(),
    }
    write_tensors(path, tensors)
    start, entries = header(path)
    assert start % ALIGNMENT == 0
    for name in tensors:
        assert (start + entries[name]["data_offsets"][0]) % ALIGNMENT == 0
    assert TensorFile(path, CPU).floating("norm.weight", 96).data_ptr() % ALIGNMENT == 0


def floats(path: Path, count: int) -> Tensor:
    return TensorFile(path, CPU).floating("x", count)


def test_what_is_read_is_the_file_itself_and_never_changes_it(tmp_path: Path) -> None:
    """No copy is made, except of a page of a tensor that is written to."""
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"x": torch.arange(4096.0)})
    start, _ = header(path)
    tensor = floats(path, 4096)
    with path.open("r+b") as file:  # in place, as no program of ours does
        file.seek(start)
        file.write(torch.tensor([-1.0]).numpy().tobytes())
    assert tensor[0] == -1.0
    before = path.read_bytes()
    tensor[1] = 7.0
    assert floats(path, 4096)[1] == 1.0
    assert path.read_bytes() == before


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_a_tensor_outlives_its_file(tmp_path: Path, how: str) -> None:
    path, other = tmp_path / "file.safetensors", tmp_path / "other.safetensors"
    write_tensors(path, {"x": torch.ones(100_000)})
    tensor = floats(path, 100_000)
    if how == "replaced":
        write_tensors(other, {"x": torch.zeros(100_000)})
        os.replace(other, path)
    else:
        path.unlink()
    assert tensor.sum() == 100_000


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_files_of_other_writers_may_begin_anywhere(tmp_path: Path, shift: int) -> None:
    """A text of any length may stand before the tensors; kernels need whole elements."""
    path = tmp_path / "file.safetensors"
    save_file({"x": torch.arange(64.0)}, path)
    start, entries = header(path)
    text = json.dumps(entries).encode()
    text += b" " * ((shift - len(text)) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + path.read_bytes()[start:])
    tensor = floats(path, 64)
    assert tensor.data_ptr() % 4 == 0
    assert torch.equal(tensor, torch.arange(64.0))


def test_an_empty_tensor_has_no_pages(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"x": torch.empty(0)})
    assert floats(path, 0).numel() == 0


def test_what_is_no_such_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"file.safetensors cannot be read"):
        TensorFile(path, CPU)
