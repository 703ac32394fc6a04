"""Hessians of a matrix's inputs, H = E[x x^T]: what an error in the weights costs in the output."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from engine.errors import SourceError

DAMPING = 0.01
"""Share of the mean diagonal added before inverting (GPTQ's 1 %)."""


class Elimination(NamedTuple):
    """How GPTQ goes through the inputs: ``order`` int64 [I], in which groups stay together, and
    ``factor`` U [I, I], upper triangular, U^T U = (H + damping)^-1 with the inputs so ordered.
    """

    order: Tensor
    factor: Tensor


@dataclass(frozen=True)
class Hessian:
    """``matrix`` [I, I]. Raises SourceError when it holds anything but finite numbers."""

    matrix: Tensor
    _eliminations: dict[int, Elimination] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not torch.isfinite(self.matrix).all():
            raise SourceError(
                "the calibration activations are not finite numbers; the source weights are damaged"
            )

    @property
    def diagonal(self) -> Tensor:
        """E[x_i^2], [I]."""
        return self.matrix.diagonal()

    @cached_property
    def damped(self) -> Tensor:
        """H and the damping on its diagonal, [I, I]; positive definite."""
        mean = self.diagonal.mean()
        damping = torch.where(mean > 0, DAMPING * mean, 1.0)
        return self.matrix + damping * torch.eye(
            len(self.matrix), dtype=self.matrix.dtype, device=self.matrix.device
        )

    def elimination(self, group_size: int) -> "Elimination":
        """The order of rounding and the factor of the inverse in it; made once for all widths.

        With J the reversal of the inputs, J H J = L L^T gives H = R R^T for the upper triangular
        R = J L J, and U = R^-1: one factorization, one triangular solve, and H^-1 is never
        formed. Inputs that are never active keep the damping alone: nothing is compensated into
        them.
        """
        if group_size not in self._eliminations:
            order = self._important_first(group_size)
            lower = torch.linalg.cholesky(self.damped[order][:, order].flip(-1, -2))
            eye = torch.eye(len(order), dtype=lower.dtype, device=lower.device)
            factor = torch.linalg.solve_triangular(lower.flip(-1, -2), eye, upper=True)
            self._eliminations[group_size] = Elimination(order, factor)
        return self._eliminations[group_size]

    def _important_first(self, group_size: int) -> Tensor:
        """Groups by their mean E[x^2], and the inputs of a group by their own, int64 [I]."""
        energy = self.diagonal.view(-1, group_size)  # [G, g]
        within = energy.argsort(dim=-1, descending=True, stable=True)
        groups = energy.mean(-1).argsort(descending=True, stable=True)
        starts = group_size * torch.arange(len(energy), device=energy.device)
        return (within + starts[:, None])[groups].flatten()

    def error(self, delta: Tensor) -> Tensor:
        """delta H delta^T of each row of delta [..., I]: its expected squared output error."""
        return ((delta @ self.matrix) * delta).sum(-1)


class HessianSum:
    """The sum of x x^T over rows that come in chunks, for ``width`` inputs on ``device``."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._total = torch.zeros(width, width, device=device)
        self._rows = 0

    def add(self, rows: Tensor) -> None:
        """Count rows [t, I] float32, on the same device."""
        self._total.addmm_(rows.T, rows)
        self._rows += len(rows)

    def mean(self) -> Hessian:
        """The mean over all rows, zero for none. The sum is used up: its memory is the result's.

        Raises SourceError when the rows were not finite numbers.
        """
        total = self._total
        del self._total
        return Hessian(total.div_(max(self._rows, 1)))


def mean_hessian(chunks: Iterable[Tensor], width: int) -> Hessian:
    """The mean of x x^T over the rows of ``chunks`` [T, I], I = ``width``; zero for no rows."""
    total = HessianSum(width, torch.device("cpu"))
    for chunk in chunks:
        total.add(chunk)
    return total.mean()
