"""Coordinate descent on finished codes: what GPTQ decided early is decided again.

GPTQ rounds an input once, before it knows how the later ones came out. Here each group in turn
first refits its scale and zero point to its codes, by least squares under the whole Hessian, and
then moves each of its codes to the best level given all others. No step raises the error, so it
can be repeated. On the demo three sweeps took the perplexity of 1-bit experts from 2.15 to 1.84
times the 16-bit one's, of 2-bit experts from 1.042 to 1.034 times.

Notation: E = W - Q, the error to be lowered is tr(E H E^T), and G = E H is (minus half) its slope.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.quantizer_names import SWEEPS
from compress.quantizers.draft import Draft, row_chunks
from compress.quantizers.gptq import draft_gptq
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian
from compress.quantizers.kernels import kernels_for
from compress.quantizers.products import product_dtype


def quantize_refined(
    weights: Tensor,
    hessian: Hessian,
    widths: Sequence[int],
    group_size: int,
    sweeps: int = SWEEPS,
    rotated: bool = False,
) -> tuple[Codes, ...]:
    """Quantize weights [O, I] for inputs with the Hessian [I, I]: GPTQ, then ``sweeps``.

    Where ``rotated``, weights and Hessian are of rotated inputs.
    """
    drafts = draft_gptq(weights, hessian, widths, group_size, rotated)
    refine(weights, hessian, drafts, sweeps)
    return tuple(draft.finish() for draft in drafts)


def refine(
    weights: Tensor, hessian: Hessian, drafts: Sequence[Draft], sweeps: int = SWEEPS
) -> None:
    """Lower the H-weighted error of drafts of weights [O, I], in place; H is damped."""
    matrix = hessian.matrix.to(product_dtype(weights, weights.shape[1]))
    damping = hessian.damping()
    for rows in row_chunks(weights, len(drafts)):
        parts = tuple(draft.rows(rows) for draft in drafts)
        descend(weights[rows], hessian.matrix, matrix, damping, parts, sweeps)


def descend(
    weights: Tensor,
    hessian: Tensor,
    matrix: Tensor,
    damping: Tensor,
    drafts: Sequence[Draft],
    sweeps: int,
) -> None:
    """Sweep over all groups of weights [R, I]; ``matrix`` is the Hessian as products take it."""
    kernels = kernels_for(weights)
    rows, inputs = weights.shape
    size = drafts[0].group_size
    groups = [slice(start, start + size) for start in range(0, inputs, size)]
    errors = weights.new_empty(len(drafts) * rows, inputs, dtype=matrix.dtype)
    for group, block in enumerate(groups):
        for draft, error in zip(drafts, torch.split(errors, rows), strict=True):
            error[:, block] = weights[:, block] - draft.values(group)
    for _ in range(sweeps):
        for group, block in enumerate(groups):
            # H is symmetric, and its rows lie together.
            slopes = (errors @ matrix[block].T).to(weights.dtype)
            slopes += damping * errors[:, block]
            own = hessian[block, block].clone()
            own.diagonal().add_(damping)
            couplings = (own / own.diagonal()).triu(1)
            for draft, slope in zip(drafts, torch.split(slopes, rows), strict=True):
                kernels.descend(weights, own, couplings, draft, group, slope)
            errors[:, block] = slopes
