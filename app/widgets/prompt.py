"""Where the user writes: Enter sends, Ctrl+J makes a new line."""

from textual import events
from textual.message import Message
from textual.widgets import TextArea


class Prompt(TextArea):
    """A text area that grows to a few lines."""

    class Sent(Message):
        """The user pressed Enter. The prompt is empty again; `give_back` undoes that."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self) -> None:
        super().__init__(
            soft_wrap=True,
            show_line_numbers=False,
            highlight_cursor_line=False,
            placeholder="Write a message.  Enter sends · Ctrl+J new line · ? keys",
        )
        self.cursor_blink = False

    async def on_key(self, event: events.Key) -> None:
        """The keys that a text area lacks.

        No priority bindings: those overtake the letters typed just before them.
        """
        if event.key == "enter":
            self._send()
        elif event.key in {"ctrl+j", "shift+enter"}:
            self.insert("\n")
        elif event.key == "question_mark" and not self.text:
            await self.run_action("app.help")
        else:
            return
        event.stop()
        event.prevent_default()

    def give_back(self, text: str) -> None:
        """Put back a message that could not be sent, before what was written since."""
        self.text = text + self.text
        self.move_cursor(self.document.end)

    def _send(self) -> None:
        if self.text.strip():
            self.post_message(self.Sent(self.text.strip()))
            self.clear()
