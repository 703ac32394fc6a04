"""What shall become of a job that one turns away from."""

from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

Parting = Literal["stop", "leave"]

CHOICES = Content("\n").join(
    Content.assemble((f"{key:<5}", "bold $primary"), what, (f"  {note}", "$quiet"))
    for key, what, note in (
        ("S", "stop it", "what is done is kept, to go on from"),
        ("B", "leave it running", "it needs no terminal"),
        ("Esc", "stay", "and watch it"),
    )
)


class PartingScreen(ModalScreen[Parting | None]):
    """Stop the job, leave it running, or (None) keep watching it."""

    CSS_PATH = "dialog.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("s", "choose('stop')", "Stop"),
        ("b", "choose('leave')", "Background"),
        ("escape", "dismiss", "Stay"),
    ]

    def __init__(self, noun: str) -> None:
        """``noun`` is what a person calls the job."""
        super().__init__()
        self._noun = noun

    def compose(self) -> ComposeResult:
        """One key a line."""
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = f"The {self._noun} is running"
            yield Static(CHOICES)

    def action_choose(self, parting: Parting) -> None:
        """End with this choice."""
        self.dismiss(parting)
