"""The list of earlier chats."""

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from app.history import ChatRecord


class ChatsScreen(ModalScreen[int | None]):
    """Lets the user choose a chat; the result is its id, None when nothing was chosen."""

    CSS_PATH = "dialog.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss", "Close")]

    def __init__(self, chats: Sequence[ChatRecord]) -> None:
        super().__init__()
        self._chats = chats

    def compose(self) -> ComposeResult:
        """The last used chat first."""
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = "Chats"
            dialog.border_subtitle = "Enter opens · Esc closes"
            if self._chats:
                yield OptionList(*(Option(_line(chat), id=str(chat.id)) for chat in self._chats))
            else:
                yield Static("There is no chat yet: the first message begins one.")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter, or a click."""
        assert event.option.id is not None
        self.dismiss(int(event.option.id))


def _line(chat: ChatRecord) -> Content:
    when = datetime.fromtimestamp(chat.updated).strftime("%Y-%m-%d %H:%M")
    return Content.assemble((f"{when}  ", "$quiet"), chat.title, (f"  {chat.model}", "$quiet"))
