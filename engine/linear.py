"""Dense layers: 16- or 32-bit, or packed at a few bits, and what models do to their outputs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from engine.kernels import select
from engine.kernels.foreign import ForeignMatrix
from engine.packing import PackedMatrix


class Linear(Protocol):
    """A product with a fixed matrix [O, I]."""

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


@dataclass(frozen=True)
class AdjustedLinear:
    """A product whose outputs get, in this order and as far as given: a ``bias`` [O]; an RMS norm
    of every len(norm) of them, with weights ``norm``; a bound on their size, ``clip``."""

    product: Linear
    bias: Tensor | None = None
    norm: Tensor | None = None
    eps: float = 0.0
    clip: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x [..., I] to [..., O]."""
        out = self.product.forward(x)
        if self.bias is not None:
            out = out + self.bias
        if self.norm is not None:
            rows = out.view(*out.shape[:-1], -1, len(self.norm))  # [..., O / N, N]
            out = F.rms_norm(rows, self.norm.shape, self.norm, self.eps).flatten(-2)
        return out if self.clip is None else out.clamp(-self.clip, self.clip)

    def tensors(self) -> Iterator[Tensor]:
        """The product's, the bias, the norm's weights."""
        yield from self.product.tensors()
        yield from (tensor for tensor in (self.bias, self.norm) if tensor is not None)


def product_of(linear: Linear) -> Linear:
    """The product alone, whatever is done to its outputs."""
    return linear.product if isinstance(linear, AdjustedLinear) else linear


def with_product(linear: Linear, product: Linear) -> Linear:
    """Another product in the place of a layer's own, its outputs treated alike."""
    return replace(linear, product=product) if isinstance(linear, AdjustedLinear) else product
