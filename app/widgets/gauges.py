"""All gauges: a panel beside the chat, or a strip of two lines where the screen is narrow."""

from textual.app import ComposeResult
from textual.containers import Container
from textual.message import Message
from textual.reactive import var

from app.widgets.gauge import Readings
from app.widgets.meters import (
    ActivatedGauge,
    ContextGauge,
    GaugeStrip,
    MemoryGauge,
    PruningGauge,
    SpeedGauge,
)


class NewReadings(Message, bubble=False):
    """The engine told new figures; a later one makes an unread one worthless."""

    def __init__(self, readings: Readings) -> None:
        super().__init__()
        self.readings = readings

    def can_replace(self, message: Message) -> bool:
        """Gauges show the newest only."""
        return isinstance(message, NewReadings)


class Gauges(Container):
    """Hands the readings to every gauge; the style sheet shows the panel or the strip."""

    readings: var[Readings] = var(Readings())

    def compose(self) -> ComposeResult:
        """The panel's gauges and the strip."""
        for gauge in (MemoryGauge, ActivatedGauge, PruningGauge, SpeedGauge, ContextGauge):
            yield gauge(classes="panel-gauge").data_bind(Gauges.readings)
        yield GaugeStrip().data_bind(Gauges.readings)

    def on_new_readings(self, message: NewReadings) -> None:
        """Draw them."""
        self.readings = message.readings
