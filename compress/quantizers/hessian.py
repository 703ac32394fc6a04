"""Hessians of a matrix's inputs, H = E[x x^T]: what an error in the weights costs in the output."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from compress.quantizers import products
from compress.rounding_memory import PERMUTED_ROWS
from engine.errors import SourceError

DAMPING = 0.01
"""Share of the mean diagonal added before factorizing (GPTQ's 1 %)."""

_ATTEMPTS = 4


class Elimination(NamedTuple):
    """How GPTQ goes through the inputs.

    ``order`` int64 [I]: the inputs, first to be rounded first. ``groups`` of the stored grid stay
    together, in this order. Behind that all is back to front, so that one Cholesky factor L of the
    damped Hessian is all there is to compute: row and column k belong to input order[I - 1 - k].
    ``couplings`` [I, I] holds L_jk / L_kk at [k, j], j > k: what the error W - Q at j moves the
    target of k by. ``pivots`` [I] are L_kk: a target missed by e costs (e L_kk)^2.

    ``within`` [G, g, g] is for each group, in the order of rounding, the inverse of 1 and its own
    couplings, unit upper triangular: it makes targets that assume W for the inputs before them in
    the group into targets that assume these at their targets, and says how a target missed by e
    moves the later ones.
    """

    order: Tensor
    groups: tuple[int, ...]
    couplings: Tensor
    within: Tensor
    pivots: Tensor


@dataclass(frozen=True)
class Hessian:
    """``matrix`` [I, I]. Raises SourceError when it comes from anything but finite numbers."""

    matrix: Tensor

    def __post_init__(self) -> None:
        # |h_ij| <= sqrt(h_ii h_jj): a finite diagonal says it all.
        if not torch.isfinite(self.diagonal).all():
            raise SourceError(
                "the calibration activations are not finite numbers; the source weights are damaged"
            )

    @property
    def diagonal(self) -> Tensor:
        """E[x_i^2], [I]."""
        return self.matrix.diagonal()

    def damping(self) -> Tensor:
        """What is added to the diagonal, []: 1 where no input was ever active."""
        mean = self.diagonal.mean()
        return torch.where(mean > 0, DAMPING * mean, 1.0)

    def elimination(self, group_size: int) -> Elimination:
        """The order of rounding, and the couplings in it, from one factorization in place.

        GPTQ's compensation by the inverse Hessian is the same as LDL^T feedback (Chee et al. 2023,
        "QuIP", Theorem 6), which needs no inverse. Inputs that are never active keep the damping
        alone: nothing is compensated into them. Where float32 cannot factorize the Hessian, the
        damping is taken ten times as large until it can. Raises SourceError when it never can.
        """
        order = self._important_first(group_size)
        damping = self.damping()
        lower = torch.empty_like(self.matrix)
        for _ in range(_ATTEMPTS):
            self._permute_into(lower, order.flip(0), damping)
            failed = torch.empty(0, dtype=torch.int32, device=lower.device)
            # Column-major, as LAPACK wants it, and given as the place for the result, too.
            columns = lower.mT
            torch.linalg.cholesky_ex(columns, out=(columns, failed))
            if not failed.any():
                pivots = lower.diagonal().clone()
                groups = tuple((order[::group_size] // group_size).tolist())
                couplings = lower.div_(pivots.unsqueeze(-1))
                within = _within(couplings, group_size)
                return Elimination(order, groups, couplings, within, pivots)
            damping = 10 * damping
        raise SourceError(
            "the calibration activations are too extreme to quantize with; use more text"
        )

    def _permute_into(self, permuted: Tensor, order: Tensor, damping: Tensor) -> None:
        """Write the damped Hessian with its inputs in this order, a few rows at a time."""
        for start in range(0, len(order), PERMUTED_ROWS):
            rows = order[start : start + PERMUTED_ROWS]
            permuted[start : start + len(rows)] = self.matrix[rows][:, order]
        permuted.diagonal().add_(damping)

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


def _within(couplings: Tensor, group_size: int) -> Tensor:
    size = len(couplings) // group_size
    blocks = couplings.view(size, group_size, size, group_size).diagonal(dim1=0, dim2=2)
    forward = blocks.permute(2, 1, 0).flip(0, 1, 2)  # [G, g, g]: rounded first, first
    eye = torch.eye(group_size, dtype=couplings.dtype, device=couplings.device)
    inverse: Tensor = torch.linalg.solve_triangular(forward.triu(), eye, upper=True)
    return inverse


class HessianSum:
    """The sum of x x^T over rows that come in chunks, for ``width`` inputs on ``device``."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._total = torch.zeros(width, width, device=device)
        self._rows = 0

    def add(self, rows: Tensor) -> None:
        """Count rows [t, I] float32, on the same device."""
        products.add_gram(self._total, rows)
        self._rows += len(rows)

    def mean(self) -> Hessian:
        """The mean over all rows, zero for none. The sum is used up: its memory is the result's.

        Raises SourceError when the rows were not finite numbers.
        """
        total = self._total
        del self._total
        products.mirror(total)
        return Hessian(total.div_(max(self._rows, 1)))
