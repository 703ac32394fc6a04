"""The scrolling column of messages. It follows the end until the user scrolls away."""

from collections.abc import Sequence

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Button, Static

from app.history import MessageRecord
from app.widgets.messages import ModelMessage, Notice, UserMessage

WINDOW = 30
"""Messages mounted at once: drawing must not grow with the length of a chat."""


class ChatView(VerticalScroll, can_focus=False):
    """Shows the last messages of a chat; earlier ones come at a press."""

    def __init__(self) -> None:
        super().__init__()
        self._earlier: list[MessageRecord] = []

    def on_mount(self) -> None:
        """Stay at the bottom."""
        self.anchor()

    async def show(self, records: Sequence[MessageRecord], welcome: Content) -> None:
        """Show another chat; an empty one shows ``welcome``."""
        await self.remove_children()
        self._earlier = list(records[:-WINDOW])
        if not records:
            await self.mount(Static(welcome, classes="welcome"))
            return
        await self._offer_earlier()
        await self.mount_all(_widgets(records[-WINDOW:]))
        self.anchor()

    async def begin(self, text: str) -> ModelMessage:
        """Show what the user said and an empty reply to stream into."""
        await self.query(".welcome").remove()
        reply = ModelMessage()
        await self.mount_all([UserMessage(text), reply])
        self.anchor()
        return reply

    async def notice(self, text: str, label: str = "", action: str = "") -> None:
        """Say what happened."""
        await self.mount(Notice(text, label, action))

    async def drop_notices(self) -> None:
        """What they told is over."""
        await self.query(Notice).remove()

    async def action_earlier(self) -> None:
        """Mount the messages before the first one shown."""
        await self.query("#earlier").remove()
        first = self.children[0]
        records, self._earlier = self._earlier[-WINDOW:], self._earlier[:-WINDOW]
        await self.mount_all(_widgets(records), before=first)
        await self._offer_earlier()
        self.scroll_to_widget(first, animate=False, top=True)

    async def _offer_earlier(self) -> None:
        if self._earlier:
            label = f"▲ {len(self._earlier)} earlier messages"
            button = Button(label, id="earlier", compact=True)
            await self.mount(button, before=0 if self.children else None)

    async def on_button_pressed(self, event: Button.Pressed) -> None:
        """The button above the first message."""
        if event.button.id == "earlier":
            event.stop()
            await self.action_earlier()


def _widgets(records: Sequence[MessageRecord]) -> list[Widget]:
    return [
        UserMessage(record.content) if record.role == "user" else ModelMessage(record)
        for record in records
    ]
