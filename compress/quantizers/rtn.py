"""Round to nearest: each weight goes to its closest level, on the searched or the plain grid."""

import torch
from torch import Tensor

from compress.quantizers import grid
from compress.quantizers.grid import Codes


def quantize_rtn(
    weights: Tensor, hessian: Tensor, bits: int, group_size: int, *, search: bool = True
) -> Codes:
    """Round weights [..., O, I] to nearest; hessian [..., I, I] weighs the grid search.

    ``search=False`` takes the plain min-max grid and ignores the Hessian.
    """
    grouped = grid.split_groups(weights, group_size)  # [..., O, G, g]
    if search:
        diagonal = hessian.diagonal(dim1=-2, dim2=-1).to(weights.dtype)
        importance = grid.split_groups(diagonal, group_size).unsqueeze(-3)  # [..., 1, G, g]
        scale, zero = grid.fit(grouped, importance, bits)
    else:
        scale, zero = grid.fit_min_max(grouped, bits)
    levels = grid.encode(grouped, scale, zero, bits).flatten(-2)  # [..., O, I]
    return Codes(levels.to(torch.uint8), scale, zero, bits, group_size)
