"""The earlier chats: searched, opened, renamed, deleted and brought back, exported and imported."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import ClassVar, Literal

from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Input, OptionList, Static

from app.chat_files import export_as, file_name, free_path, import_chat
from app.conversation import Conversation
from app.date_words import date_words
from app.history import ChatRecord, History, HistoryError
from app.render import safe_text
from app.widgets.chat_list import UNTITLED, ChatList, Row
from app.widgets.keys_footer import KeysFooter
from app.widgets.wish_list import WishList
from engine.errors import McChatError

MOST_SHOWN = 200
"""Chats in the list; a search finds the others."""

NONE_YET = "There is no chat yet: the first message begins one."
NOT_FOUND = "No chat has these words, in its title or in a message."
MORE = f"The last {MOST_SHOWN} chats are here; a search finds the others."
EXPORT_TO = "Export to (.md to read, .json keeps everything):"
IMPORT_FROM = "Import from (.json):"

Wish = Literal["export", "import"]


class SearchField(Input):
    """Where one begins; what else it can do stands in the footer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", "to the list and its keys", key_display="Tab"),
        Binding("f2", "screen.rename", "Rename", key_display="F2"),
    ]


@dataclass(frozen=True)
class Opened:
    """The chat that was chosen, and, if a message of it was found, the depth of that."""

    chat: int
    depth: int | None = None


class ChatsScreen(ModalScreen[Opened | None]):
    """Lets the user choose a chat; the result is None when nothing was chosen.

    The search field has the focus first: one types; up, down and Enter choose. Tab goes to the
    list, where letters are keys.
    """

    CSS_PATH: ClassVar[list[str | PurePath]] = ["dialog.tcss", "chats.tcss"]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f2", "rename", "Rename", show=False),
        Binding("escape", "back", "Back", show=False),
        Binding("up", "move('cursor_up')", "Up", show=False),
        Binding("down", "move('cursor_down')", "Down", show=False),
        Binding("pageup", "move('page_up')", "Page up", show=False),
        Binding("pagedown", "move('page_down')", "Page down", show=False),
    ]

    def __init__(self, history: History, when: Callable[[float], str] = date_words) -> None:
        super().__init__()
        self._history = history
        self._list = ChatList(when)
        self._search = SearchField(placeholder="Search titles and texts", compact=True, id="search")
        self._title = Input(compact=True, id="title")
        self._path = Input(compact=True, id="path")
        self._asking: Wish = "export"
        self._subject: ChatRecord | None = None  # of what is asked
        self._came_from: Widget = self._search

    def compose(self) -> ComposeResult:
        """Search, list, and a line for what is asked or told."""
        with Vertical(classes="dialog", id="chats") as dialog:
            dialog.border_title = "Chats"
            yield self._search
            yield Static(id="nothing", markup=False)
            yield self._list
            yield Static(id="told", markup=False)
            yield self._path
            yield self._title
        yield KeysFooter()

    def on_mount(self) -> None:
        """The last used chat first."""
        for field in (self._search, self._title, self._path):
            field.cursor_blink = False
        self._hide_fields()
        self._fill()

    # --- choosing -----------------------------------------------------------------------------

    def on_input_changed(self, event: Input.Changed) -> None:
        """Every letter searches."""
        if event.input is self._search:
            self._tell("")
            self._fill()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter, in any of the three fields."""
        if event.input is self._search:
            self._open()
        elif event.input is self._title:
            self._rename_to(event.value)
        else:
            self._do_with_file(event.value.strip())

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter on the list, or a click."""
        self._open()

    def action_move(self, action: str) -> None:
        """Another chat is highlighted while one types."""
        if self.focused is self._search:
            getattr(self._list, f"action_{action}")()

    def action_back(self) -> None:
        """Leave the field that was asked for, or the screen."""
        if self._title.display or self._path.display:
            self._hide_fields()
            self._tell("")
        else:
            self.dismiss()

    def _open(self) -> None:
        row = self._list.row
        if row is None:
            return
        depth = None
        try:
            if row.found and row.found.message:
                # What was found may be on another line than the current one.
                chat = Conversation(self._history, row.chat.model, chat=row.chat.id)
                chat.show(row.found.message)
                depth = self._history.message(row.found.message).depth
        except HistoryError as error:
            self._tell(str(error), "error")
            return
        self.dismiss(Opened(row.chat.id, depth))

    # --- keys of the list ---------------------------------------------------------------------

    def on_wish_list_wish(self, event: WishList.Wish) -> None:
        """One letter each."""
        match event.what:
            case "search":
                self._search.focus()
            case "rename":
                self.action_rename()
            case "delete":
                self._delete()
            case "undo":
                self._undo()
            case "export":
                self._ask_where_to()
            case "import":
                self._ask(IMPORT_FROM, "import", "")

    def action_rename(self) -> None:
        """Write over the title, where it stands."""
        row = self._list.row
        if row is None or self._path.display:
            return
        self._subject = row.chat
        self._list.scroll_to_highlight()
        self._show_field(self._title, safe_text(row.chat.title), "Enter renames")
        self.call_after_refresh(self._place_title)

    def _place_title(self) -> None:
        self._title.styles.width = self._list.scrollable_content_region.width
        self._title.absolute_offset = self._list.place
        self._title.refresh(layout=True)

    def _rename_to(self, title: str) -> None:
        self._hide_fields()
        if chat := self._subject:
            self._try(lambda: self._history.rename(chat.id, title))
            self._fill(chat.id)

    def _delete(self) -> None:
        row = self._list.row
        if row is None:
            return
        after = self._list.rows[(self._list.highlighted or 0) + 1 :]
        if self._try(lambda: self._history.delete_chat(row.chat.id)):
            self._fill(after[0].chat.id if after else None)
            self._tell(f"“{_title(row.chat)}” is deleted; u brings it back.")

    def _undo(self) -> None:
        gone: list[ChatRecord] = []
        if not self._try(lambda: gone.extend(self._history.deleted_chats())):
            return
        if not gone:
            self._tell("There is nothing to bring back: deleted chats are kept for a day.")
        elif self._try(lambda: self._history.restore_chat(gone[0].id)):
            self._search.value = ""
            self._fill(gone[0].id)
            self._tell(f"“{_title(gone[0])}” is back.")

    # --- files --------------------------------------------------------------------------------

    def _ask_where_to(self) -> None:
        row = self._list.row
        if row is not None:
            self._subject = row.chat
            path = free_path(Path.cwd(), file_name(row.chat.title, "md"))
            self._ask(EXPORT_TO, "export", _short(path))

    def _ask(self, question: str, wish: Wish, suggestion: str) -> None:
        self._asking = wish
        self._tell(question)
        self._show_field(self._path, suggestion, f"Enter {wish}s")

    @work
    async def _do_with_file(self, text: str) -> None:
        """In a thread: a long chat takes its time to be written or read."""
        path, chat = Path(text).expanduser(), self._subject
        self._hide_fields()
        try:
            if self._asking == "import":
                added = await asyncio.to_thread(_import, self._history.path, path)
                self._search.value = ""
                self._fill(added)
                self._tell(f"“{_title(self._history.chat(added))}” is here now.")
            elif chat is not None:
                path = await asyncio.to_thread(_export, self._history.path, chat.id, text)
                self._tell(f"“{_title(chat)}” is in {_short(path)}.")
        except McChatError as error:
            self._tell(str(error), "error")

    # --- the rest -----------------------------------------------------------------------------

    def on_resize(self, event: events.Resize) -> None:
        """The title's field stays where the title is."""
        if self._title.display:
            self.call_after_refresh(self._place_title)

    def _fill(self, chosen: int | None = None) -> None:
        """Show what the search field asks for."""
        words = self._search.value.strip()
        nothing = self.query_one("#nothing", Static)
        try:
            if words:
                rows = [Row(found.chat, found) for found in self._history.search(words)]
            else:
                rows = [Row(chat) for chat in self._history.chats(MOST_SHOWN)]
        except HistoryError as error:
            rows = []
            self._tell(str(error), "error")
        self._list.show(rows, chosen)
        nothing.display = not rows
        nothing.update(NOT_FOUND if words else NONE_YET)
        if len(rows) == MOST_SHOWN:
            self._tell(MORE)

    def _show_field(self, field: Input, text: str, enter: str) -> None:
        """Ask in a field; nothing else takes the focus until Enter or Esc."""
        self._came_from = self.focused or self._list
        field.value = text
        field.display = True
        self._search.can_focus = self._list.can_focus = False
        self.query_one("#chats").border_subtitle = f"{enter} · Esc goes back"
        field.focus()

    def _hide_fields(self) -> None:
        self._title.display = self._path.display = False
        self._search.can_focus = self._list.can_focus = True
        self.query_one("#chats").border_subtitle = "Enter opens · Esc closes"
        self._came_from.focus()

    def _try(self, change: Callable[[], None]) -> bool:
        """Whether it could be written; why not is told."""
        try:
            change()
        except HistoryError as error:
            self._tell(str(error), "error")
            return False
        return True

    def _tell(self, text: str, kind: Literal["quiet", "error"] = "quiet") -> None:
        told = self.query_one("#told", Static)
        told.update(safe_text(text))
        told.display = bool(text)
        told.set_classes(f"-{kind}")


def _export(history: Path, chat: int, name: str) -> Path:
    """On a connection of this thread's own."""
    own = History(history)
    try:
        return export_as(own, chat, name)
    finally:
        own.close()


def _import(history: Path, path: Path) -> int:
    own = History(history)
    try:
        return import_chat(own, path)
    finally:
        own.close()


def _title(chat: ChatRecord) -> str:
    return safe_text(chat.title) or UNTITLED


def _short(path: Path) -> str:
    """With ``~`` for the user's folder."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
