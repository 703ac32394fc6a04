"""Round to nearest: each weight goes to its closest level, on the searched or the plain grid."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.quantizers import grid
from compress.quantizers.draft import Draft, row_chunks
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian
from compress.quantizers.kernels import kernels_for


def quantize_rtn(
    weights: Tensor, hessian: Hessian, widths: Sequence[int], group_size: int
) -> tuple[Codes, ...]:
    """Round weights [O, I] on the grid searched with the Hessian's diagonal."""
    drafts = tuple(Draft.empty(weights, bits, group_size) for bits in widths)
    kernels = kernels_for(weights)
    alone = weights.new_zeros(group_size, group_size)  # no input makes up for another
    for rows in row_chunks(weights, 1):
        part = weights[rows]
        for group in range(weights.shape[1] // group_size):
            columns = torch.arange(group_size, device=weights.device) + group * group_size
            importance = hessian.diagonal[columns].to(weights.dtype)
            for draft in drafts:
                changes = part.new_zeros(len(part), group_size)
                kernels.compensate(
                    part, columns, alone, importance, draft.rows(rows), group, changes
                )
    return tuple(draft.finish() for draft in drafts)


def quantize_min_max(
    weights: Tensor, hessian: Hessian, widths: Sequence[int], group_size: int
) -> tuple[Codes, ...]:
    """Round weights [O, I] on the plain min-max grid; the Hessian is not looked at."""
    return tuple(_min_max(weights, bits, group_size) for bits in widths)


def _min_max(weights: Tensor, bits: int, group_size: int) -> Codes:
    parts = []
    for rows in row_chunks(weights, 1):
        grouped = grid.split_groups(weights[rows], group_size)  # [R, G, g]
        scale, zero = grid.fit_min_max(grouped, bits)
        levels = grid.encode(grouped, scale, zero, bits).flatten(-2)  # [R, I]
        parts.append(Codes(levels.to(torch.uint8), scale, zero, bits, group_size))
    return Codes(
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scale for part in parts]),
        None if bits == 1 else torch.cat([part.zero for part in parts if part.zero is not None]),
        bits,
        group_size,
    )
