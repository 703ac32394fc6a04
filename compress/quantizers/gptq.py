"""GPTQ: round one input at a time and let the inputs still to come make up for the error.

The formula of Frantar et al. (2023), with the errors compensated inside a group and across groups
at every width. One block is one group of the stored grid, fitted when its turn comes to the
weights as compensated so far. Inputs that matter more go first, while there are still others to
make up for them: groups by their mean E[x^2], inputs within a group by their own, so that stored
groups stay runs of neighbours.
"""

import torch
from torch import Tensor

from compress.quantizers import grid
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian
from compress.quantizers.refine import refine
from compress.quantizers.rtn import quantize_rtn


def quantize_gptq(weights: Tensor, hessian: Hessian, bits: int, group_size: int) -> Codes:
    """Quantize weights [O, I] for inputs with the Hessian [I, I]: GPTQ, then refined.

    The result is a local optimum, so a row can come out worse than rounded to nearest, rarely:
    rows are independent, and each keeps whichever has the lower H-weighted error. So the error is
    never above round-to-nearest's on the same grid search.
    """
    codes = refine(weights, hessian, compensate(weights, hessian, bits, group_size))
    return better_rows(weights, hessian, codes, quantize_rtn(weights, hessian, bits, group_size))


def quantize_plain_gptq(weights: Tensor, hessian: Hessian, bits: int, group_size: int) -> Codes:
    """GPTQ without the refinement, for comparison."""
    codes = compensate(weights, hessian, bits, group_size)
    return better_rows(weights, hessian, codes, quantize_rtn(weights, hessian, bits, group_size))


def compensate(weights: Tensor, hessian: Hessian, bits: int, group_size: int) -> Codes:
    """GPTQ alone, of weights [O, I]."""
    order, factor = hessian.elimination(group_size)
    left = weights[:, order]
    codes = torch.empty_like(left, dtype=torch.uint8)
    scales, zeros = [], []
    for start in range(0, left.shape[-1], group_size):
        block = slice(start, start + group_size)
        own = factor[block, block]
        # The loss GPTQ adds for an error e at input i is (e / U_ii)^2.
        scale, zero = grid.fit(left[:, block], own.diagonal().square().reciprocal(), bits)
        levels, failures = _round_group(left[:, block].T.contiguous(), own, scale, zero, bits)
        codes[:, block] = levels.T
        left[:, block.stop :] -= failures.T @ factor[block, block.stop :]
        scales.append(scale)
        if zero is not None:
            zeros.append(zero)
    back = order.argsort()
    groups = (order[::group_size] // group_size).argsort()
    return Codes(
        codes[:, back],
        torch.stack(scales, -1)[:, groups],
        torch.stack(zeros, -1)[:, groups] if zeros else None,
        bits,
        group_size,
    )


def _round_group(
    group: Tensor, factor: Tensor, scale: Tensor, zero: Tensor | None, bits: int
) -> tuple[Tensor, Tensor]:
    """Round a group [g, O], an input a row, one after the other.

    Returns levels and errors / U_ii, [g, O]. The group itself is used up.
    """
    levels, errors = torch.empty_like(group), torch.empty_like(group)
    rounder = grid.ColumnRounder(scale, zero, bits, group.dtype)
    for i, column in enumerate(group):
        level, value = rounder.round(column)
        error = (column - value).div_(factor[i, i])
        group[i + 1 :].addr_(factor[i, i + 1 :], error, alpha=-1)
        levels[i], errors[i] = level, error
    return levels, errors


def better_rows(weights: Tensor, hessian: Hessian, first: Codes, second: Codes) -> Codes:
    """Row by row, whichever of two quantizations of weights has the lower H-weighted error."""
    error_first = hessian.error(weights - first.dequantize())
    error_second = hessian.error(weights - second.dequantize())
    keep = (error_first <= error_second).unsqueeze(-1)  # [O, 1]
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
