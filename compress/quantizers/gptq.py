"""GPTQ: round one input at a time and let the inputs still to come make up for the error.

The result is that of Frantar et al. (2023), with the errors compensated inside a group and across
groups at every width, computed as LDL^T feedback (see `Hessian.elimination`). One block is one
group of the stored grid, fitted when its turn comes to the weights as compensated so far. Inputs
that matter more go first, while there are still others to make up for them: groups by their mean
E[x^2], inputs within a group by their own, so that stored groups stay runs of neighbours.

What all earlier errors ask of a group is one product, [R, k] by [k, g], when the group's turn
comes; nothing is written ahead. All widths of a chunk of rows go through it together.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.quantizers.draft import Draft, row_chunks
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Elimination, Hessian
from compress.quantizers.kernels import kernels_for
from compress.quantizers.products import product_dtype


def quantize_gptq(
    weights: Tensor, hessian: Hessian, widths: Sequence[int], group_size: int
) -> tuple[Codes, ...]:
    """Quantize weights [O, I] for inputs with the Hessian [I, I], once per width."""
    drafts = draft_gptq(weights, hessian, widths, group_size)
    return tuple(draft.finish() for draft in drafts)


def draft_gptq(
    weights: Tensor,
    hessian: Hessian,
    widths: Sequence[int],
    group_size: int,
    rotated: bool = False,
) -> tuple[Draft, ...]:
    """Like `quantize_gptq`, with codes that can still be changed."""
    drafts = tuple(Draft.empty(weights, bits, group_size, rotated) for bits in widths)
    elimination = hessian.elimination(group_size)
    for rows in row_chunks(weights, len(widths)):
        parts = tuple(draft.rows(rows) for draft in drafts)
        compensate(weights[rows], elimination, parts, group_size)
    return drafts


def compensate(
    weights: Tensor, elimination: Elimination, drafts: Sequence[Draft], group_size: int
) -> None:
    """Fill drafts of weights [R, I], all in one go through the inputs."""
    order, groups, couplings, within, pivots = elimination
    kernels = kernels_for(weights)
    rows, inputs = weights.shape
    dtype = product_dtype(weights, inputs)
    errors = weights.new_empty(len(drafts) * rows, inputs, dtype=dtype)  # last input first
    for index, group in enumerate(groups):
        start = index * group_size
        columns = order[start : start + group_size]
        block = slice(inputs - start - group_size, inputs - start)
        toward = couplings[block, block.stop :].to(dtype)  # [g, k]
        # In the order of rounding, each as if those before it met their targets exactly.
        changes = (errors[:, block.stop :] @ toward.T).to(weights.dtype).flip(1) @ within[index]
        own = -within[index].triu(1)
        importance = pivots[block].flip(0).square()
        for draft, change in zip(drafts, torch.split(changes, rows), strict=True):
            kernels.compensate(weights, columns, own, importance, draft, group, change)
        errors[:, block] = changes.flip(1)
