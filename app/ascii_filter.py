"""A screen of ASCII, for terminals and fonts that lack the rest: what mc-chat draws is replaced.

Letters of other writings stay: they are what somebody wrote. Every replacement is one cell wide.
"""

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_BOX = dict.fromkeys(range(0x2500, 0x2580), "+")
_BOX |= dict.fromkeys(map(ord, "─━╌╍┄┅┈┉═╴╶╸╺"), "-") | dict.fromkeys(
    map(ord, "│┃╎╏┆┇┊┋║╵╷╹╻"), "|"
)
_BLOCKS = dict.fromkeys(range(0x2580, 0x25A0), "#")
_BLOCKS |= dict(zip(map(ord, "▁▂▃▄▅▆▇░▒▓▔▕▎▏▍▌▊▋▉"), "._-=+*#:%@-||||||##", strict=True))
_MARKS = dict(
    zip(
        map(ord, "●◉◌○◼✕✓★▸▶▼▲◀·⋯…–—‹›“”‘’×→←↑↓¹²³±≠"),
        "*@oo#xv*>>v^<...--<>\"\"''x><^v123~!",
        strict=True,
    )
)
TO_ASCII = _BOX | _BLOCKS | _MARKS


class AsciiFilter(LineFilter):
    """Replaces lines, blocks and marks in everything that is drawn."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """One line of the screen."""
        return [
            Segment(text.translate(TO_ASCII), style, control) for text, style, control in segments
        ]
