"""Where the user writes: Enter sends, Ctrl+J makes a new line."""

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea


class Prompt(TextArea):
    """A text area that grows to a few lines."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", priority=True, show=False),
        Binding("ctrl+j,shift+enter", "newline", "New line", priority=True, show=False),
        Binding("question_mark", "help", "Keys", priority=True, show=False),
    ]

    class Sent(Message):
        """The user pressed Enter. The prompt keeps its text until it is cleared."""

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

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A question mark asks for help only where no message begins with one."""
        if action == "help":
            return not self.text
        return super().check_action(action, parameters)

    def action_send(self) -> None:
        """Hand the message over, unless it is blank."""
        if self.text.strip():
            self.post_message(self.Sent(self.text.strip()))

    def action_newline(self) -> None:
        """Break the line at the cursor."""
        self.insert("\n")

    async def action_help(self) -> None:
        """Show the keys."""
        await self.run_action("app.help")
