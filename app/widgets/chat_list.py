"""The chats in a list, two lines each: title and date, and what it is or what was found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Offset
from textual.widgets.option_list import Option

from app.history import ChatRecord, Found
from app.render import safe_text
from app.widgets.bars import spread
from app.widgets.wish_list import WishList

LINES = 2
"""Of each chat, always: so it is known where one is shown."""

UNTITLED = "Untitled"


@dataclass(frozen=True)
class Row:
    """A chat, and how it was found where it was searched for."""

    chat: ChatRecord
    found: Found | None = None


class ChatList(WishList):
    """Where it has the focus, letters are keys. Enter, or a click, selects an option as usual."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "wish('search')", "Search"),
        Binding("r", "wish('rename')", "Rename"),
        Binding("d", "wish('delete')", "Delete"),
        Binding("u", "wish('undo')", "Undo"),
        Binding("e", "wish('export')", "Export"),
        Binding("i", "wish('import')", "Import"),
    ]

    def __init__(self, when: Callable[[float], str]) -> None:
        """See `WishList`."""
        super().__init__(when)
        self.rows: Sequence[Row] = ()

    @property
    def row(self) -> Row | None:
        """The highlighted one."""
        return None if self.highlighted is None else self.rows[self.highlighted]

    @property
    def place(self) -> Offset:
        """Where the highlighted one begins on the terminal."""
        line = LINES * (self.highlighted or 0) - round(self.scroll_offset.y)
        return self.content_region.offset + Offset(0, line)

    def show(self, rows: Sequence[Row], chosen: int | None = None) -> None:
        """Show other chats; the one numbered ``chosen`` is highlighted, or the first."""
        self.rows = rows
        self.clear_options()
        self.add_options([Option(self._lines_of(row)) for row in rows])
        places = [place for place, row in enumerate(rows) if row.chat.id == chosen]
        self.highlighted = next(iter(places), 0 if rows else None)

    def on_resize(self, event: events.Resize) -> None:
        """The times keep to the right edge."""
        for place, row in enumerate(self.rows):
            self.replace_option_prompt_at_index(place, self._lines_of(row))

    def _lines_of(self, row: Row) -> Content:
        width = max(self.scrollable_content_region.width, 1)
        title = Content.styled(safe_text(row.chat.title) or UNTITLED, "bold")
        below = Content.styled(_about(row.chat), "$quiet")
        found = row.found
        if found and found.message is None:
            title = _marked(title, found)
        elif found:
            below = _marked(Content.styled(found.text, "$quiet"), found)
        when = Content.styled(self.when(row.chat.updated), "$quiet")
        first = spread(title, when, width - 1)
        return Content("\n").join([first, below.truncate(width - 1, ellipsis=True)])


def _marked(text: Content, found: Found) -> Content:
    for start, end in found.marks:
        text = text.stylize("$accent", start, end)
    return text


def _about(chat: ChatRecord) -> str:
    count = f"{chat.messages:,} message{'s' if chat.messages != 1 else ''}"
    return f"{safe_text(chat.model)} · {count}"
