"""The experts as a grid: a row per layer, a cell per expert. It reads without colour, too."""

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from app.expert_facts import TALKING, Live, Table, View, table
from app.units import share
from engine.manifest import Manifest

_BLOCKS = " ▁▂▃▄▅▆▇█"
_COLOURS = {1: "$accent", 2: "$secondary", 3: "$primary"}
_LABEL, _PRUNED = 4, 7
_NARROWEST, _WIDEST = 3, 8


class ExpertMap(Widget, can_focus=True):
    """Each cell holds the digit of its expert's bits, and a bar for the view's value, on one scale
    for all. Arrows move the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1, 0)", "Layer", show=False),
        Binding("down", "move(1, 0)", "Layer", show=False),
        Binding("left", "move(0, -1)", "Expert", show=False),
        Binding("right", "move(0, 1)", "Expert", show=False),
        Binding("home", "move(-1000, 0)", "First layer", show=False),
        Binding("end", "move(1000, 0)", "Last layer", show=False),
    ]
    DEFAULT_CSS = """
    ExpertMap { width: auto; height: auto; }
    """

    view: reactive[View] = reactive[View]("bits")
    live: reactive[Live] = reactive(Live())
    cursor: reactive[tuple[int, int]] = reactive((0, 0))

    class Moved(Message):
        """The cursor is on another expert."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        self._records = manifest.layers
        self._experts = max(len(layer.expert_bits) for layer in manifest.layers)
        self._cell = _NARROWEST

    def fit(self, width: int) -> None:
        """Make the cells as wide as a line of ``width`` lets them be."""
        room = (width - _LABEL - _PRUNED) // self._experts
        self._cell = min(max(room, _NARROWEST), _WIDEST)
        self.refresh(layout=True)

    def get_content_width(self, container: Size, viewport: Size) -> int:
        """Whether it fits or not."""
        return _LABEL + self._cell * self._experts + _PRUNED

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """A heading, and a line per layer."""
        return 1 + len(self._records)

    def render(self) -> Content:
        """The whole grid."""
        values = table(self._records, self.view, self.live)
        top = max((value for row in values for value in row), default=0.0) or 1.0
        pruned = "pruned" if self.view in TALKING else ""
        names = "".join(f"{expert:<{self._cell}}" for expert in range(self._experts))
        lines = [Content.styled(f"{'':{_LABEL}}{names}{pruned:>{_PRUNED}}", "$quiet")]
        lines += [self._line(layer, values, top) for layer in range(len(self._records))]
        return Content("\n").join(lines)

    def _line(self, layer: int, values: Table, top: float) -> Content:
        cells = [
            self._content(layer, expert, value / top) for expert, value in enumerate(values[layer])
        ]
        pruned = share(self.live.pruned(layer)) if self.view in TALKING else ""
        return Content.assemble(
            (f"{layer:>{_LABEL - 1}} ", "$quiet"), *cells, (f"{pruned:>{_PRUNED}}", "$quiet")
        )

    def _content(self, layer: int, expert: int, height: float) -> Content:
        bits = self._records[layer].expert_bits[expert]
        eighths = min(8, max(1, round(8 * height))) if height > 0 else 0
        drawn = _BLOCKS[eighths] * (self._cell - 2)
        colour = _COLOURS.get(bits, "$success")
        here = self.has_focus and self.cursor == (layer, expert)
        digit = ("bold reverse" if here else "", colour)
        end = "◀" if here else " "
        return Content.assemble(
            (str(bits)[-1], " ".join(digit).strip()), (drawn, f"{colour} on $panel"), end
        )

    def action_move(self, down: int, right: int) -> None:
        """Move the cursor, not beyond the edge."""
        layer, expert = self.cursor
        self.cursor = (
            min(max(layer + down, 0), len(self._records) - 1),
            min(max(expert + right, 0), self._experts - 1),
        )

    def on_click(self, event: events.Click) -> None:
        """The mouse chooses, too."""
        layer, expert = event.y - 1, (event.x - _LABEL) // self._cell
        if 0 <= layer < len(self._records) and 0 <= expert < self._experts:
            self.cursor = layer, expert

    def watch_cursor(self) -> None:
        """Keep it on the screen, and tell."""
        if self.is_mounted:
            layer, expert = self.cursor
            place = Region(_LABEL + expert * self._cell, layer, self._cell, 3)
            self.parent_scroll(place)
            self.post_message(self.Moved())

    def parent_scroll(self, place: Region) -> None:
        """Scroll whatever holds the grid so that ``place`` is seen."""
        if isinstance(self.parent, Widget):
            self.parent.scroll_to_region(place, animate=False)
