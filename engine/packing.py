"""Codes to bit-planes and back; where each bit lies is written in `engine.layout`."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import UsageError
from engine.hadamard import rotate
from engine.layout import TILE_ROWS, PackedShape, planes


def centre(bits: int) -> float:
    """The zero point where none is stored, the middle of the codes: at 1 bit codes 0 and 1 stand
    for -scale/2 and +scale/2."""
    return ((1 << bits) - 1) / 2


PackedArrays = tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[np.uint16]]
"""Codes, scales and zeros as numpy arrays of bits."""


def packed_arrays(codes: Tensor, scales: Tensor, zeros: Tensor) -> PackedArrays:
    """View int32 codes and float16 scales and zeros, all on a CPU, without a copy.

    Where no zeros are stored, the scales stand in for them: an address that can be read. A plain
    tuple: numba's cache on disk cannot be read once a class that it names has moved.
    """
    return (
        codes.numpy().view(np.uint32),
        scales.numpy().view(np.uint16),
        (zeros if len(zeros) else scales).numpy().view(np.uint16),
    )


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix W [O, I] = (q - zero) * scale, in the tile layout of `engine.layout`.

    ``codes`` int32 [shape.code_words], ``scales`` float16 [shape.scales], ``zeros`` float16
    [shape.zeros] (empty at 1 bit). Where the shape is rotated, W multiplies rotated inputs.
    """

    shape: PackedShape
    codes: Tensor
    scales: Tensor
    zeros: Tensor

    @cached_property
    def arrays(self) -> PackedArrays:
        """The buffers for loops outside torch, on a CPU."""
        return packed_arrays(self.codes, self.scales, self.zeros)


def pack(
    codes: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    bits: int,
    group_size: int,
    rotated: bool = False,
) -> PackedMatrix:
    """Pack ``codes`` uint8 [O, I] with ``scale`` and ``zero`` [O, G], rounded to float16.

    ``zero`` is None exactly where it is the middle of the codes: at 1 bit, and where the matrix is
    ``rotated``. Raises UsageError when the codes do not fit the width or the inputs do not divide
    into groups.
    """
    rows, columns = codes.shape
    shape = PackedShape(rows, columns, bits, group_size, rotated)
    if (zero is None) != (shape.zeros == 0):
        raise UsageError("a zero point per group is stored exactly at 2 bits and more, unrotated")
    if codes.numel() and int(codes.max()) >= 1 << bits:
        raise UsageError(f"code {int(codes.max())} does not fit into {bits} bits")
    parts = []
    shift = 0
    for width in planes(bits):
        parts.append(_pack_plane((codes >> shift) & ((1 << width) - 1), width, shape))
        shift += width
    return PackedMatrix(
        shape=shape,
        codes=torch.cat(parts),
        scales=_to_tiles(scale.to(torch.float16), shape).flatten(),
        zeros=_no_zeros(codes) if zero is None else _to_tiles(zero.half(), shape).flatten(),
    )


def unpack_codes(matrix: PackedMatrix) -> Tensor:
    """The codes, uint8 [O, I]."""
    shape = matrix.shape
    codes = torch.zeros(shape.rows, shape.columns, dtype=torch.uint8, device=matrix.codes.device)
    shift = start = 0
    for width in planes(shape.bits):
        size = shape.tiles * shape.columns * width
        plane = matrix.codes[start : start + size]
        codes |= _unpack_plane(plane, width, shape).bitwise_left_shift_(shift)
        shift += width
        start += size
    return codes


def group_parameters(matrix: PackedMatrix) -> tuple[Tensor, Tensor | None]:
    """Scale and zero point of each group, float16 [O, G]; None where no zero points are stored."""
    scale = _from_tiles(matrix.scales, matrix.shape)
    return scale, _from_tiles(matrix.zeros, matrix.shape) if matrix.shape.zeros else None


def dequantize(matrix: PackedMatrix) -> Tensor:
    """The weights (q - zero) * scale, float32 [O, I], of inputs that are not rotated."""
    shape = matrix.shape
    codes = unpack_codes(matrix).float().view(shape.rows, shape.groups, shape.group_size)
    scale, zero = group_parameters(matrix)  # [O, G]
    offset = centre(shape.bits) if zero is None else zero.float()[..., None]
    weights = ((codes - offset) * scale.float()[..., None]).view(shape.rows, shape.columns)
    return rotate(weights, shape.group_size) if shape.rotated else weights


def _pack_plane(values: Tensor, width: int, shape: PackedShape) -> Tensor:
    """Codes uint8 [O, I] of ``width`` bits to the words of a plane."""
    fields = values.reshape(shape.rows, -1, 8 // width)
    octets = fields[..., 0].contiguous()  # [O, I * width / 8]
    for place in range(1, fields.shape[-1]):
        octets |= fields[..., place] << (place * width)
    # Four bytes are a word, the first the lowest: every machine that torch knows is little-endian.
    return _to_tiles(octets.view(torch.int32), shape).flatten()


def _unpack_plane(plane: Tensor, width: int, shape: PackedShape) -> Tensor:
    words = _from_tiles(plane, shape).clone(memory_format=torch.contiguous_format)
    octets = words.view(torch.uint8)  # [O, I * width / 8]
    fields = octets.new_empty(*octets.shape, 8 // width)
    for place in range(fields.shape[-1]):
        fields[..., place] = (octets >> (place * width)) & ((1 << width) - 1)
    return fields.view(shape.rows, shape.columns)


def _to_tiles(values: Tensor, shape: PackedShape) -> Tensor:
    """[O, N] to [tiles, N, 32], padded with zeros."""
    padded = F.pad(values, (0, 0, 0, shape.tiles * TILE_ROWS - shape.rows))
    return padded.view(shape.tiles, TILE_ROWS, -1).transpose(1, 2).contiguous()


def _from_tiles(flat: Tensor, shape: PackedShape) -> Tensor:
    """[tiles * N * 32] to [O, N]."""
    tiles = flat.view(shape.tiles, -1, TILE_ROWS).transpose(1, 2)
    return tiles.reshape(shape.tiles * TILE_ROWS, -1)[: shape.rows]


def _no_zeros(like: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.float16, device=like.device)
