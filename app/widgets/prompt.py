"""Where the user writes. Which key sends is a setting; the other one makes a new line."""

import re

from textual import events
from textual.message import Message
from textual.widgets import TextArea

from app.completing import Completion, complete, complete_argument, complete_command

_HINTS = {
    True: "Write a message.  Enter sends · Ctrl+J new line · ? keys",
    False: "Write a message.  Ctrl+J or Ctrl+Enter sends · Enter new line · ? keys",
}

_COMMAND = re.compile(r"/\w+( .*)?")
"""A path or several lines are a message, and so is what has a space before the stroke."""


class Prompt(TextArea):
    """A text area that grows to a third of the screen."""

    class Sent(Message):
        """The user sent it. The prompt is empty again; `give_back` undoes that."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Commanded(Message):
        """A line like ``/theme nord`` was sent. The prompt is empty again, as by `Sent`."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class WantsLast(Message):
        """Up was pressed where nothing is written."""

    class Offered(Message):
        """Tab was pressed in a name; it may become one of ``names``."""

        def __init__(self, names: tuple[str, ...]) -> None:
            super().__init__()
            self.names = names

    class Left(Message):
        """Tab was pressed, or Shift+Up where nothing is above."""

    def __init__(self, enter_sends: bool = True) -> None:
        super().__init__(
            soft_wrap=True,
            show_line_numbers=False,
            highlight_cursor_line=False,
            placeholder=_HINTS[enter_sends],
        )
        self.cursor_blink = False
        breaks = {"shift+enter", "alt+enter", "ctrl+j"}
        self._sending = {"enter"} if enter_sends else {"ctrl+enter", "ctrl+j"}
        self._breaking = breaks if enter_sends else {"enter", "shift+enter", "alt+enter"}

    async def on_key(self, event: events.Key) -> None:
        """The keys that a text area lacks.

        No priority bindings: those overtake the letters typed just before them.
        """
        if event.key in self._sending:
            self._send()
        elif event.key in self._breaking:
            self.insert("\n")
        elif event.key == "question_mark" and not self.text:
            await self.run_action("app.help")
        elif event.key == "up" and not self.text:
            self.post_message(self.WantsLast())
        elif event.key == "tab" and (command := complete_command(self.text)):
            self._write(command)
        elif event.key == "tab" and (
            completion := complete_argument(self.text) or self._completion()
        ):
            self._write(completion)
            self.post_message(self.Offered(completion.names))
        elif event.key in {"tab", "shift+tab"} or self._is_above(event.key):
            self.post_message(self.Left())
        else:
            return
        event.stop()
        event.prevent_default()

    def give_back(self, text: str) -> None:
        """Put back a message that could not be sent, before what was written since."""
        self.text = text + self.text
        self.move_cursor(self.document.end)

    def show_text(self, text: str, title: str = "") -> None:
        """Write this, to be changed; ``title`` says what it is."""
        self.text = text
        self.border_title = title
        self.move_cursor(self.document.end)

    def _is_above(self, key: str) -> bool:
        """Shift+Up selects, but where nothing can be selected it leads out of the prompt."""
        return key == "shift+up" and self.selection.is_empty and self.cursor_at_first_line

    def _completion(self) -> Completion | None:
        """What Tab makes of a file's name at the cursor."""
        row, column = self.cursor_location
        return complete(self.document.get_line(row)[:column])

    def _write(self, completion: Completion) -> None:
        row, column = self.cursor_location
        start = (row, column - len(completion.typed))
        if completion.text != completion.typed:
            done = self.replace(completion.text, start, (row, column))
            self.move_cursor(done.end_location)

    def _send(self) -> None:
        text = self.text
        if not text.strip():
            return
        is_command = _COMMAND.fullmatch(text.rstrip())
        self.post_message(self.Commanded(text) if is_command else self.Sent(text.strip()))
        self.clear()
