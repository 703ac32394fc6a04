"""A grid of shares as a picture: an SVG with a number in each cell, drawn with nothing else."""

from collections.abc import Iterator
from html import escape

from compress.evaluation.needle import RecallGrid

_CELL = (84, 44)
_LEFT, _TOP, _BOTTOM, _RIGHT = 96, 56, 64, 24
_NONE, _HALF, _ALL = (202, 86, 44), (247, 240, 226), (44, 106, 158)
"""Colours of 0, one half and 1: orange, pale, blue, which the colour-blind tell apart."""
_DARK_FROM = 0.35
"""Cells that are further than this from one half have white numbers."""


def draw(grid: RecallGrid, title: str) -> str:
    """The picture of ``grid``: lengths from left to right, depths from top to bottom."""
    width = _LEFT + len(grid.lengths) * _CELL[0] + _RIGHT
    height = _TOP + len(grid.depths) * _CELL[1] + _BOTTOM
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="sans-serif" font-size="14">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            _text(width / 2, 30, title, size=16),
            *_cells(grid),
            *_axes(grid, width, height),
            "</svg>\n",
        ]
    )


def _cells(grid: RecallGrid) -> Iterator[str]:
    wide, high = _CELL
    for column, shares in enumerate(grid.shares):
        for row, share in enumerate(shares):
            x, y = _LEFT + column * wide, _TOP + row * high
            yield (
                f'<rect x="{x}" y="{y}" width="{wide}" height="{high}" fill="{_colour(share)}" '
                'stroke="white"/>'
            )
            ink = "white" if abs(share - 0.5) > _DARK_FROM else "black"
            yield _text(x + wide / 2, y + high / 2 + 5, f"{share:.0%}", ink)


def _axes(grid: RecallGrid, width: int, height: int) -> Iterator[str]:
    wide, high = _CELL
    for column, length in enumerate(grid.lengths):
        yield _text(_LEFT + (column + 0.5) * wide, height - _BOTTOM + 22, str(length))
    for row, depth in enumerate(grid.depths):
        yield _text(_LEFT - 28, _TOP + (row + 0.5) * high + 5, f"{depth:.0%}")
    yield _text((_LEFT + width - _RIGHT) / 2, height - 16, "length of the prompt in tokens")
    middle = (_TOP + height - _BOTTOM) / 2
    turned = f' transform="rotate(-90 22 {middle:g})"'
    yield _text(22, middle, "depth of the fact", extra=turned)


def _text(
    x: float, y: float, text: str, ink: str = "black", size: int = 14, extra: str = ""
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="middle" font-size="{size}" fill="{ink}"{extra}>'
        f"{escape(text)}</text>"
    )


def _colour(share: float) -> str:
    """Between the colours of 0, one half and 1."""
    low, high = (_NONE, _HALF) if share < 0.5 else (_HALF, _ALL)
    part = 2 * share if share < 0.5 else 2 * share - 1
    mixed = (round(a + part * (b - a)) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)
