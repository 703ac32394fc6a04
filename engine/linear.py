"""Dense layers: 16- or 32-bit, or packed at a few bits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from engine.kernels import select
from engine.kernels.foreign import ForeignMatrix
from engine.packing import PackedMatrix


class Linear(Protocol):
    """A product with a fixed matrix [O, I], without a bias."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x [..., I] to [..., O], in the type of x."""

    def tensors(self) -> Iterator[Tensor]:
        """The tensors it holds, for counting memory."""


@dataclass(frozen=True)
class FloatLinear:
    """``weight`` [O, I] in a floating type; 16-bit weights may meet a float32 x."""

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x [..., I] to [..., O]."""
        if self.weight.dtype == x.dtype:
            return F.linear(x, self.weight)
        out = select(x.device).half_matmul(x.flatten(0, -2), self.weight)  # [T, O]
        return out.view(*x.shape[:-1], len(self.weight))

    def tensors(self) -> Iterator[Tensor]:
        """The weight."""
        yield self.weight


@dataclass(frozen=True)
class PackedLinear:
    """A packed matrix, multiplied without unpacking the whole of it."""

    matrix: PackedMatrix

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x [..., I] to [..., O]."""
        shape = self.matrix.shape
        out = select(x.device).matmul(x.reshape(-1, shape.columns), self.matrix)  # [T, O]
        return out.view(*x.shape[:-1], shape.rows)

    def tensors(self) -> Iterator[Tensor]:
        """Codes, scales and zero points."""
        yield from (self.matrix.codes, self.matrix.scales, self.matrix.zeros)


@dataclass(frozen=True)
class ForeignLinear:
    """A matrix in another library's packing; x is of the type that it was packed for."""

    matrix: ForeignMatrix

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x [..., I] to [..., O]."""
        out = self.matrix.multiply(x.reshape(-1, self.matrix.columns))  # [T, O]
        return out.view(*x.shape[:-1], self.matrix.rows)

    def tensors(self) -> Iterator[Tensor]:
        """What the packing holds."""
        yield from self.matrix.tensors
