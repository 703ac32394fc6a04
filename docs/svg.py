"""A picture as SVG text, drawn with nothing else: readable on light paper and on dark.

Colours are classes, and a picture brings both sets of them; cells keep their colours and carry a
mark, so that nothing is said by colour alone. The same figures give the same bytes.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

Ink = Literal["ink", "quiet", "on-pale", "on-dark"]
Anchor = Literal["start", "middle", "end"]

_STYLE = """\
<style>
.paper { fill: #ffffff } .ink { fill: #1f2328 } .quiet { fill: #59636e }
.axis { stroke: #59636e } .mark { stroke: #1f2328 } .curve { stroke: #1f2328; fill: none }
.bar { fill: #0072b2 } .empty { fill: none; stroke: #59636e }
.low { fill: #e69f00 } .middle { fill: #7cc4ea } .high { fill: #00558a }
.on-pale { fill: #10151a } .on-dark { fill: #ffffff }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117 } .ink { fill: #e6edf3 } .quiet { fill: #9198a1 }
.axis { stroke: #9198a1 } .mark { stroke: #e6edf3 } .curve { stroke: #e6edf3 }
.bar { fill: #4aa3df } .high { fill: #2b7bb9 } .empty { stroke: #9198a1 }
}
</style>"""


def picture(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """The whole file; ``title`` is its heading, and what a screen reader says."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" '
            f'width="{_n(width)}" height="{_n(height)}" role="img" '
            'font-family="system-ui, sans-serif">',
            f"<title>{escape(title)}</title>",
            _STYLE,
            rect(0, 0, width, height, "paper", 6),
            text(20, 28, title, size=15, bold=True),
            *parts,
            "</svg>\n",
        ]
    )


def text(
    x: float,
    y: float,
    words: str,
    ink: Ink = "ink",
    anchor: Anchor = "start",
    size: float = 12,
    bold: bool = False,
) -> str:
    """Words whose baseline is at y."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" class="{ink}" text-anchor="{anchor}" '
        f'font-size="{_n(size)}"{weight}>{escape(words)}</text>'
    )


def rect(x: float, y: float, width: float, height: float, kind: str, radius: float = 0) -> str:
    """A rectangle of a class."""
    round_ = f' rx="{_n(radius)}"' if radius else ""
    return (
        f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" '
        f'class="{kind}"{round_}/>'
    )


def line(
    start: tuple[float, float], end: tuple[float, float], kind: str = "axis", dashed: bool = False
) -> str:
    """A straight line."""
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" class="{kind}"{dashes}/>'


def curve(points: Sequence[tuple[float, float]], dashed: bool = False) -> str:
    """A line through points."""
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    joined = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
    return f'<polyline points="{joined}" class="curve" stroke-width="1.5"{dashes}/>'


def cell(x: float, y: float, width: float, height: float, kind: str, mark: str) -> list[str]:
    """A rectangle with a mark in its middle."""
    ink: Ink = "on-dark" if kind == "high" else "on-pale"
    middle = y + height / 2 + 4
    return [
        rect(x, y, width - 2, height - 2, kind, 3),
        text(x + width / 2 - 1, middle - 1, mark, ink, "middle", bold=True),
    ]


def _n(value: float) -> str:
    """A tenth of a pixel is as fine as anyone sees."""
    return f"{value:.1f}".removesuffix(".0")
