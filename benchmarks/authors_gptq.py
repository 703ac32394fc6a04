"""The rounding of the paper's public code, for a row of its own in `benchmarks.quality`.

It is GPTQ, but at 3 bits and below the errors inside a block of 128 inputs are not made up for by
the inputs next to them, only by later blocks; the grid is the plain one from the smallest to the
largest weight. Written from the description of that code (Huang et al., ICLR 2025, repository
Aaronhuang-778/MC-MoE), not copied from it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.quantizers.grid import Codes, decode, encode, fit_min_max
from compress.quantizers.hessian import Hessian
from engine.packing import centre


def quantize_uncompensated(
    weights: Tensor, hessian: Hessian, widths: Sequence[int], group_size: int
) -> tuple[Codes, ...]:
    """Quantize weights [O, I] for inputs with the Hessian [I, I], once per width."""
    damped = hessian.matrix.double().clone()
    damped.diagonal().add_(hessian.damping())
    # Upper triangular U with H^-1 = U^T U, as GPTQ has it.
    factor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    return tuple(_quantize(weights.double(), factor, bits, group_size) for bits in widths)


def _quantize(weights: Tensor, factor: Tensor, bits: int, group_size: int) -> Codes:
    left = weights.clone()
    codes, scales, zeros = [], [], []
    for start in range(0, weights.shape[1], group_size):
        block = slice(start, start + group_size)
        scale, zero = fit_min_max(left[:, block], bits)
        levels = encode(left[:, block], scale, zero, bits)
        offset = torch.full_like(scale, centre(bits)) if zero is None else zero
        missed = left[:, block] - decode(levels, scale, offset)
        errors = missed / factor.diagonal()[block]
        left[:, block.stop :] -= errors @ factor[block, block.stop :]
        codes.append(levels.to(torch.uint8))
        scales.append(scale)
        zeros.append(offset)
    zero = None if bits == 1 else torch.stack(zeros, dim=1)
    return Codes(torch.cat(codes, dim=1), torch.stack(scales, dim=1), zero, bits, group_size)
