"""How the work of a product is spread over programs: what there is to choose from.

The choice changes in which order sums are made, and so their rounding, nothing else.
"""

from dataclasses import dataclass
from typing import Literal

from engine.layout import TILE_ROWS

Product = Literal["matvec", "gate_up", "down"]

_BUSY = 1024
"""Programs that keep a large GPU busy; candidates have about as many or twice that."""

_LINES_WARPS_STRETCH: dict[Product, tuple[tuple[int, int, int], ...]] = {
    "matvec": ((1, 4, 32), (2, 4, 32), (1, 2, 64), (2, 4, 64)),
    "gate_up": ((2, 4, 32), (2, 4, 64), (4, 4, 32), (2, 2, 64)),
    "down": ((1, 4, 32), (2, 4, 32), (2, 4, 64)),
}


@dataclass(frozen=True)
class Work:
    """One product with one token; ``bits`` of the widest matrix that may come; ``rotated``: zero
    points are not read, and what comes between the experts' products is turned."""

    product: Product
    rows: int
    columns: int
    bits: int
    group_size: int
    rotated: bool = False


@dataclass(frozen=True)
class Plan:
    """``lines``: row tiles of a program; ``warps`` of 32 threads; ``splits`` of the inputs over
    programs; ``stretch``: inputs that a thread goes through before it takes their scale."""

    lines: int
    warps: int
    splits: int
    stretch: int

    @property
    def lanes(self) -> int:
        """Stretches that a program works on at once: four a warp, eight threads each."""
        return 4 * self.warps

    @property
    def options(self) -> dict[str, int]:
        """What every program takes of it, but the splits, which only some know."""
        return {
            "stretch": self.stretch,
            "lines": self.lines,
            "lanes": self.lanes,
            "num_warps": self.warps,
            "enable_fp_fusion": True,
        }


def plans(work: Work) -> tuple[Plan, ...]:
    """What may be chosen for ``work``; the first is good everywhere."""
    found = []
    for lines, warps, stretch in _LINES_WARPS_STRETCH[work.product]:
        if stretch <= work.group_size:
            stretches = work.columns // stretch
            while warps > 1 and 4 * warps > stretches:
                warps //= 2
            blocks = -(-work.rows // (TILE_ROWS * lines))
            rounds = -(-stretches // (4 * warps))
            # Gate and up have rows enough, and what comes behind them needs whole sums.
            busy = (0,) if work.product == "gate_up" else (_BUSY, 2 * _BUSY)
            found += [Plan(lines, warps, _divisor(rounds, top // blocks), stretch) for top in busy]
    return tuple(dict.fromkeys(found))


def _divisor(rounds: int, most: int) -> int:
    """The largest number up to ``most``, or 1, that divides the rounds: no split ends early."""
    return next((n for n in range(min(most, rounds), 1, -1) if rounds % n == 0), 1)
