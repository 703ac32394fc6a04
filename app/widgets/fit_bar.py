"""What a choice takes of a device's free memory, by part: a bar, and the judgement in words."""

from textual.content import Content
from textual.widget import Widget

from app.units import size
from app.widgets.bars import stacked_bar
from app.widgets.gauge import KV_CACHE, WEIGHTS, WORKSPACE, detail
from compress.plan import Choice
from engine.protocol import Device

_LIMIT = ("┃", "bold $error")


class FitBar(Widget):
    """Three lines: judgement, bar, legend. The bar's whole length is the free memory; of what is
    too big it is the need, with a line where the free memory ends."""

    ALLOW_SELECT = False

    def __init__(self) -> None:
        super().__init__()
        self._shown: tuple[Choice, Device] | None = None

    def show(self, choice: Choice, device: Device) -> None:
        """Show another choice."""
        self._shown = choice, device
        self.refresh()

    def render(self) -> Content:
        """Nothing before there is a choice."""
        if self._shown is None:
            return Content()
        choice, device = self._shown
        width = self.content_size.width
        return Content("\n").join(
            [
                Content.assemble(("MEMORY  ", "bold $primary"), fit_words(choice, device)),
                _bar(choice, device.free_bytes, width),
                _legend(choice, width),
            ]
        )


def fit_words(choice: Choice, device: Device) -> Content:
    """Whether it fits, what is needed of what is free, and what is left or lacking."""
    need, free = choice.total_bytes, device.free_bytes
    if device.problem:
        return Content.styled("✕ this device cannot be used", "$error")
    if not device.memory_known:
        return detail(f"? {size(need)} needed; what is free is unknown")
    if not choice.fits:
        of = detail(f": {size(need)}, of {size(free)} free")
        return Content.assemble((f"✕ too big by {size(need - free)}", "$error"), of)
    mark = ("! tightly", "$warning") if choice.tight else ("✓ fits", "$success")
    left = detail(f": {size(need)} of {size(free)} free, {size(free - need)} left")
    return Content.assemble(mark, left)


def _bar(choice: Choice, free: int, width: int) -> Content:
    whole = max(choice.total_bytes, free)
    parts = [(count / whole, glyph, style) for (_, glyph, style), count in _parts(choice)]
    bar = stacked_bar(parts, width)
    if not 0 < free < choice.total_bytes:
        return bar
    end = min(round(width * free / whole), width - 1)
    return Content.assemble(bar[:end], _LIMIT, bar[end + 1 :])


def _legend(choice: Choice, width: int) -> Content:
    entries = [
        Content.assemble((glyph, style), " ", detail(name), f" {size(count)}")
        for (name, glyph, style), count in _parts(choice)
    ]
    wide = Content("   ").join(entries)
    return wide if wide.cell_length <= width else Content(" ").join(entries)


def _parts(choice: Choice) -> tuple[tuple[tuple[str, str, str], int], ...]:
    return (
        (WEIGHTS, choice.weights_bytes),
        (KV_CACHE, choice.kv_bytes),
        (WORKSPACE, choice.workspace_bytes),
    )
