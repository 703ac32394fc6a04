"""Packed low-bit products: one interface, several implementations that agree."""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Protocol

import torch
from torch import Tensor

from engine.layout import MATRICES, ArenaLayout, Matrix
from engine.packing import PackedArrays, PackedMatrix, packed_arrays


@dataclass(frozen=True)
class Arena:
    """All packed experts of one layer: three flat buffers and where everything lies in them.

    ``codes`` int32, ``scales`` and ``zeros`` float16, as `engine.layout.ArenaLayout` says.
    """

    layout: ArenaLayout
    codes: Tensor
    scales: Tensor
    zeros: Tensor

    @property
    def num_experts(self) -> int:
        """Experts in the arena."""
        return len(self.layout.slots)

    @cached_property
    def table(self) -> Tensor:
        """Width in bits and first code, scale and zero of each matrix, int64 [E, 3, 4].

        The first zero is -1 where the arena is rotated and has none.
        """
        rotated = self.layout.rotated
        rows = [
            [
                (slot.shape.bits, slot.codes, slot.scales, -1 if rotated else slot.zeros)
                for slot in expert
            ]
            for expert in self.layout.slots
        ]
        return torch.tensor(rows, dtype=torch.int64, device=self.codes.device)

    @cached_property
    def arrays(self) -> PackedArrays:
        """The buffers for loops outside torch, on a CPU."""
        return packed_arrays(self.codes, self.scales, self.zeros)

    def matrix(self, expert: int, name: Matrix) -> PackedMatrix:
        """One matrix; it shares the arena's memory."""
        slot = self.layout.slots[expert][MATRICES.index(name)]
        shape = slot.shape
        return PackedMatrix(
            shape=shape,
            codes=self.codes[slot.codes : slot.codes + shape.code_words],
            scales=self.scales[slot.scales : slot.scales + shape.scales],
            zeros=self.zeros[slot.zeros : slot.zeros + shape.zeros],
        )


class Kernels(Protocol):
    """What every implementation offers. All tensors lie on one device; x is contiguous."""

    def matmul(self, x: Tensor, matrix: PackedMatrix) -> Tensor:
        """Multiply x [T, I] with a packed matrix [O, I] to [T, O], in the type of x."""

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor, arena: Arena) -> Tensor:
        """Sum over the slots k of weights[t, k] * expert ids[t, k] (x[t]).

        x [T, H]; ids [T, K] int64, below 0 for a pruned slot, which costs nothing; weights [T, K]
        float32. An expert is down(silu(gate(x)) * up(x)). Returns [T, H] in the type of x.
        """

    def half_matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply x [T, I] with a weight [O, I] that is stored in 16 bits, whatever x is in."""

    def warm(self) -> None:
        """Do now what the first call would otherwise wait for: compile, for any model."""


def select(device: torch.device) -> Kernels:
    """The implementation for a device."""
    return _select(device.type)[0]


def describe(device: torch.device) -> str:
    """Which implementation a device gets; where it is the slow one, why."""
    return _select(device.type)[1]


@cache
def _select(kind: str) -> tuple[Kernels, str]:
    # Imported when needed: numba and triton are slow to load, and this file is also read by what
    # runs nothing.
    if kind == "cpu":
        from engine.kernels.cpu import CpuKernels

        return CpuKernels(), "numba"
    missing = "made for CUDA"
    if kind == "cuda":
        try:
            from engine.kernels.triton.products import TritonKernels

            return TritonKernels(), "triton"
        except ImportError as error:
            missing = str(error)
    from engine.kernels.reference import ReferenceKernels

    return ReferenceKernels(), f"plain torch, slow, for want of triton ({missing})"
