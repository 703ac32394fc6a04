"""Hessians of layer inputs: H = E[x x^T], what an error in each weight costs in the output."""

import torch
from torch import Tensor

from engine.errors import SourceError

DAMPING = 0.01
"""Share of the mean diagonal added before inverting (GPTQ's 1 %)."""


def mean_hessian(inputs: Tensor, chunk: int = 16_384) -> Tensor:
    """E[x x^T] over tokens: inputs [T, I] to [I, I] in the inputs' dtype; zero for no tokens."""
    width = inputs.shape[-1]
    total = inputs.new_zeros(width, width)
    for part in torch.split(inputs, chunk):
        total.addmm_(part.T, part)
    return total / max(len(inputs), 1)


def matrix_error(delta: Tensor, hessian: Tensor) -> Tensor:
    """Per row, delta H delta^T: expected squared output error of delta [..., O, I], [..., O]."""
    return ((delta @ hessian.to(delta.dtype)) * delta).sum(-1)


def inverse_factor(hessian: Tensor) -> Tensor:
    """U, upper triangular, with U^T U = (H + damping)^-1, for hessians [..., I, I].

    With J the reversal of the inputs, J H J = L L^T gives H = R R^T for the upper triangular
    R = J L J, and U = R^-1: one factorization and one triangular solve, and H^-1 is never formed.
    Inputs that are never active get the damping alone, so nothing is compensated into them.
    """
    if not torch.isfinite(hessian).all():
        raise SourceError(
            "the calibration activations are not finite numbers; the source weights are damaged"
        )
    size = hessian.shape[-1]
    mean = hessian.diagonal(dim1=-2, dim2=-1).mean(-1)
    damping = torch.where(mean > 0, DAMPING * mean, 1.0)[..., None, None]
    eye = torch.eye(size, dtype=hessian.dtype, device=hessian.device)
    lower = torch.linalg.cholesky((hessian + damping * eye).flip(-1, -2))
    factor: Tensor = torch.linalg.solve_triangular(lower.flip(-1, -2), eye, upper=True)
    return factor
