"""Bars and sparklines as text: pure functions, so that a test can read them."""

from collections.abc import Sequence

from textual.content import Content

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_PARTS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
TRACK = "$panel"


def bar(fraction: float, width: int, style: str) -> Content:
    """A bar of ``width`` cells, filled to an eighth of a cell."""
    eighths = round(min(max(fraction, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    filled = "█" * full + _PARTS[rest]
    return Content.assemble((filled.ljust(width), f"{style} on {TRACK}"))


def stacked_bar(parts: Sequence[tuple[float, str, str]], width: int) -> Content:
    """Parts side by side, each ``(fraction, glyph, style)``; the rest of the width is track.

    Whatever is not nothing shows at least one cell.
    """
    cells = [max(1, round(fraction * width)) if fraction > 0 else 0 for fraction, _, _ in parts]
    while sum(cells) > width:
        cells[cells.index(max(cells))] -= 1
    pieces = [
        (glyph * count, f"{style} on {TRACK}")
        for count, (_, glyph, style) in zip(cells, parts, strict=True)
    ]
    return Content.assemble(*pieces, (" " * (width - sum(cells)), f"on {TRACK}"))


def sparkline(values: Sequence[float], width: int, height: int = 2) -> list[str]:
    """The last ``width`` values on a fixed scale of 0 to 1, the newest at the right.

    Returns ``height`` lines, the top one first. A value above 0 shows at least an eighth.
    """
    steps = [
        max(1, round(min(value, 1.0) * height * 8)) if value > 0 else 0 for value in values[-width:]
    ]
    lines = []
    for row in reversed(range(height)):
        line = "".join(_EIGHTHS[min(max(step - 8 * row, 0), 8)] for step in steps)
        lines.append(line.rjust(width))
    return lines


def spread(left: Content, right: Content, width: int) -> Content:
    """Two texts at both ends of a line; where there is no room, the left one is cut."""
    room = max(0, width - right.cell_length - 1)
    fitting = left.truncate(room, ellipsis=True)
    return Content.assemble(fitting, " " * (room - fitting.cell_length + 1), right)
