"""Codes while they are being made."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.quantizers.grid import Codes, decode
from compress.rounding_memory import CHUNK_ELEMENTS
from engine.packing import centre


@dataclass(frozen=True)
class Draft:
    """Codes uint8 [O, I], and their scales and zeros [O, G]: values of float16, but in the type of
    the weights. At 1 bit, and where ``rotated``, zeros are the middle of the codes and stay so."""

    codes: Tensor
    scale: Tensor
    zero: Tensor
    bits: int
    rotated: bool = False

    @classmethod
    def empty(cls, weights: Tensor, bits: int, group_size: int, rotated: bool = False) -> "Draft":
        """Room for the codes of weights [O, I], on their device."""
        rows, inputs = weights.shape
        scale = weights.new_empty(rows, inputs // group_size)
        zero = torch.full_like(scale, centre(bits))
        codes = torch.empty_like(weights, dtype=torch.uint8)
        return cls(codes, scale, zero, bits, rotated)

    def rows(self, which: slice) -> "Draft":
        """Some of the rows; what is written there is written here."""
        codes, scale, zero = self.codes[which], self.scale[which], self.zero[which]
        return Draft(codes, scale, zero, self.bits, self.rotated)

    @property
    def centred(self) -> bool:
        """Whether its zeros are the middle of the codes."""
        return self.bits == 1 or self.rotated

    @property
    def group_size(self) -> int:
        """Inputs that share a scale."""
        return self.codes.shape[1] // self.scale.shape[1]

    def values(self, group: int) -> Tensor:
        """What the codes of a group stand for, [O, g] in the type of the grid."""
        inputs = slice(group * self.group_size, (group + 1) * self.group_size)
        levels = self.codes[:, inputs].to(self.scale.dtype)
        return decode(levels, self.scale[:, group], self.zero[:, group])

    def finish(self) -> Codes:
        """The codes."""
        zero = None if self.centred else self.zero.half()
        scale = self.scale.half()
        return Codes(self.codes, scale, zero, self.bits, self.group_size, self.rotated)


def row_chunks(weights: Tensor, widths: int) -> Iterator[slice]:
    """Runs of rows of weights [O, I] whose errors at that many widths fit in the chunk."""
    rows, inputs = weights.shape
    step = max(1, CHUNK_ELEMENTS // (inputs * widths))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))
