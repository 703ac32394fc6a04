"""Trellis codes: a weight is what a table holds for a window of bits, and windows overlap.

A row's group is one ring of bits. Step n reads the window of ``window`` bits that begins at bit
n * ``fresh``, and its entry in the table gives ``table.shape[1]`` weights: neighbours share all
but the ``fresh`` youngest bits of it, so a few bits choose among many levels, and the encoder
looks for the best path (QTIP, Tseng et al. 2024, "bitshift trellis", with tail-biting). Without
overlap (``window`` = ``fresh``) it is a plain quantizer with a table of levels: Lloyd and Max's.

The encoder is Viterbi's algorithm for errors that are coupled: every state keeps, with its best
path, what that path's errors ask of the inputs to come. It is exact where they are not coupled.
"""

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
LEARNED_FROM = 256
"""Groups of Gaussian weights that a table is fitted to."""
_PASSES = 12
_LEARNED_GROUP = 128
_SETTLED = 48
"""After so many inputs the best path's beginning does not change any more."""


@dataclass(frozen=True)
class Trellis:
    """``table`` float32 [2^window, V]: V weights for each window of bits."""

    window: int
    fresh: int
    table: Floats

    @property
    def bits(self) -> float:
        """Bits a weight, without its scale."""
        return self.fresh / self.table.shape[1]

    def encode(
        self, targets: Floats, couplings: Floats, pivots: Floats, scales: Floats
    ) -> tuple[Floats, NDArray[np.int32]]:
        """Values float32 [R, g] near targets [R, g], and the windows [R, g / V] that give them.

        The cost of a row is the sum over k of pivots[k] * (e_k + sum over j < k of e_j
        couplings[j, k])^2, e being the targets less the values; ``scales`` [R] multiply the table.
        """
        targets, couplings, pivots, scales = (
            np.ascontiguousarray(x, np.float32) for x in (targets, couplings, pivots, scales)
        )
        width = self.table.shape[1]
        windows = np.empty((len(targets), targets.shape[1] // width), np.int32)
        shape, coupled = (self.window, self.fresh), bool(np.triu(couplings, 1).any())
        scaled = np.empty_like(self.table)
        for row, path in enumerate(windows):
            np.multiply(self.table, scales[row], out=scaled)
            given = targets[row], couplings, pivots, scaled, *shape
            start = -1
            if self.window > self.fresh:
                # A first look tells where the ring should begin; the whole way must end there, too.
                _search(*given, -1, coupled, path[: _SETTLED // width])
                start = int(path[0]) & ((1 << (self.window - self.fresh)) - 1)
            _search(*given, start, coupled, path)
        values = self.table[windows].reshape(targets.shape) * scales[:, None]
        return values, windows


@cache
def learned(window: int, fresh: int, weights: int = 1) -> Trellis:
    """A trellis whose table is fitted to unit Gaussians: encode, take means, and again."""
    random = np.random.default_rng(0)
    table = _first_table(window, fresh, weights, random)
    count = max(LEARNED_FROM, (1 << window) // 4)
    samples = random.standard_normal((count, _LEARNED_GROUP)).astype(np.float32)
    for _ in range(_PASSES):
        _, windows = independent(Trellis(window, fresh, table), samples)
        seen = np.bincount(windows.ravel(), minlength=1 << window)
        for place in range(weights):
            sums = np.bincount(windows.ravel(), samples[:, place::weights].ravel(), 1 << window)
            table[:, place] = np.where(seen > 0, sums / np.maximum(seen, 1), table[:, place])
    return Trellis(window, fresh, table)


def _first_table(window: int, fresh: int, weights: int, random: np.random.Generator) -> Floats:
    """Entries such that those one can choose among, and those that lead to one state, lie in
    different quantiles. From plain random ones the fit ends a tenth worse."""
    place = np.arange(1 << window)
    oldest = place & ((1 << fresh) - 1) if window > fresh else 0
    choice = (place >> (window - fresh)) ^ oldest
    quantile = np.vectorize(NormalDist().inv_cdf, otypes=[np.float32])
    columns = []
    for index in range(weights):
        digits = fresh // weights + (index < fresh % weights)
        parts = 1 << digits
        columns.append(quantile((choice % parts + random.random(len(place))) / parts))
        choice = choice >> digits
    return np.stack(columns, axis=1)


def mixed(fresh: int) -> Trellis:
    """QTIP's 1MAD: no table; the window of 16 bits is scrambled, its four bytes are added."""
    state = np.arange(1 << 16, dtype=np.uint64) * 34038481 + 76625530
    octets = (state & 0xFFFFFFFF).astype(np.uint32).view(np.uint8).reshape(-1, 4)
    values = (octets.sum(1, dtype=np.int64) - 510) / 147.8
    return Trellis(16, fresh, values.astype(np.float32)[:, None])


def independent(code: Trellis, targets: Floats, scale: float = 1.0) -> tuple[Floats, NDArray]:  # type: ignore[type-arg]
    """`Trellis.encode` where errors are not coupled and count alike."""
    rows, size = targets.shape
    alone, even = np.zeros((size, size), np.float32), np.ones(size, np.float32)
    return code.encode(targets, alone, even, np.full(rows, scale, np.float32))


@njit(cache=True, fastmath={"contract"})  # type: ignore[untyped-decorator]
def _search(targets, couplings, pivots, table, window, fresh, start, coupled, path):  # type: ignore[no-untyped-def]
    """Fill ``path`` with the best windows; it begins and ends in state ``start``, if not -1."""
    steps, size, width = len(path), len(targets), table.shape[1]
    states = 1 << (window - fresh)
    costs, found = np.zeros(states, np.float32), np.zeros(states, np.float32)
    # The target of each input, moved by the errors on the best path to each state.
    moved = np.empty((states, size), np.float32)
    after = np.empty((states, size), np.float32)
    came = np.empty((steps, states), np.int32)
    for state in range(states):
        if start >= 0 and state != start:
            costs[state] = 1e30
        for k in range(size):
            moved[state, k] = after[state, k] = targets[k]
    for step in range(steps):
        at = step * width
        for state in range(states):
            best, which = np.float32(np.inf), 0
            for oldest in range(1 << fresh):
                place = (state << fresh) | oldest
                before = place & (states - 1)
                cost = costs[before]
                for v in range(width):
                    missed = moved[before, at + v] - table[place, v]
                    for u in range(v):
                        error = targets[at + u] - table[place, u]
                        missed += error * couplings[at + u, at + v]
                    cost += pivots[at + v] * missed * missed
                if cost < best:
                    best, which = cost, place
            found[state] = best
            came[step, state] = which
        if coupled:
            for state in range(states):
                place = came[step, state]
                before = place & (states - 1)
                for k in range(at + width, size):
                    after[state, k] = moved[before, k]
                for v in range(width):
                    error = targets[at + v] - table[place, v]
                    for k in range(at + width, size):
                        after[state, k] += error * couplings[at + v, k]
            moved, after = after, moved
        costs, found = found, costs
    state = start
    if start < 0:
        state = 0
        for other in range(states):
            if costs[other] < costs[state]:
                state = other
    for step in range(steps - 1, -1, -1):
        path[step] = came[step, state]
        state = path[step] & (states - 1)
