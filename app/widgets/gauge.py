"""What a gauge is: a few lines of text drawn from the last readings."""

from dataclasses import dataclass, replace

from textual.content import Content
from textual.reactive import var
from textual.widget import Widget

from app.widgets.bars import spread
from engine.protocol import Memory, Meters, SetPruning

SPARKLINE_LENGTH = 60
LIVE_READINGS = 5
"""What is called live is the difference of the first and the last of these: about a second."""

AS_LEARNED = SetPruning("odp")

WEIGHTS = ("weights", "█", "$primary")
KV_CACHE = ("KV cache", "▓", "$accent")
WORKSPACE = ("workspace", "▒", "$secondary")
"""The parts of a model's memory wherever they are drawn: name, glyph and style. The glyphs differ,
so that a bar of them reads without colour."""


@dataclass(frozen=True)
class Readings:
    """Everything the gauges show, as the engine told it; None and 0: not told yet.

    ``recent`` holds the last values of ``prune_ratio_now`` of this reply, the newest last, and
    ``latest`` its last meters; ``total_params`` counts the whole model's parameters; ``context`` is
    in tokens; ``counted`` tokens of it are used, where that was asked for since the last reply;
    ``kernels`` says what multiplies.
    """

    memory: Memory | None = None
    meters: Meters | None = None
    recent: tuple[float, ...] = ()
    latest: tuple[Meters, ...] = ()
    total_params: int = 0
    context: int = 0
    counted: int | None = None
    pruning: SetPruning = AS_LEARNED
    kernels: str = ""

    def with_meters(self, meters: Meters) -> "Readings":
        """The readings after a MetersUpdate or at the end of a reply."""
        recent = (*self.recent, meters.prune_ratio_now)[-SPARKLINE_LENGTH:]
        latest = (*self.latest, meters)[-LIVE_READINGS:]
        return replace(
            self,
            meters=meters,
            memory=meters.memory,
            context=meters.context_size,
            counted=None,
            recent=recent,
            latest=latest,
        )

    @property
    def used(self) -> int | None:
        """Tokens of the context that are taken, as the engine counted them."""
        if self.counted is not None:
            return self.counted
        return self.meters.context_used if self.meters else None

    def at_start_of_reply(self) -> "Readings":
        """The sparkline and what is live begin anew with each reply."""
        return replace(self, recent=(), latest=())


class Gauge(Widget):
    """Base of the gauges: a title with a value at its right, and lines below."""

    ALLOW_SELECT = False
    readings: var[Readings] = var(Readings())
    _drawn = Content()

    def watch_readings(self) -> None:
        """Draw them if they read otherwise: most do not, several times a second."""
        if not self._text().is_same(self._drawn):
            self.refresh()

    def render(self) -> Content:
        """The title line, then the body."""
        self._drawn = self._text()
        return self._drawn

    def _text(self) -> Content:
        width = self.content_size.width
        lines = [spread(self.title(), self.value(), width), *self.body(width)]
        return Content("\n").join(lines)

    def title(self) -> Content:
        """What is measured."""
        raise NotImplementedError

    def value(self) -> Content:
        """The most important figure."""
        raise NotImplementedError

    def body(self, width: int) -> list[Content]:
        """The lines below."""
        raise NotImplementedError


def heading(text: str) -> Content:
    """A gauge's title."""
    return Content.styled(text, "bold $quiet")


def figure(text: str) -> Content:
    """A gauge's main figure."""
    return Content.styled(text, "bold $foreground")


def detail(text: str) -> Content:
    """A line that explains a figure."""
    return Content.styled(text, "$quiet")


UNKNOWN = "–"
