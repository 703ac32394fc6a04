"""Safetensors files of compressed checkpoints: written aligned, read as memory maps.

On a CPU a tensor that was read *is* its part of the file: its pages come from the system's page
cache, which other processes share, and a second load of the same model costs next to nothing. The
map is private, so what is written into such a tensor never reaches the file. What happens to the
file while the model runs:

- It is replaced or deleted: files of ours are only ever renamed over or unlinked, and the map keeps
  the old contents, and their room on the disk, until the model is unloaded.
- It is cut short in place, by another program or a vanished network drive: touching the pages that
  are gone ends the process with SIGBUS. The engine is a process of its own for such cases; the
  screen says that it died and starts another.

To a GPU the bytes go straight from the map, through buffers that its copying engine can read.
"""

import json
import mmap
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import CheckpointError
from engine.kernels import Arena
from engine.layout import PackedShape, arena_layout
from engine.packing import PackedMatrix

ALIGNMENT = 64
"""Bytes to whose multiple the first tensor begins in a file: a vector of a CPU and a line of its
cache. Packed tensors are multiples of it too. With maps that began anywhere, products of packed
experts took 2 to 7 % longer."""

STAGING_BYTES = 32 << 20
"""Size of each of the two buffers between a file and a GPU."""

_DTYPE_NAMES = {
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What a file calls a type, the widest first: the order in which tensors lie in it."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file whose tensors begin at a multiple of 64 bytes. Raises OSError."""
    order = list(_DTYPE_NAMES)
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    header, end = {}, 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        kind, shape = _DTYPE_NAMES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)  # the format allows spaces behind the header
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(_bytes(tensors[name].cpu().contiguous()).numpy().data)


class TensorFile:
    """One safetensors file, each tensor checked against what the layout expects of it."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Maps the file. Raises CheckpointError."""
        self._path = path
        self._staging = Staging(device) if device.type == "cuda" else None
        self._device = device
        try:
            self._file: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from None

    def packed(self, prefix: str, shape: PackedShape) -> PackedMatrix:
        """The packed matrix stored under ``prefix``. Raises CheckpointError."""
        return PackedMatrix(
            shape=shape,
            codes=self._read(f"{prefix}.codes", (shape.code_words,), (torch.int32,)),
            scales=self._read(f"{prefix}.scales", (shape.scales,), (torch.float16,)),
            zeros=self._read(f"{prefix}.zeros", (shape.zeros,), (torch.float16,)),
        )

    def arena(
        self, config: ModelConfig, bits: tuple[int, ...], group_size: int, rotated: bool
    ) -> Arena:
        """All experts, at these widths. Raises CheckpointError."""
        hidden, inner = config.hidden_size, config.intermediate_size
        layout = arena_layout(bits, hidden, inner, group_size, rotated)
        return Arena(
            layout=layout,
            codes=self._read("experts.codes", (layout.code_words,), (torch.int32,)),
            scales=self._read("experts.scales", (layout.scales,), (torch.float16,)),
            zeros=self._read("experts.zeros", (layout.zeros,), (torch.float16,)),
        )

    def floating(self, name: str, *shape: int) -> Tensor:
        """A tensor that is not quantized, in the type it is stored in. Raises CheckpointError."""
        return self._read(name, shape, (torch.bfloat16, torch.float16, torch.float32))

    def _read(self, name: str, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> Tensor:
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except SafetensorError:
            raise CheckpointError(
                f"{self._path} has no tensor {name}; compress or pull the model again"
            ) from None
        if tensor.shape != shape or tensor.dtype not in dtypes:
            raise CheckpointError(
                f"{self._path}: {name} is {tensor.dtype} {tuple(tensor.shape)} instead of "
                f"{dtypes[0]} {shape}; compress or pull the model again"
            )
        if self._staging is not None:
            return self._staging.copy(tensor)
        if tensor.data_ptr() % tensor.element_size():
            return tensor.clone()  # a file of another writer: kernels read whole elements only
        _touch(tensor)
        return tensor


class Staging:
    """Copies to a CUDA device through two pinned buffers: one is filled while the other is read.

    From memory that is not pinned the driver copies in pieces of its own, and nothing overlaps.
    """

    def __init__(self, device: torch.device) -> None:
        self._buffers = cycle(
            [
                (
                    torch.empty(STAGING_BYTES, dtype=torch.uint8, pin_memory=True),
                    torch.cuda.Event(),  # type: ignore[no-untyped-call]
                )
                for _ in range(2)
            ]
        )
        self._device = device

    def copy(self, source: Tensor) -> Tensor:
        """``source``, contiguous, on the device; ready for what its stream runs next."""
        target = torch.empty_like(source, device=self._device)
        parts = (torch.split(_bytes(tensor), STAGING_BYTES) for tensor in (source, target))
        stream = torch.cuda.current_stream(self._device)
        for here, there in zip(*parts, strict=True):
            buffer, free = next(self._buffers)
            free.synchronize()  # at once, if nothing was ever copied from this buffer
            there.copy_(buffer[: len(here)].copy_(here), non_blocking=True)
            free.record(stream)
        return target


def _bytes(tensor: Tensor) -> Tensor:
    """A contiguous tensor as the bytes it is made of, uint8 [N]."""
    return tensor.flatten().view(torch.uint8)


def _touch(tensor: Tensor) -> None:
    """Bring the pages of a mapped tensor into memory now, so that no token waits for them.

    Reading a byte of each is as fast as reading the file, and asks nothing of the system: Linux
    alone can be told to, and takes such advice for a megabyte at a time.
    """
    if tensor.numel():
        _bytes(tensor)[:: mmap.PAGESIZE].amax()
