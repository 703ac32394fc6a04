"""Codes while they are being made."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.quantizers.grid import Codes, decode
from compress.rounding_memory import CHUNK_ELEMENTS


@dataclass(frozen=True)
class Draft:
    """Codes uint8 [O, I], and their scales and zeros [O, G]: values of float16, but in the type of
    the weights; zero is 1/2 at 1 bit."""

    codes: Tensor
    scale: Tensor
    zero: Tensor
    bits: int

    @classmethod
    def empty(cls, weights: Tensor, bits: int, group_size: int) -> "Draft":
        """Room for the codes of weights [O, I], on their device."""
        rows, inputs = weights.shape
        grid = weights.new_empty(rows, inputs // group_size)
        return cls(torch.empty_like(weights, dtype=torch.uint8), grid, torch.empty_like(grid), bits)

    def rows(self, which: slice) -> "Draft":
        """Some of the rows; what is written there is written here."""
        return Draft(self.codes[which], self.scale[which], self.zero[which], self.bits)

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
        zero = None if self.bits == 1 else self.zero.half()
        return Codes(self.codes, self.scale.half(), zero, self.bits, self.group_size)


def row_chunks(weights: Tensor, widths: int) -> Iterator[slice]:
    """Runs of rows of weights [O, I] whose errors at that many widths fit in the chunk."""
    rows, inputs = weights.shape
    step = max(1, CHUNK_ELEMENTS // (inputs * widths))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))
