"""Where a model is to be published, and for whom; asked before a byte is sent."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from app.jobs import TransferJob
from app.models import InstalledModel
from app.render import safe_text
from app.units import size

NO_NAME = "Write it like OWNER/NAME: your name on the hub, or an organisation's, then a new name."
CHOICES = (
    ("private", "only you and your organisation see it"),
    ("public", "anybody can find and download it"),
)


class PublishScreen(ModalScreen[TransferJob | None]):
    """Ends with the job that publishes a model, or with None."""

    CSS_PATH = "dialog.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "other", "Private or public", priority=True),
        Binding("escape", "dismiss", "Back"),
    ]

    def __init__(self, model: InstalledModel) -> None:
        super().__init__()
        self._model = model
        self._private = True

    def compose(self) -> ComposeResult:
        """What goes, where to, and who sees it."""
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = safe_text(f"Publish {self._model.name}")
            dialog.border_subtitle = "Enter uploads · Tab chooses · Esc closes"
            yield Static(_contents(self._model), markup=False)
            name = Input(f"/{self._model.name}", placeholder="OWNER/NAME", compact=True)
            name.cursor_blink = False
            name.select_on_focus = False
            yield name
            yield Static(id="who")
            yield Static(id="problem", markup=False)

    def on_mount(self) -> None:
        """The owner is what is missing."""
        field = self.query_one(Input)
        field.focus()
        field.cursor_position = 0
        self._show_choice()

    def action_other(self) -> None:
        """Private, or public."""
        self._private = not self._private
        self._show_choice()

    def on_input_changed(self, event: Input.Changed) -> None:
        """What was wrong may be right now."""
        self.query_one("#problem", Static).update("")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter: end with the job, if the name can be one."""
        from compress.hub import is_repository_name  # only where it is needed: it takes its time

        name = event.value.strip()
        if is_repository_name(name):
            folder = self._model.folder
            self.dismiss(TransferJob("publish", name, folder, private=self._private))
        else:
            self.query_one("#problem", Static).update(NO_NAME)

    def _show_choice(self) -> None:
        chosen = 0 if self._private else 1
        lines = [
            Content.assemble(
                ("▸ " if place == chosen else "  ", "$primary"),
                (f"{name:<8}", "bold" if place == chosen else ""),
                (f"  {words}", "$quiet"),
            )
            for place, (name, words) in enumerate(CHOICES)
        ]
        self.query_one("#who", Static).update(Content("\n").join(lines))


def _contents(model: InstalledModel) -> str:
    files = model.manifest.files
    total = sum(record.bytes for record in files.values())
    return (
        f"Uploads {size(total)}: {len(files)} files of weights, configuration and tokenizer, "
        "mc.json, and a model card made of it. Every byte is verified first."
    )
