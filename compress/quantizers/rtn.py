"""Round to nearest: each weight goes to its closest level, on the searched or the plain grid."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.quantizers import grid
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian


def quantize_rtn(
    weights: Tensor, hessian: Hessian, widths: Sequence[int], group_size: int
) -> tuple[Codes, ...]:
    """Round weights [O, I] on the grid searched with the Hessian's diagonal."""
    grouped = grid.split_groups(weights, group_size)  # [O, G, g]
    importance = grid.split_groups(hessian.diagonal, group_size)  # [G, g]
    return tuple(_round(grouped, grid.fit(grouped, importance, bits), bits) for bits in widths)


def quantize_min_max(
    weights: Tensor, hessian: Hessian, widths: Sequence[int], group_size: int
) -> tuple[Codes, ...]:
    """Round weights [O, I] on the plain min-max grid; the Hessian is not looked at."""
    grouped = grid.split_groups(weights, group_size)  # [O, G, g]
    return tuple(_round(grouped, grid.fit_min_max(grouped, bits), bits) for bits in widths)


def _round(grouped: Tensor, fitted: tuple[Tensor, Tensor | None], bits: int) -> Codes:
    """Nearest codes of grouped [O, G, g]."""
    scale, zero = fitted
    levels = grid.encode(grouped, scale, zero, bits).flatten(-2)  # [O, I]
    return Codes(levels.to(torch.uint8), scale, zero, bits, grouped.shape[-1])
