"""The line at the top: the program, the model, and what the engine is doing."""

from typing import Literal

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from app.widgets.bars import spread

EngineState = Literal["starting", "loading", "ready", "writing", "stopping", "down"]

_MARKS: dict[EngineState, tuple[str, str]] = {
    "starting": ("◌", "$quiet"),
    "loading": ("◌", "$accent"),
    "ready": ("●", "$success"),
    "writing": ("◉", "$primary"),
    "stopping": ("◌", "$accent"),
    "down": ("✕", "$error"),
}


class HeaderLine(Widget):
    """``about`` names the model, its bits and device; ``state`` and ``status`` the engine's."""

    ALLOW_SELECT = False
    DEFAULT_CSS = """
    HeaderLine {
        dock: top;
        height: 1;
        padding: 0 1;
        background: $surface;
        text-wrap: nowrap;
    }
    """

    about: reactive[str] = reactive("")
    state: reactive[EngineState] = reactive("starting")
    status: reactive[str] = reactive("")

    def render(self) -> Content:
        """One line, the state at the right."""
        mark, style = _MARKS[self.state]
        left = Content.assemble(("mc-chat", "bold $primary"), (f"  {self.about}", "$foreground"))
        right = Content.assemble((mark, style), (f" {self.status or self.state}", "$quiet"))
        return spread(left, right, self.content_size.width)

    def show(self, state: EngineState, status: str = "") -> None:
        """Set both at once; without ``status`` the state's own word is shown."""
        self.state = state
        self.status = status
