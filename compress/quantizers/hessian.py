"""Hessians of a matrix's inputs, H = E[x x^T]: what an error in the weights costs in the output."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from engine.errors import SourceError

DAMPING = 0.01
"""Share of the mean diagonal added before inverting (GPTQ's 1 %)."""


@dataclass(frozen=True)
class Hessian:
    """A batch of Hessians ``matrix`` [..., I, I], factorized once for all widths.

    Raises SourceError when it holds anything but finite numbers.
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        if not torch.isfinite(self.matrix).all():
            raise SourceError(
                "the calibration activations are not finite numbers; the source weights are damaged"
            )

    @property
    def diagonal(self) -> Tensor:
        """E[x_i^2], [..., I]."""
        return self.matrix.diagonal(dim1=-2, dim2=-1)

    @cached_property
    def factor(self) -> Tensor:
        """U, upper triangular, with U^T U = (H + damping)^-1, [..., I, I].

        With J the reversal of the inputs, J H J = L L^T gives H = R R^T for the upper triangular
        R = J L J, and U = R^-1: one factorization, one triangular solve, and H^-1 is never
        formed. Inputs that are never active keep the damping alone: nothing is compensated into
        them.
        """
        mean = self.diagonal.mean(-1)
        damping = torch.where(mean > 0, DAMPING * mean, 1.0)[..., None, None]
        eye = torch.eye(self.matrix.shape[-1], dtype=self.matrix.dtype, device=self.matrix.device)
        lower = torch.linalg.cholesky((self.matrix + damping * eye).flip(-1, -2))
        factor: Tensor = torch.linalg.solve_triangular(lower.flip(-1, -2), eye, upper=True)
        return factor

    def error(self, delta: Tensor) -> Tensor:
        """delta H delta^T of each row of delta [..., O, I]: its expected squared output error."""
        return ((delta @ self.matrix) * delta).sum(-1)


def mean_hessian(chunks: Iterable[Tensor], width: int) -> Hessian:
    """The mean of x x^T over the rows of ``chunks`` [T, I], I = ``width``; zero for no rows."""
    total, rows = torch.zeros(width, width), 0
    for chunk in chunks:
        total.addmm_(chunk.T, chunk)
        rows += len(chunk)
    return Hessian(total / max(rows, 1))
