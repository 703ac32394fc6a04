"""How the work of a product is spread over programs: by rule."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from engine.layout import TILE_ROWS

Product = Literal["matvec", "gate_up", "down"]

_BLOCKS = 1024
"""Programs that keep a large GPU busy."""


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


@cache
def plan_for(product: Product, rows: int, columns: int, bits: int, group_size: int) -> Plan:
    """The plan of a product."""
    lines = 2 if product == "gate_up" else 1
    stretch = 32
    stretches = columns // stretch
    warps = 4
    while warps > 1 and 4 * warps > stretches:
        warps //= 2
    if product == "gate_up":
        return Plan(lines, warps, 1, stretch)
    blocks = -(-rows // (TILE_ROWS * lines))
    splits = 1
    while 2 * splits * blocks <= _BLOCKS and 2 * splits * 4 * warps <= stretches:
        splits *= 2
    return Plan(lines, warps, splits, stretch)
