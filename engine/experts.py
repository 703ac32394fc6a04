"""The experts of one layer, in floating point or packed, behind the same call."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels import Arena, select
from engine.layout import MATRICES, Matrix, arena_layout
from engine.linear import Linear
from engine.packing import PackedMatrix, dequantize


def skipped(ids: Tensor) -> Tensor:
    """The ids of slots that are skipped: ``-1 - id``, so below 0; which expert it was is still
    known."""
    return -1 - ids


class Experts(Protocol):
    """All experts of one layer."""

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """Sum of the chosen experts' outputs, weighted.

        x [T, H]; ids [T, K] int64, below 0 for a pruned slot; weights [T, K] float32. Returns
        [T, H].
        """

    def tensors(self) -> Iterator[Tensor]:
        """The tensors it holds, for counting memory."""

    def expert_bytes(self) -> tuple[int, ...]:
        """Bytes that running each expert reads."""


@dataclass(frozen=True)
class FloatExperts:
    """``gate`` and ``up`` [E, I, H], ``down`` [E, H, I], in any floating type."""

    gate: Tensor
    up: Tensor
    down: Tensor

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """See `Experts.forward`; computed in the type of x."""
        slots = ids.flatten().clamp(min=-1)  # [T * K]
        order = slots.argsort(stable=True)
        counts = torch.bincount(slots + 1, minlength=len(self.gate) + 1).tolist()
        parts = torch.split(order, counts)[1:]  # the first part is the pruned slots
        scale = weights.flatten().to(x.dtype)
        out = torch.zeros_like(x)
        for expert, part in enumerate(parts):
            if len(part):
                token = part // ids.shape[1]
                scaled = self._expert(expert, x[token]) * scale[part, None]  # [N, H]
                out.index_add_(0, token, scaled)
        return out

    def _expert(self, expert: int, x: Tensor) -> Tensor:
        gate, up, down = (matrix[expert].to(x.dtype) for matrix in (self.gate, self.up, self.down))
        return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)

    def tensors(self) -> Iterator[Tensor]:
        """Gate, up and down."""
        yield from (self.gate, self.up, self.down)

    def expert_bytes(self) -> tuple[int, ...]:
        """The same for every expert."""
        total = sum(tensor.nbytes for tensor in self.tensors())
        return (total // len(self.gate),) * len(self.gate)


@dataclass(frozen=True)
class PackedExperts:
    """Packed experts of mixed widths, all in one arena."""

    arena: Arena

    @classmethod
    def from_matrices(cls, experts: Sequence[Mapping[Matrix, PackedMatrix]]) -> "PackedExperts":
        """Lay the matrices of all experts into a new arena."""
        first = experts[0]["gate"].shape
        bits = tuple(expert["gate"].shape.bits for expert in experts)
        layout = arena_layout(bits, first.columns, first.rows, first.group_size, first.rotated)
        matrices = [expert[name] for expert in experts for name in MATRICES]
        slots = [slot for expert_slots in layout.slots for slot in expert_slots]
        if [matrix.shape for matrix in matrices] != [slot.shape for slot in slots]:
            raise ValueError("the experts of a layer differ in more than their width")
        arena = Arena(
            layout=layout,
            codes=torch.cat([matrix.codes for matrix in matrices]),
            scales=torch.cat([matrix.scales for matrix in matrices]),
            zeros=torch.cat([matrix.zeros for matrix in matrices]),
        )
        return cls(arena)

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """See `Experts.forward`."""
        return select(x.device).experts(x, ids, weights, self.arena)

    def matrix(self, expert: int, name: Matrix) -> PackedMatrix:
        """One matrix; it shares the arena's memory."""
        return self.arena.matrix(expert, name)

    def dequantize(self) -> FloatExperts:
        """The same experts in float32."""
        gate, up, down = (
            torch.stack([dequantize(self.matrix(k, name)) for k in range(self.arena.num_experts)])
            for name in MATRICES
        )
        return FloatExperts(gate, up, down)

    def tensors(self) -> Iterator[Tensor]:
        """Codes, scales and zero points of the arena."""
        yield from (self.arena.codes, self.arena.scales, self.arena.zeros)

    def expert_bytes(self) -> tuple[int, ...]:
        """Wider experts cost more."""
        layout = self.arena.layout
        return tuple(layout.expert_bytes(k) for k in range(self.arena.num_experts))


@dataclass(frozen=True)
class SharedExpert:
    """An expert that every token passes. Its output is weighted by the sigmoid of the token's
    product with ``share`` [1, H]."""

    gate: Linear
    up: Linear
    down: Linear
    share: Tensor

    def inner(self, x: Tensor) -> Tensor:
        """The input of ``down``, [T, H] to [T, I]."""
        return F.silu(self.gate.forward(x)) * self.up.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """The weighted output, [T, H] to [T, H]."""
        return F.linear(x, self.share).sigmoid() * self.down.forward(self.inner(x))

    def tensors(self) -> Iterator[Tensor]:
        """Those of the three matrices, and the share's weights."""
        for linear in (self.gate, self.up, self.down):
            yield from linear.tensors()
        yield self.share
