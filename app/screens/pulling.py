"""A ready build while it is downloaded."""

from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Static

from app.catalogue import ReadyBuild
from app.render import safe_text
from app.transfer_words import transfer_words
from app.widgets.bars import bar
from app.widgets.header import HeaderLine
from engine.errors import Interrupted, McChatError

if TYPE_CHECKING:
    from compress.hub import Transfer

KEPT = "Esc stops; what has arrived is kept, and the next start goes on from there."


class Moved(Message, bubble=False):
    """Bytes have come."""

    def __init__(self, transfer: "Transfer") -> None:
        super().__init__()
        self.transfer = transfer

    def can_replace(self, message: Message) -> bool:
        """Only where it is now matters."""
        return isinstance(message, Moved)


class Ended(Message, bubble=False):
    """It is over; ``error`` None: the model is here."""

    def __init__(self, error: McChatError | None) -> None:
        super().__init__()
        self.error = error


class PullScreen(Screen[Path | None]):
    """Downloads a build into ``folder``; ends with it, or with None when it was stopped."""

    CSS_PATH = "wizard.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", key_display="Esc"),
        Binding("r", "retry", "Try again"),
    ]

    def __init__(self, build: ReadyBuild, folder: Path) -> None:
        super().__init__()
        self._build = build
        self._folder = folder
        self._stopping = Event()
        self._failed = False

    def compose(self) -> ComposeResult:
        """The state above, the way out below."""
        yield HeaderLine()
        with Vertical(id="job") as box:
            box.border_title = f"Downloading {self._build.title}"
            yield Static("", id="transfer")
            yield Static(KEPT, id="ending", markup=False)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Begin."""
        self.query_one(HeaderLine).about = "set up"
        self.action_retry()

    def on_unmount(self) -> None:
        """The thread ends with the screen."""
        self._stopping.set()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """There is something to try again only after a failure."""
        return self._failed if action == "retry" else True

    def action_stop(self) -> None:
        """Stop the download, or leave a failed one."""
        self._stopping.set()
        if self._failed:
            self.dismiss(None)

    def action_retry(self) -> None:
        """Download; what has arrived before is used."""
        self._failed = False
        self._stopping.clear()
        self.refresh_bindings()
        self.query_one(HeaderLine).show("writing", "downloading")
        self._end_line(KEPT)
        self._pull()

    @work(thread=True, exclusive=True)
    def _pull(self) -> None:
        from compress.hub.pull import pull  # only where it is needed: it takes its time

        try:
            pull(self._build.repository, self._folder, self._heard)
        except McChatError as error:
            self.post_message(Ended(error))
        else:
            self.post_message(Ended(None))

    def _heard(self, transfer: "Transfer") -> None:
        if self._stopping.is_set():
            raise Interrupted("stopped; the next start goes on")
        self.post_message(Moved(transfer))

    def on_moved(self, message: Moved) -> None:
        """Show where it is."""
        transfer = message.transfer
        line = self.query_one("#transfer", Static)
        fraction = transfer.done / transfer.total if transfer.total else 0.0
        words = Content.styled(safe_text(transfer_words(transfer)), "$quiet")
        line.update(Content("\n").join([bar(fraction, line.size.width, "$primary"), words]))

    def on_ended(self, message: Ended) -> None:
        """Leave, or say what went wrong."""
        if message.error is None:
            self.dismiss(self._folder)
        elif isinstance(message.error, Interrupted):
            self.dismiss(None)
        else:
            self._failed = True
            self.refresh_bindings()
            self.query_one(HeaderLine).show("down", "failed")
            self._end_line(f"✕ {message.error}", error=True)

    def _end_line(self, text: str, error: bool = False) -> None:
        ending = self.query_one("#ending", Static)
        ending.update(safe_text(text))
        ending.set_class(error, "-error")
