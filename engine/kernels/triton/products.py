"""The packed products on CUDA: decoding's kernels for few tokens, prefill's for many."""

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels import Arena
from engine.kernels.reference import ReferenceKernels
from engine.kernels.triton.decode import experts_decode, half_matvec, packed_matvec
from engine.kernels.triton.prefill import experts_prefill, packed_matmul
from engine.kernels.triton.rotation import turn
from engine.layout import ArenaLayout, PackedShape
from engine.packing import PackedMatrix

FEW_TOKENS = 4
"""From here on, tensor cores that dequantize a tile once for 16 tokens beat one token at a time."""


class TritonKernels:
    """The packed products in Triton, for tensors on CUDA; sums are float32.

    Many tokens in float32, as while compressing, have no use of tensor cores: whole matrices are
    dequantized for cuBLAS then.
    """

    def __init__(self) -> None:
        self._exact = ReferenceKernels()

    def matmul(self, x: Tensor, matrix: PackedMatrix) -> Tensor:
        """Multiply x [T, I] with a packed matrix [O, I] to [T, O], in the type of x."""
        if len(x) >= FEW_TOKENS and x.dtype == torch.float32:
            return self._exact.matmul(x, matrix)
        inputs = _turned(x.contiguous(), matrix.shape)
        if len(x) >= FEW_TOKENS:
            return packed_matmul(inputs, matrix)
        out = x.new_empty(len(x), matrix.shape.rows)
        packed_matvec(inputs, matrix, out)
        return out

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor, arena: Arena) -> Tensor:
        """Sum of the chosen experts' outputs; see `Kernels.experts`."""
        if len(x) >= FEW_TOKENS and x.dtype == torch.float32:
            return self._exact.experts(x, ids, weights, arena)
        inputs = _turned(x.contiguous(), arena.layout)
        ids, weights = ids.contiguous(), weights.float().contiguous()
        if len(x) >= FEW_TOKENS:
            return experts_prefill(inputs, ids, weights, arena)
        out = torch.empty_like(inputs)
        experts_decode(inputs, ids, weights, arena, out)
        return out

    def half_matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply x [T, I] with a 16-bit weight [O, I]; see `Kernels.half_matmul`."""
        if len(x) >= FEW_TOKENS:
            return F.linear(x, weight.to(x.dtype))
        out = x.new_empty(len(x), len(weight))
        half_matvec(x.contiguous(), weight, out)
        return out

    def warm(self) -> None:
        """Nothing: programs are compiled for the sizes of a model, by `engine.decoding.warming`."""


def _turned(x: Tensor, weights: PackedShape | ArenaLayout) -> Tensor:
    """Inputs [T, I] as these weights take them."""
    if not weights.rotated:
        return x
    turned = torch.empty_like(x)
    turn(x, weights.group_size, turned)
    return turned
