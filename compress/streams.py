"""The residual streams of the calibration windows, carried from layer to layer.

Two of them: one through the original layers, on which experts are judged, and one through the
layers as quantized so far, on which Hessians and pruning thresholds are taken, because that is
what the finished model will see.

At 8x7B one is 4.3 GB in float32 for the paper's 128 windows of 2048 tokens, so a stream may lie on
the device, in host memory or in a mapped file; it is read and written a few windows at a time, in
float32 on the device that computes. After each layer it is saved, for a run that is stopped.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from compress.projection import stream_bytes
from engine.attention import AttentionStatistics, Rotation
from engine.checkpoint import sync
from engine.errors import CheckpointError
from engine.model import Layer

WINDOW_TOKENS = 8192
"""Tokens that go through attention at once."""

Placement = Literal["device", "host", "disk"]


@dataclass(frozen=True)
class Stream:
    """Residual streams ``tensor`` [N, T, H] of N windows, wherever they lie.

    What is read comes in float32 on ``device``.
    """

    tensor: Tensor
    device: torch.device

    def parts(self) -> Iterator[slice]:
        """A few windows at a time."""
        windows, tokens, _ = self.tensor.shape
        step = max(1, WINDOW_TOKENS // tokens)
        for start in range(0, windows, step):
            yield slice(start, min(start + step, windows))

    def first(self, windows: int) -> "Stream":
        """The first windows; what is written there is written here."""
        return Stream(self.tensor[:windows], self.device)

    def read(self, part: slice) -> Tensor:
        """Windows [n, T, H]; a copy."""
        return self.tensor[part].to(self.device, torch.float32, copy=True)

    def write(self, part: slice, values: Tensor) -> None:
        """Replace windows by values [n, T, H]."""
        self.tensor[part] = values.to(self.tensor.device, self.tensor.dtype)

    def rows(self, tokens: Tensor) -> Tensor:
        """The tokens with these indices [t], counted through all windows: [t, H]."""
        flat = self.tensor.flatten(0, 1)
        return flat[tokens.to(flat.device)].to(self.device, torch.float32)

    def add_rows(self, tokens: Tensor, values: Tensor) -> None:
        """Add values [t, H] to the tokens with these indices [t], each named once."""
        flat = self.tensor.flatten(0, 1)
        index = tokens.to(flat.device)
        flat[index] += values.to(flat.device, flat.dtype)

    def add(self, other: "Stream") -> float:
        """Add another of this shape; returns the squared Frobenius norm of the sum."""
        square = torch.zeros((), dtype=torch.float64, device=self.device)
        for part in self.parts():
            total = self.read(part) + other.read(part)
            square += total.square().sum(dtype=torch.float64)
            self.write(part, total)
        return float(square)


@dataclass(frozen=True)
class StreamStore:
    """Keeps one stream from layer to layer, and on the disk what a stopped run goes on from."""

    folder: Path
    name: str
    shape: tuple[int, int, int]
    placement: Placement
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """float32, or bfloat16 for a large stream."""
        windows, tokens, width = self.shape
        is_large = stream_bytes(windows * tokens, width) < windows * tokens * width * 4
        return torch.bfloat16 if is_large else torch.float32

    def begin(self, tokens: Tensor, embedding: Tensor) -> Stream:
        """The stream before the first layer: the embeddings [V, H] of windows [N, T]."""
        stream = self._new(self._path(0, ".tmp"))
        for part in stream.parts():
            stream.write(part, embedding[tokens[part]])
        return stream

    def load(self, layers: int) -> Stream:
        """The stream behind this many layers, as `commit` left it. Raises CheckpointError."""
        path = self._path(layers)
        try:
            if path.stat().st_size != self._bytes:
                raise CheckpointError(f"{path} is cut short; begin anew with --restart")
            if self.placement == "disk":
                return self._mapped(path)
            stream = self._new(path)
            with path.open("rb") as file:
                for part in stream.parts():
                    windows = torch.empty(stream.tensor[part].shape, dtype=self.dtype)
                    file.readinto(_bytes_of(windows))
                    stream.tensor[part] = windows.to(self.device)
            return stream
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); begin anew with --restart"
            ) from None

    def after(self, stream: Stream, layers: int) -> Stream:
        """Where the stream goes behind ``layers`` layers: the same memory, or, on a disk, another
        file, so that the one before stays whole until this one is."""
        if self.placement != "disk":
            return stream
        return self._new(self._path(layers, ".tmp"))

    def scratch(self) -> Stream:
        """A stream of zeros, to add up a layer's output in."""
        stream = self._new(self.folder / f"{self.name}-scratch")
        stream.tensor.zero_()
        return stream

    def commit(self, stream: Stream, layers: int) -> None:
        """Have the stream behind ``layers`` layers on the disk when this returns."""
        partial = self._path(layers, ".tmp")
        if self.placement != "disk":
            with partial.open("wb") as file:
                for part in stream.parts():
                    file.write(_bytes_of(stream.tensor[part].cpu().contiguous()))
        sync(partial)
        partial.rename(self._path(layers))
        sync(self.folder)

    def drop_all_but(self, layers: int) -> None:
        """Remove what is saved of other layers, and what was left half-written."""
        for path in self.folder.glob(f"{self.name}-*"):
            if path != self._path(layers):
                path.unlink()

    def has(self, layers: int) -> bool:
        """Whether the stream behind this many layers is saved."""
        return self._path(layers).is_file()

    @property
    def _bytes(self) -> int:
        windows, tokens, width = self.shape
        return windows * tokens * width * self.dtype.itemsize

    def _new(self, path: Path) -> Stream:
        if self.placement == "disk":
            path.unlink(missing_ok=True)
            with path.open("wb") as file:
                # Writing to a mapped file on a full disk would kill the process.
                os.posix_fallocate(file.fileno(), 0, self._bytes)
            return self._mapped(path)
        where = self.device if self.placement == "device" else "cpu"
        return Stream(torch.empty(self.shape, dtype=self.dtype, device=where), self.device)

    def _mapped(self, path: Path) -> Stream:
        count = self._bytes // self.dtype.itemsize
        flat = torch.from_file(str(path), shared=True, size=count, dtype=self.dtype)
        return Stream(flat.view(self.shape), self.device)

    def _path(self, layers: int, suffix: str = "") -> Path:
        return self.folder / f"{self.name}-{layers:02d}.stream{suffix}"


def attend(layer: Layer, stream: Stream, into: Stream, rope: Rotation) -> None:
    """Move the stream past the layer's attention."""
    for part in stream.parts():
        into.write(part, layer.attend(stream.read(part), rope))


def attend_with_statistics(
    layer: Layer, stream: Stream, into: Stream, rope: Rotation
) -> Iterator[tuple[Tensor, AttentionStatistics]]:
    """Like `attend`, yielding each part [n, T, H] after attention and what its maps say."""
    for part in stream.parts():
        moved, statistics = layer.attend_with_statistics(stream.read(part), rope)
        into.write(part, moved)
        yield moved, statistics


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor in host memory, not a copy."""
    return tensor.flatten().view(torch.uint8).numpy().data
