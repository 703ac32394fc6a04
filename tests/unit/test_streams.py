"""Streams lie on a device, in memory or in a file: the same numbers, and after a crash too."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from compress import projection
from compress.streams import Placement, Stream, StreamStore
from engine.errors import CheckpointError

CPU = torch.device("cpu")
SHAPE = (5, 7, 8)
PLACEMENTS: tuple[Placement, ...] = ("device", "host", "disk")


def store_in(folder: Path, placement: Placement) -> StreamStore:
    return StreamStore(folder, "full", SHAPE, placement, CPU)


def begun(store: StreamStore, seed: int = 0) -> tuple[Stream, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 30, SHAPE[:2], generator=generator)
    embedding = torch.randn(30, SHAPE[2], generator=generator)
    return store.begin(tokens, embedding), embedding[tokens]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_stream_is_what_was_written(tmp_path: Path, placement: Placement) -> None:
    store = store_in(tmp_path, placement)
    stream, expected = begun(store)
    flat = expected.flatten(0, 1).clone()
    rows = torch.tensor([3, 0, 34])
    assert torch.equal(stream.rows(rows), flat[rows])
    stream.add_rows(rows, torch.ones(3, SHAPE[2]))
    flat[rows] += 1
    assert torch.equal(stream.read(slice(0, 5)), flat.view(SHAPE))
    other = store.scratch()
    assert not other.tensor.any()
    other.write(slice(1, 3), torch.full((2, *SHAPE[1:]), 2.0))
    square = stream.add(other)
    total = flat.view(SHAPE).clone()
    total[1:3] += 2
    assert torch.equal(stream.read(slice(0, 5)), total)
    assert square == pytest.approx(float(total.double().square().sum()))


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("again", PLACEMENTS)
def test_what_is_committed_is_there_after_a_crash(
    tmp_path: Path, placement: Placement, again: Placement
) -> None:
    store = store_in(tmp_path, placement)
    stream, expected = begun(store)
    first = store.after(stream, 1)
    first.write(slice(0, 5), expected + 1)
    store.commit(first, 1)
    second = store.after(first, 2)
    second.write(slice(0, 5), expected + 2)  # and the power fails
    store = store_in(tmp_path, again)
    store.drop_all_but(1)
    found = store.load(1)
    assert torch.equal(found.read(slice(0, 5)), expected + 1)
    assert [path.name for path in tmp_path.iterdir()] == ["full-01.stream"]


def test_a_saved_stream_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    store = store_in(tmp_path, "host")
    stream, _ = begun(store)
    store.commit(stream, 1)
    path = tmp_path / "full-01.stream"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="--restart"):
        store.load(1)
    with pytest.raises(CheckpointError, match="--restart"):
        store.load(2)


def test_large_streams_are_kept_in_16_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(projection, "FLOAT32_STREAM_BYTES", 5 * 7 * 8 * 4 - 1)
    store = store_in(tmp_path, "host")
    stream, expected = begun(store)
    assert stream.tensor.dtype == torch.bfloat16
    assert torch.equal(stream.read(slice(0, 5)), expected.bfloat16().float())
    store.commit(stream, 1)
    assert (tmp_path / "full-01.stream").stat().st_size == 5 * 7 * 8 * 2
    assert torch.equal(store.load(1).tensor, stream.tensor)
