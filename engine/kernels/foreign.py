"""4-bit matrices packed anew, from the same codes, for the products of others.

Imported where they are asked for: gemlite needs a GPU even to be imported.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.errors import UsageError
from engine.packing import PackedMatrix, group_parameters, unpack_codes

Product = Callable[[Tensor], Tensor]

_INNER_TILES = 8
"""Tiles of 16 inputs that torch's packing puts together, the most it knows."""


@dataclass(frozen=True)
class ForeignMatrix:
    """A matrix [O, I] in another's packing.

    ``multiply`` takes x [T, I] to [T, O], both of the type it was packed for; ``tensors`` are what
    it holds.
    """

    rows: int
    columns: int
    multiply: Product
    tensors: tuple[Tensor, ...]


class Backend(Protocol):
    """Somebody's products of 4-bit matrices."""

    @property
    def name(self) -> str:
        """In a few words, for people."""

    def pack(self, matrix: PackedMatrix, dtype: torch.dtype) -> ForeignMatrix:
        """The same weights, for activations of a type. May raise anything where it cannot."""


@dataclass(frozen=True)
class Gemlite:
    """gemlite's Triton kernels, what hqq recommends."""

    name = "gemlite"

    def pack(self, matrix: PackedMatrix, dtype: torch.dtype) -> ForeignMatrix:
        """Scales and zero points in the type of the activations."""
        from gemlite.core import DType, GemLiteLinearTriton  # type: ignore[import-not-found]

        kind = {torch.float16: DType.FP16, torch.bfloat16: DType.BF16}[dtype]
        shape = matrix.shape
        linear = GemLiteLinearTriton(
            shape.bits,
            group_size=shape.group_size,
            in_features=shape.columns,
            out_features=shape.rows,
            input_dtype=kind,
            output_dtype=kind,
        )
        scale, zero = (part.to(dtype) for part in group_parameters(matrix) if part is not None)
        linear.pack(unpack_codes(matrix), scale.contiguous(), zero.contiguous(), bias=None)
        held = (linear.W_q, linear.scales, linear.zeros)
        return ForeignMatrix(shape.rows, shape.columns, linear.forward, held)


@dataclass(frozen=True)
class Int4Mm:
    """torch's own product (tinygemm), which torchao packs for, too: bfloat16 only."""

    name = "torch int4"

    def pack(self, matrix: PackedMatrix, dtype: torch.dtype) -> ForeignMatrix:
        """Its formula is (q - 8) * scale + zero. Raises UsageError for another type."""
        if dtype != torch.bfloat16:
            raise UsageError("it knows no other type than bfloat16")
        shape = matrix.shape
        codes = unpack_codes(matrix)
        pairs = codes[:, ::2] << 4 | codes[:, 1::2]
        packed = torch.ops.aten._convert_weight_to_int4pack(pairs, _INNER_TILES)
        scale, zero = (part.float() for part in group_parameters(matrix) if part is not None)
        both = torch.stack([scale, (8 - zero) * scale], dim=-1).transpose(0, 1)  # [G, O, 2]
        parameters = both.contiguous().to(dtype)

        def multiply(x: Tensor) -> Tensor:
            out: Tensor = torch.ops.aten._weight_int4pack_mm(
                x, packed, shape.group_size, parameters
            )
            return out

        return ForeignMatrix(shape.rows, shape.columns, multiply, (packed, parameters))


BACKENDS: tuple[Backend, ...] = (Gemlite(), Int4Mm())
