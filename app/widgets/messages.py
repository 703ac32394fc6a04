"""One turn of a chat on the screen: what the user said, what the model said, what happened."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import ItemGrid, Vertical
from textual.message import Message
from textual.widgets import Button, Markdown, Static

from app.folding import folded
from app.history import MessageRecord
from app.render import safe_text
from app.widgets.document import Document
from app.widgets.stream import PacedStream

CUT_OFF = "interrupted: the program ended while this was written"

What = Literal["copy", "code", "edit", "again", "compare", "delete", "previous", "next"]


class Turn(Vertical, can_focus=True):
    """One message. Where it has the focus, letters are keys; a click gives it the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "wish('copy')", "Copy"),
        Binding("c", "wish('code')", "Copy code"),
        Binding("e", "wish('edit')", "Edit"),
        Binding("r", "wish('again')", "Again", show=False),
        Binding("a", "wish('compare')", "A/B"),
        Binding("d", "wish('delete')", "Delete", show=False),
        Binding("left", "wish('previous')", "Other branch", key_display="← →"),
        Binding("right", "wish('next')", "Next branch", show=False),
    ]

    class Wish(Message):
        """A key was pressed on a message."""

        def __init__(self, turn: "Turn", what: What) -> None:
            super().__init__()
            self.turn = turn
            self.what = what

    def __init__(self, record: MessageRecord) -> None:
        super().__init__()
        self.record = record

    @property
    def text(self) -> str:
        """All of it, as it was said."""
        return self.record.content

    def action_wish(self, what: What) -> None:
        """Tell the screen."""
        self.post_message(self.Wish(self, what))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what there is to do stands in the footer."""
        match parameters:
            case ("edit",):
                return self.record.role == "user"
            case ("compare",):
                return self.record.role == "assistant" and bool(self.record.content)
            case ("code",):
                return "```" in self.text or "~~~" in self.text
            case ("previous" | "next",):
                return self.record.branches > 1
        return True


class UserMessage(Turn):
    """What the user said, as it was typed; a long one is folded until Enter is pressed on it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "unfold", "Unfold")]

    def __init__(self, record: MessageRecord) -> None:
        super().__init__(record)
        self._folded = folded(record.content)

    def compose(self) -> ComposeResult:
        """The text, and which of its siblings it is."""
        yield Static(safe_text(self._folded), markup=False, classes="said")
        if self.record.branches > 1:
            yield Static(_branch(self.record), markup=False, classes="branch")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """There may be nothing to unfold."""
        if action == "unfold":
            return self._folded != self.text
        return super().check_action(action, parameters)

    def action_unfold(self) -> None:
        """Show all of it."""
        self._folded = self.text
        self.query_one(".said", Static).update(safe_text(self.text))
        self.refresh_bindings()


class ModelMessage(Turn):
    """What the model said, as Markdown, with a quiet line of figures below.

    ``streaming``: it is still being written, and comes by `write`.
    """

    def __init__(self, record: MessageRecord, streaming: bool = False) -> None:
        super().__init__(record)
        self._streaming = streaming
        self._written: list[str] = []
        self._stream: PacedStream | None = None

    @property
    def text(self) -> str:
        """All of it, or what there is so far."""
        return "".join(self._written) if self._streaming else self.record.content

    def compose(self) -> ComposeResult:
        """A finished text, or an empty one to stream into."""
        yield Document("" if self._streaming else self.record.content)
        below = "" if self._streaming else _below(self.record)
        yield Static(below, classes="below", markup=False)

    def on_mount(self) -> None:
        """Begin to draw what comes."""
        if self._streaming:
            self._stream = PacedStream(self.query_one(Document))

    async def on_unmount(self) -> None:
        """A reply can be taken off the screen while it is written."""
        if self._stream:
            await self._stream.stop()

    def wait(self, words: str) -> None:
        """Say what an empty reply waits for; nothing: it is written now."""
        self.query_one(".below", Static).update(words)

    def write(self, text: str) -> None:
        """Add to a reply."""
        assert self._stream is not None
        self._written.append(text)
        self._stream.write(text)

    async def finish(self, record: MessageRecord) -> None:
        """Draw all of the text for good, and the figures."""
        assert self._stream is not None
        self.record, self._streaming = record, False
        await self._stream.finish(record.content)
        self.query_one(".below", Static).update(_below(record))
        self.refresh_bindings()

    def on_markdown_link_clicked(self, event: Markdown.LinkClicked) -> None:
        """Say where a link leads: its text may say something else."""
        event.stop()
        self.notify(safe_text(event.href), title="This link leads to", markup=False)


def _below(record: MessageRecord) -> str:
    words = _ending(record)
    return f"{_branch(record)}  {words}" if record.branches > 1 else words


def _ending(record: MessageRecord) -> str:
    match record.state:
        case "writing":
            return f"◼ {CUT_OFF}"
        case "stopped":
            return f"◼ {record.summary or 'stopped'}"
        case "failed":
            return "✕ broken off" if record.content else "✕ no reply"
        case "done":
            return record.summary


def _branch(record: MessageRecord) -> str:
    """The keys that lead to the others are the arrows beside it."""
    return f"‹ {record.branch}/{record.branches} ›"


class Notice(Vertical):
    """Something that happened to the chat, with a button for each thing to do about it."""

    class Chosen(Message):
        """A button was pressed. The screen acts on it: a button cannot wait for its own end."""

        def __init__(self, action: str) -> None:
            super().__init__()
            self.action = action

    def __init__(self, text: str, choices: Sequence[tuple[str, str]] = ()) -> None:
        """``choices`` are labels and the screen's actions."""
        super().__init__()
        self._text = text
        self._choices = choices

    def compose(self) -> ComposeResult:
        """The line, and the buttons where there is something to do."""
        yield Static(f"▲ {safe_text(self._text)}", markup=False)
        if self._choices:
            with ItemGrid(min_column_width=22, regular=True, stretch_height=False):
                for label, action in self._choices:
                    yield Button(label, name=action, compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Hand the action on."""
        event.stop()
        self.post_message(self.Chosen(event.button.name or ""))
