"""Plain torch on any device: dequantize, then multiply. Slow, short, and easy to believe."""

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels import Arena
from engine.layout import MATRICES
from engine.packing import PackedMatrix, dequantize


class ReferenceKernels:
    """The products in terms of `engine.packing.dequantize`."""

    def matmul(self, x: Tensor, matrix: PackedMatrix) -> Tensor:
        """Multiply x [T, I] with a packed matrix [O, I] to [T, O]."""
        return F.linear(x, dequantize(matrix).to(x.dtype))

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor, arena: Arena) -> Tensor:
        """Run each expert on the tokens that chose it; see `Kernels.experts`."""
        out = torch.zeros_like(x)
        for expert in range(arena.num_experts):
            token, slot = torch.where(ids == expert)  # [N], [N]
            if not len(token):
                continue
            part = x[token]  # [N, H]
            gate, up, down = (arena.matrix(expert, name) for name in MATRICES)
            inner = F.silu(self.matmul(part, gate)) * self.matmul(part, up)  # [N, I]
            scaled = self.matmul(inner, down) * weights[token, slot, None].to(x.dtype)
            out.index_add_(0, token, scaled)
        return out

    def half_matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply x [T, I] with a 16-bit weight [O, I]."""
        return F.linear(x, weight.to(x.dtype))

    def warm(self) -> None:
        """Nothing to compile."""
