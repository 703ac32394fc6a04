"""Codebooks of eight weights at a time, out of the lattice E8.

`e8p` is that of QuIP# (Tseng et al. 2024): 2^16 points of E8 + 1/4, each 8 bits for the sizes of
its coordinates, 7 for their signs, of which the eighth follows, and 1 for the side it is moved to.
So a table of 256 entries of 8 numbers decodes it. `roots` are the 256 shortest points of E8.
Points are found by looking at all of them, in the metric of the errors' couplings.
"""

from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
BLOCK = 8
_ROWS = 1024
"""Rows whose distances to all points are in memory at once, for 2^14 points at a time."""
_POINTS = 1 << 14


@dataclass(frozen=True)
class Lattice:
    """The sum of a point of each of ``books`` float32 [N, 8], each times its factor."""

    books: tuple[Floats, ...]
    factors: tuple[float, ...] = (1.0,)

    @property
    def bits(self) -> float:
        """Bits a weight, without its scale."""
        return sum(np.log2(len(book)) for book in self.books) / BLOCK

    def encode(
        self, targets: Floats, couplings: Floats, pivots: Floats, scales: Floats
    ) -> tuple[Floats, NDArray[np.int32]]:
        """See `Trellis.encode`; the numbers of the points are [R, g / 8] of the first book."""
        errors = np.zeros_like(targets)
        values = np.empty_like(targets)
        numbers = np.empty((len(targets), targets.shape[1] // BLOCK), np.int32)
        for start in range(0, targets.shape[1], BLOCK):
            block = slice(start, start + BLOCK)
            own = np.eye(BLOCK, dtype=np.float32) + np.triu(couplings[block, block], 1)
            asked = errors[:, :start] @ couplings[:start, block]
            wanted = targets[:, block] + np.linalg.solve(own.T, asked.T).T
            metric = own * np.sqrt(pivots[block])
            rest, total = wanted / scales[:, None], np.zeros_like(wanted)
            for index, (book, factor) in enumerate(zip(self.books, self.factors, strict=True)):
                chosen = nearest(rest - total, factor * book, metric)
                total += factor * book[chosen]
                if index == 0:
                    numbers[:, start // BLOCK] = chosen
            values[:, block] = total * scales[:, None]
            errors[:, block] = targets[:, block] - values[:, block]
        return values, numbers


def nearest(wanted: Floats, book: Floats, metric: Floats) -> NDArray[np.int64]:
    """For each of wanted [R, 8] the point c of ``book`` [N, 8] of least |(wanted - c) metric|."""
    points = torch.from_numpy(np.ascontiguousarray(book @ metric, np.float32))
    rows = torch.from_numpy(np.ascontiguousarray(wanted @ metric, np.float32))
    return torch.cat([_nearest(part, points) for part in rows.split(_ROWS)]).numpy()


def _nearest(rows: Tensor, points: Tensor) -> Tensor:
    found = []
    for part in points.split(_POINTS):
        scores = torch.addmm(-part.square().sum(1) / 2, rows, part.T)  # [R, N]
        found.append(scores.max(1))
    best = torch.stack([values for values, _ in found]).argmax(0)
    places = torch.stack([places for _, places in found])
    return best * _POINTS + places.gather(0, best[None])[0]


@cache
def sizes() -> Floats:
    """E8P's table: sizes of coordinates, float32 [256, 8], those of squared length up to 10, and
    29 of those of 12."""
    found = [
        np.array(sizes)
        for sizes in product((0.5, 1.5, 2.5), repeat=BLOCK)
        if sum(size * size for size in sizes) <= 12
    ]
    found.sort(key=lambda sizes: (sizes @ sizes, sizes.max(), *sizes))
    return np.array(found[:256], np.float32)


@cache
def e8p() -> Floats:
    """All of E8P's points, float32 [65536, 8]; the number of a point is its code."""
    codes = np.arange(1 << 16)
    table = sizes()[codes & 0xFF]
    signs = codes[:, None] >> (8 + np.arange(BLOCK - 1)) & 1
    # The sum of the signed sizes is even; turning one sign makes it odd.
    odd = (table.sum(1).astype(np.int64) + signs.sum(1)) & 1
    signed = table * (1 - 2 * np.concatenate([signs, odd[:, None]], axis=1))
    side = np.where(codes >> 15, -0.25, 0.25)
    return (signed + side[:, None]).astype(np.float32)


@cache
def roots() -> Floats:
    """0, the 240 shortest others, and 15 of the next, float32 [256, 8]."""
    whole = []
    for first, second in combinations(range(BLOCK), 2):
        for signs in product((-1.0, 1.0), repeat=2):
            point = np.zeros(BLOCK)
            point[[first, second]] = signs
            whole.append(point)
    halves = [np.array(p) for p in product((-0.5, 0.5), repeat=BLOCK) if sum(p) % 2 == 0]
    longer = [2 * np.eye(BLOCK)[i] * sign for i in range(BLOCK) for sign in (1, -1)][:15]
    return np.array([np.zeros(BLOCK), *whole, *halves, *longer], np.float32)
