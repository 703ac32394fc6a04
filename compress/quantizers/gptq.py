"""GPTQ: round one input at a time and let the inputs still to come make up for the error.

The formula of Frantar et al. (2023), with the errors compensated inside a group and across groups
at every width. One block is one group of the stored grid, fitted when its turn comes to the
weights as compensated so far. Inputs that matter more go first, while there are still others to
make up for them: groups by their mean E[x^2], inputs within a group by their own, so that stored
groups stay runs of neighbours.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.quantizers import grid
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian


def quantize_gptq(
    weights: Tensor, hessian: Hessian, widths: Sequence[int], group_size: int
) -> tuple[Codes, ...]:
    """Quantize weights [O, I] for inputs with the Hessian [I, I], once per width."""
    return tuple(compensate(weights, hessian, bits, group_size) for bits in widths)


def compensate(weights: Tensor, hessian: Hessian, bits: int, group_size: int) -> Codes:
    """GPTQ of weights [O, I] at one width."""
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
