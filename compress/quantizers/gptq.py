"""GPTQ: round one input at a time and let the inputs still to come make up for the error.

The paper's formula (Frantar et al., 2023), with the errors compensated inside a group and across
groups at every width; one block is one group of the stored grid, fitted when its turn comes to
the weights as compensated so far. Many matrices run side by side: a batch dimension costs nothing.
"""

import torch
from torch import Tensor

from compress.quantizers import grid
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian
from compress.quantizers.rtn import quantize_rtn


def quantize_gptq(weights: Tensor, hessian: Hessian, bits: int, group_size: int) -> Codes:
    """Quantize weights [..., O, I] for inputs with the Hessian [..., I, I].

    GPTQ is greedy, so a row can come out worse than rounded to nearest, rarely: rows are
    independent, and each keeps whichever has the lower H-weighted error. So the error is never
    above round-to-nearest's on the same grid search.
    """
    compensated = compensate(weights, hessian.factor, bits, group_size)
    nearest = quantize_rtn(weights, hessian, bits, group_size)
    return better_rows(weights, hessian, compensated, nearest)


def compensate(weights: Tensor, factor: Tensor, bits: int, group_size: int) -> Codes:
    """Plain GPTQ of weights [..., O, I] with factor [..., I, I], group after group."""
    left = weights.clone()
    codes, scales, zeros = [], [], []
    for start in range(0, left.shape[-1], group_size):
        block = slice(start, start + group_size)
        own = factor[..., block, block]
        group = left[..., block]  # [..., O, g], a view: compensated in place
        # The loss GPTQ adds for an error e at input i is (e / U_ii)^2.
        importance = own.diagonal(dim1=-2, dim2=-1).square().reciprocal().unsqueeze(-2)
        scale, zero = grid.fit(group, importance, bits)
        levels, errors = _round_group(group, own, scale, zero, bits)
        left[..., start + group_size :] -= errors @ factor[..., block, start + group_size :]
        codes.append(levels)
        scales.append(scale)
        if zero is not None:
            zeros.append(zero)
    return Codes(
        torch.cat(codes, -1),
        torch.stack(scales, -1),
        torch.stack(zeros, -1) if zeros else None,
        bits,
        group_size,
    )


def _round_group(
    group: Tensor, factor: Tensor, scale: Tensor, zero: Tensor | None, bits: int
) -> tuple[Tensor, Tensor]:
    """Round a group [..., O, g] input by input; returns codes and errors / U_ii, [..., O, g]."""
    codes = torch.empty_like(group, dtype=torch.uint8)
    errors = torch.empty_like(group)
    for i in range(group.shape[-1]):
        column = group[..., i : i + 1]  # [..., O, 1]
        level = grid.encode(column, scale, zero, bits)
        error = (column - grid.decode(level, scale, zero)) / factor[..., i, i, None, None]
        group[..., i + 1 :] -= error * factor[..., i, None, i + 1 :]
        codes[..., i] = level[..., 0].to(torch.uint8)
        errors[..., i] = error[..., 0]
    return codes, errors


def better_rows(weights: Tensor, hessian: Hessian, first: Codes, second: Codes) -> Codes:
    """Row by row, whichever of two quantizations of weights has the lower H-weighted error."""
    error_first = hessian.error(weights - first.dequantize())
    error_second = hessian.error(weights - second.dequantize())
    keep = (error_first <= error_second).unsqueeze(-1)  # [..., O, 1]
    zero = None
    if first.zero is not None and second.zero is not None:
        zero = torch.where(keep, first.zero, second.zero)
    return Codes(
        torch.where(keep, first.codes, second.codes),
        torch.where(keep, first.scale, second.scale),
        zero,
        first.bits,
        first.group_size,
    )
