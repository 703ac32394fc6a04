"""One turn of a chat on the screen: what the user said, what the model said, what happened."""

from markdown_it import MarkdownIt
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Button, Markdown, Static

from app.history import MessageRecord
from app.render import safe_text
from app.widgets.stream import PacedStream

CUT_OFF = "interrupted: the program ended while this was written"


def _markdown_parser() -> MarkdownIt:
    """HTML in a model's text is shown as text."""
    return MarkdownIt("gfm-like", {"html": False})


class UserMessage(Static):
    """What the user said, as it was typed."""

    def __init__(self, text: str) -> None:
        super().__init__(safe_text(text), markup=False)


class ModelMessage(Vertical):
    """What the model said, as Markdown, with a quiet line of figures below."""

    def __init__(self, record: MessageRecord | None = None) -> None:
        super().__init__()
        self._record = record
        self._stream: PacedStream | None = None

    def compose(self) -> ComposeResult:
        """A finished text, or an empty one to stream into."""
        text = self._record.content if self._record else None
        # Links come from the model: they are shown, never opened by themselves.
        yield Markdown(text, parser_factory=_markdown_parser, open_links=False)
        yield Static(_below(self._record), classes="below", markup=False)

    def on_mount(self) -> None:
        """A message without a record is a reply that is being written."""
        if self._record is None:
            self._stream = PacedStream(self.query_one(Markdown))

    async def on_unmount(self) -> None:
        """A reply can be taken off the screen while it is written."""
        if self._stream:
            await self._stream.stop()

    def write(self, text: str) -> None:
        """Add to a reply."""
        assert self._stream is not None
        self._stream.write(text)

    async def finish(self, record: MessageRecord) -> None:
        """Draw the whole text once more, as one document, and the figures."""
        assert self._stream is not None
        await self._stream.stop()
        await self.query_one(Markdown).update(record.content)
        self.query_one(".below", Static).update(_below(record))

    def on_markdown_link_clicked(self, event: Markdown.LinkClicked) -> None:
        """Say where a link leads: its text may say something else."""
        event.stop()
        self.notify(safe_text(event.href), title="This link leads to", markup=False)


def _below(record: MessageRecord | None) -> str:
    if record is None:
        return ""
    match record.state:
        case "writing":
            return f"◼ {CUT_OFF}"
        case "stopped":
            return f"◼ {record.summary or 'stopped'}"
        case "failed":
            return "✕ broken off" if record.content else "✕ no reply"
        case "done":
            return record.summary


class Notice(Vertical):
    """Something that happened to the chat, with a button for what to do about it."""

    class Chosen(Message):
        """The button was pressed. The screen acts on it: a button cannot wait for its own end."""

        def __init__(self, action: str) -> None:
            super().__init__()
            self.action = action

    def __init__(self, text: str, label: str = "", action: str = "") -> None:
        super().__init__()
        self._text = text
        self._label = label
        self._action = action

    def compose(self) -> ComposeResult:
        """The line, and the button where there is something to do."""
        yield Static(f"▲ {safe_text(self._text)}", markup=False)
        if self._action:
            yield Button(self._label, compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Hand the action on."""
        event.stop()
        self.post_message(self.Chosen(self._action))
