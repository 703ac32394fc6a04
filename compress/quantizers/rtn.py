"""Round to nearest: each weight goes to its closest level, on the searched or the plain grid."""

import torch
from torch import Tensor

from compress.quantizers import grid
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian


def quantize_rtn(weights: Tensor, hessian: Hessian, bits: int, group_size: int) -> Codes:
    """Round weights [O, I] on the grid searched with the Hessian's diagonal."""
    grouped = grid.split_groups(weights, group_size)  # [O, G, g]
    importance = grid.split_groups(hessian.diagonal, group_size)  # [G, g]
    return _round(grouped, grid.fit(grouped, importance, bits), bits)


def quantize_min_max(weights: Tensor, hessian: Hessian, bits: int, group_size: int) -> Codes:
    """Round weights [O, I] on the plain min-max grid; the Hessian is not looked at."""
    grouped = grid.split_groups(weights, group_size)  # [O, G, g]
    return _round(grouped, grid.fit_min_max(grouped, bits), bits)


def _round(grouped: Tensor, fitted: tuple[Tensor, Tensor | None], bits: int) -> Codes:
    """Nearest codes of grouped [O, G, g]."""
    scale, zero = fitted
    levels = grid.encode(grouped, scale, zero, bits).flatten(-2)  # [O, I]
    return Codes(levels.to(torch.uint8), scale, zero, bits, grouped.shape[-1])
