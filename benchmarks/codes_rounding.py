"""Rounds matrices with any code: LDL^T feedback between groups, then sweeps, as `compress` does.

Notation of `compress.quantizers`: E = W - Q, the error is tr(E H E^T). With H = C D C^T, C unit
upper triangular, a row's error is the sum over k of D_k (e_k + sum over j < k of e_j C_jk)^2, so
inputs can be coded from the first to the last, each making up for those before it. A group's own
part of C is given to the code, which minds it as well as it can.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.quantizers.hessian import DAMPING

Floats = NDArray[np.float32]
SWEEPS = 3
_TRIED = (0.9, 1.0, 1.1)
_TRIED_FIRST = np.linspace(0.3, 1.8, 16)


class Code(Protocol):
    """`Trellis` or `Lattice`."""

    @property
    def bits(self) -> float:
        """Bits a weight, without its scale."""

    def encode(
        self, targets: Floats, couplings: Floats, pivots: Floats, scales: Floats
    ) -> tuple[Floats, NDArray[np.int32]]:
        """See `Trellis.encode`."""


@dataclass(frozen=True)
class Rounder:
    """A code, and what its scale is for weights of unit size: the best for Gaussian ones."""

    code: Code
    spread: float
    TRIES: ClassVar[int] = len(_TRIED)

    @classmethod
    def of(cls, code: Code) -> "Rounder":
        """Finds the scale."""
        random = np.random.default_rng(1)
        targets = random.standard_normal((48, 128)).astype(np.float32)
        alone, even = _alone(128)
        errors = [
            np.square(targets - code.encode(targets, alone, even, np.full(48, s, np.float32))[0])
            for s in _TRIED_FIRST
        ]
        return cls(code, float(_TRIED_FIRST[np.argmin([error.mean() for error in errors])]))

    def groups(self, targets: Floats, couplings: Floats, pivots: Floats) -> tuple[Floats, Floats]:
        """Values [R, g] and scales [R] for groups [R, g], the best of a few scales each."""
        size = np.sqrt(np.square(targets).mean(1)) * self.spread
        best = np.full(len(targets), np.inf, np.float32)
        values, scales = np.zeros_like(targets), np.zeros_like(size)
        for factor in _TRIED:
            scale = half(size * factor)
            tried, _ = self.code.encode(targets, couplings, pivots, scale)
            refitted = half(scale * _slope(targets, tried, couplings, pivots))
            tried *= (refitted / scale)[:, None]
            cost = _cost(targets - tried, couplings, pivots)
            better = cost < best
            values[better], scales[better] = tried[better], refitted[better]
            best = np.minimum(best, cost)
        return values, scales

    def matrix(self, weights: Floats, hessian: Floats, size: int, sweeps: int = SWEEPS) -> Floats:
        """What weights [O, I] become, for inputs with the Hessian [I, I], in groups of ``size``."""
        inputs = len(hessian)
        damped = hessian.astype(np.float64)
        damped += DAMPING * np.diag(damped).mean() * np.eye(inputs)
        energy = np.diag(damped).reshape(-1, size).mean(1)
        groups = [np.arange(g * size, (g + 1) * size) for g in np.argsort(-energy, kind="stable")]
        order = np.concatenate(groups)
        couplings, pivots = factors(damped[np.ix_(order, order)])
        values, scales = np.zeros_like(weights), {}
        for turn, group in enumerate(groups):
            block = slice(turn * size, (turn + 1) * size)
            before = order[: block.start]
            asked = (weights - values)[:, before] @ couplings[: block.start, block]
            own = couplings[block, block]
            targets = weights[:, group] + np.linalg.solve(own.T, asked.T).T.astype(np.float32)
            values[:, group], scales[turn] = self.groups(targets, own, pivots[block])
        for _ in range(sweeps):
            for turn, group in enumerate(groups):
                self._again(weights, values, damped, group, scales[turn])
        return values

    def _again(
        self,
        weights: Floats,
        values: Floats,
        hessian: NDArray[np.float64],
        group: NDArray[np.int64],
        scale: Floats,
    ) -> None:
        """Code a group anew, all others known; rows that get worse stay as they are."""
        own = hessian[np.ix_(group, group)]
        errors = weights - values
        errors[:, group] = 0
        asked = np.linalg.solve(own, (errors @ hessian[:, group]).T).T
        targets = (weights[:, group] + asked).astype(np.float32)
        couplings, pivots = factors(own)
        now = values[:, group]
        factor = _slope(targets, now, couplings, pivots)
        tried, _ = self.code.encode(targets, couplings, pivots, half(scale * factor))
        refitted = half(scale * factor * _slope(targets, tried, couplings, pivots))
        tried *= (refitted / half(scale * factor))[:, None]
        better = _cost(targets - tried, couplings, pivots) < _cost(targets - now, couplings, pivots)
        values[np.ix_(better, group)] = tried[better]
        scale[better] = refitted[better]


def factors(hessian: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """C [I, I] and D [I] of C D C^T."""
    upper = np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
    roots = np.diag(upper)
    return (upper / roots).astype(np.float32), np.square(roots).astype(np.float32)


def half(scale: Floats) -> Floats:
    """Rounded as scales are stored, never to zero."""
    return np.maximum(scale, 2.0**-24).astype(np.float16).astype(np.float32)


def relative_error(weights: Floats, values: Floats, hessian: Floats) -> float:
    """tr(E H E^T) / tr(W H W^T)."""
    error = weights - values
    return float(np.sum((error @ hessian) * error) / np.sum((weights @ hessian) * weights))


def _alone(size: int) -> tuple[Floats, Floats]:
    return np.eye(size, dtype=np.float32), np.ones(size, np.float32)


def _cost(errors: Floats, couplings: Floats, pivots: Floats) -> Floats:
    return np.square(errors @ couplings) @ pivots


def _slope(targets: Floats, values: Floats, couplings: Floats, pivots: Floats) -> Floats:
    """What values [R, g] are to be multiplied by to be nearest to the targets."""
    seen, wanted = values @ couplings, targets @ couplings
    own = np.maximum(np.square(seen) @ pivots, 1e-30)
    return np.maximum((seen * wanted) @ pivots / own, 0.1)
