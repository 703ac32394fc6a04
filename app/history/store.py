"""`History`: chats and their messages, written as they happen."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from app.history.database import GONE, Database, HistoryError
from app.history.records import (
    ChatRecord,
    Figures,
    Found,
    MadeWith,
    MessageRecord,
    State,
    WholeChat,
    WholeMessage,
    from_json,
    to_json,
)
from app.history.search import Query, SearchIndex, has_index, snippet
from app.render import safe_text
from engine.protocol import Message, Role

TITLE_LENGTH = 60
LONGEST_TITLE = 200
"""Characters of a title that mc-chat makes, and of one that is given."""

UNDO_SECONDS = 24 * 3600.0
"""How long a deleted chat can be brought back."""

_CHATS = """SELECT id, title, model, created, updated,
    coalesce((SELECT depth FROM messages WHERE id = chats.leaf), 0),
    system, preset, leaf, deleted FROM chats"""

_MESSAGE = """SELECT id, role, content, state, summary, created, parent, depth,
    (SELECT count(*) FROM messages AS other WHERE other.parent IS message.parent
        AND other.chat = message.chat AND other.id <= message.id),
    (SELECT count(*) FROM messages AS other WHERE other.parent IS message.parent
        AND other.chat = message.chat),
    made, figures FROM messages AS message"""

_LINE = """WITH RECURSIVE line (at, place) AS (
    SELECT ?, 0 WHERE ? > 0
    UNION ALL
    SELECT parent, place + 1 FROM line JOIN messages ON messages.id = at WHERE place + 1 < ?
)"""
"""From a message back to the first, at most so many."""

_BELOW = """WITH RECURSIVE below (id) AS (
    SELECT ? UNION ALL SELECT messages.id FROM messages JOIN below ON parent = below.id
)"""


class History:
    """The open file. All calls are short: a write takes well under a millisecond.

    The messages of a chat are a tree: nothing that was said is lost when a reply is made anew or a
    message is changed. The chat's `leaf` tells which line of it is current. Text is kept free of
    terminal controls. All methods raise HistoryError.
    """

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.time, indexed: bool | None = None
    ) -> None:
        """Open or create the file, bring it up to date, forget what was deleted a day ago.

        ``indexed``: search by FTS5, None: where this SQLite has it.
        """
        self._clock = clock
        self._database = Database(path, clock)
        self._search = SearchIndex(self._database, has_index() if indexed is None else indexed)
        self._purge()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @property
    def version(self) -> int:
        """The schema's version: how many migrations have run."""
        return self._database.version

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    def together(self) -> AbstractContextManager[None]:
        """Whatever is written within is written at once, or not at all."""
        return self._database.transaction()

    # --- chats --------------------------------------------------------------------------------

    def new_chat(self, model: str, first_message: str, system: str = "", preset: str = "") -> int:
        """Begin a chat, titled by its first message; returns its id."""
        now = self._clock()
        return self._database.insert(
            "INSERT INTO chats (title, model, created, updated, system, preset)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (_title(safe_text(first_message)), model, now, now, safe_text(system), preset),
        )

    def chat(self, chat: int) -> ChatRecord:
        """One chat, also one that was deleted within the day."""
        rows = self._database.rows(f"{_CHATS} WHERE id = ?", (chat,))
        if not rows:
            raise HistoryError(f"there is no chat {chat}; `mc-chat chats` lists them")
        return ChatRecord(*rows[0])

    def chats(self, limit: int | None = 200) -> list[ChatRecord]:
        """The chats, the last used first; None: all."""
        last_used = "WHERE deleted IS NULL ORDER BY updated DESC, id DESC LIMIT ?"
        return self._listed(last_used, _count(limit))

    def deleted_chats(self) -> list[ChatRecord]:
        """The chats that can be brought back, the last deleted first."""
        return self._listed("WHERE deleted IS NOT NULL ORDER BY deleted DESC, id DESC")

    def last_chat(self, model: str) -> ChatRecord | None:
        """The chat last used with a model."""
        last = "WHERE model = ? AND deleted IS NULL ORDER BY updated DESC, id DESC LIMIT 1"
        return next(iter(self._listed(last, model)), None)

    def search(self, text: str, limit: int | None = 50) -> list[Found]:
        """The chats that have all words of ``text`` in their title or in one message, best first.

        Words are found by how they begin, in either case, with or without accents.
        """
        query = Query(text)
        found = []
        for hit in self._search.find(query, _count(limit)):
            piece, marks = snippet(hit.text, query)
            found.append(Found(self.chat(hit.chat), hit.message, piece, marks))
        return found

    def rename(self, chat: int, title: str) -> None:
        """Give a chat another title: one line; an empty one changes nothing."""
        if line := clean_title(title):
            self._change("UPDATE chats SET title = ? WHERE id = ?", (line, chat))

    def set_system(self, chat: int, system: str, preset: str = "") -> None:
        """Change the system prompt of a chat, and the name of the preset that it is from."""
        self._change(
            "UPDATE chats SET system = ?, preset = ? WHERE id = ?",
            (safe_text(system), preset, chat),
        )

    def delete_chat(self, chat: int) -> None:
        """Delete a chat; for a day, `restore_chat` brings it back."""
        self._change("UPDATE chats SET deleted = ? WHERE id = ?", (self._clock(), chat))

    def restore_chat(self, chat: int) -> None:
        """Bring a deleted chat back."""
        self._change("UPDATE chats SET deleted = NULL WHERE id = ?", (chat,))

    # --- messages -----------------------------------------------------------------------------

    def add_message(
        self,
        chat: int,
        parent: int | None,
        role: Role,
        content: str,
        state: State = "done",
        made: MadeWith | None = None,
    ) -> MessageRecord:
        """Add a message after ``parent``, None: as a first one, and make its line the current one.

        A chat that another window has deleted meanwhile is there again.
        """
        now = self._clock()
        with self.together():
            message = WholeMessage(role, content, state, created=now, made=made)
            id = self._insert(chat, parent, message)
            self._change(
                "UPDATE chats SET updated = ?, leaf = ?, deleted = NULL,"
                " model = coalesce(?, model) WHERE id = ?",
                (now, id, made.model if made else None, chat),
            )
            return self.message(id)

    def write_message(
        self,
        message: int,
        content: str,
        state: State,
        summary: str = "",
        figures: Figures | None = None,
    ) -> None:
        """Replace a message's text, state, and what is told of it."""
        self._change(
            "UPDATE messages SET content = ?, state = ?, summary = ?, figures = ? WHERE id = ?",
            (safe_text(content), state, safe_text(summary), to_json(figures), message),
        )

    def message(self, message: int) -> MessageRecord:
        """One message."""
        rows = self._database.rows(f"{_MESSAGE} WHERE id = ?", (message,))
        if not rows:
            raise HistoryError(GONE)
        return _message(rows[0])

    def messages(
        self, chat: int, before: int | None = None, limit: int | None = None
    ) -> list[MessageRecord]:
        """The last ``limit`` messages of the chat's current line, the first first; None: all.

        ``before``: those that lead to this message, whichever line it is on. How many lead to a
        message tells its ``depth``.
        """
        last = self.chat(chat).leaf if before is None else self.message(before).parent
        rows = self._database.rows(
            f"{_LINE} {_MESSAGE} JOIN line ON message.id = line.at ORDER BY depth",
            (last, _count(limit), _count(limit)),
        )
        return [_message(row) for row in rows]

    def said_before(self, message: int) -> list[Message]:
        """All that leads to a message, the first first: only what the model is shown."""
        last = self.message(message).parent
        rows = self._database.rows(
            f"{_LINE} SELECT role, content FROM messages JOIN line ON id = line.at ORDER BY depth",
            (last, _count(None), _count(None)),
        )
        return [Message(*row) for row in rows]

    def siblings(self, message: int) -> list[int]:
        """The messages that go on from the same parent, this one among them, the oldest first."""
        rows = self._database.rows(
            "SELECT other.id FROM messages JOIN messages AS other"
            " ON other.parent IS messages.parent AND other.chat = messages.chat"
            " WHERE messages.id = ? ORDER BY other.id",
            (message,),
        )
        return [id for (id,) in rows]

    def newest_below(self, message: int) -> int:
        """The end of the line through ``message`` that was written last."""
        ((id,),) = self._database.rows(f"{_BELOW} SELECT max(id) FROM below", (message,))
        return int(id)

    def set_leaf(self, chat: int, message: int) -> None:
        """Make the line that ends with ``message`` the current one."""
        self._change("UPDATE chats SET leaf = ? WHERE id = ?", (message, chat))

    def delete_from(self, message: int) -> None:
        """Delete a message and all that follows it, for good; the line ends before it."""
        with self.together():
            parent = self.message(message).parent
            ((chat,),) = self._database.rows("SELECT chat FROM messages WHERE id = ?", (message,))
            self._change(
                f"DELETE FROM messages WHERE id IN ({_BELOW} SELECT id FROM below)", (message,)
            )
            self._change(
                "UPDATE chats SET leaf = coalesce(?,"
                " (SELECT max(id) FROM messages WHERE chat = chats.id)) WHERE id = ?",
                (parent, chat),
            )

    # --- whole chats --------------------------------------------------------------------------

    def read_whole(self, chat: int) -> WholeChat:
        """A chat with all its branches."""
        record = self.chat(chat)
        rows = self._database.rows(f"{_MESSAGE} WHERE chat = ? ORDER BY id", (chat,))
        messages = [_message(row) for row in rows]
        places = {message.id: place for place, message in enumerate(messages)}
        return WholeChat(
            title=record.title,
            model=record.model,
            system=record.system,
            preset=record.preset,
            created=record.created,
            updated=record.updated,
            leaf=None if record.leaf is None else places[record.leaf],
            messages=tuple(_whole(message, places) for message in messages),
        )

    def write_whole(self, whole: WholeChat) -> int:
        """Add a chat with all its branches; returns its id. Parents must come first."""
        with self.together():
            chat = self._database.insert(
                "INSERT INTO chats (title, model, created, updated, system, preset)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    clean_title(whole.title),
                    safe_text(whole.model),
                    whole.created,
                    whole.updated,
                    None if whole.system is None else safe_text(whole.system),
                    safe_text(whole.preset),
                ),
            )
            ids: list[int] = []
            for message in whole.messages:
                parent = None if message.parent is None else ids[message.parent]
                ids.append(self._insert(chat, parent, message))
            if whole.leaf is not None:
                self.set_leaf(chat, ids[whole.leaf])
        return chat

    # --- the rest -----------------------------------------------------------------------------

    def _insert(self, chat: int, parent: int | None, message: WholeMessage) -> int:
        return self._database.insert(
            "INSERT INTO messages"
            " (chat, parent, depth, role, content, state, summary, created, made, figures)"
            " VALUES (?1, ?2, 1 + coalesce((SELECT depth FROM messages WHERE id = ?2), 0),"
            " ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            (
                chat,
                parent,
                message.role,
                safe_text(message.content),
                message.state,
                safe_text(message.summary),
                message.created,
                to_json(message.made),
                to_json(message.figures),
            ),
        )

    def _listed(self, rest: str, *values: object) -> list[ChatRecord]:
        return [ChatRecord(*row) for row in self._database.rows(f"{_CHATS} {rest}", values)]

    def _change(self, statement: str, values: tuple[object, ...]) -> None:
        """Run a statement that changes a row; without one, another window was faster."""
        if not self._database.write(statement, values):
            raise HistoryError(GONE)

    def _purge(self) -> None:
        old = self._clock() - UNDO_SECONDS
        if self._database.rows("SELECT 1 FROM chats WHERE deleted < ? LIMIT 1", (old,)):
            self._database.write("DELETE FROM chats WHERE deleted < ?", (old,))


def _count(limit: int | None) -> int:
    """For SQL: None is more than there can be."""
    return 2**62 if limit is None else limit


def clean_title(title: str) -> str:
    """One line without controls, not too long."""
    return " ".join(safe_text(title).split())[:LONGEST_TITLE].rstrip()


def _title(message: str) -> str:
    line = next((line.strip() for line in message.splitlines() if line.strip()), "")
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"


def _message(row: tuple[Any, ...]) -> MessageRecord:
    values: list[Any] = [*row[:-2], from_json(MadeWith, row[-2]), from_json(Figures, row[-1])]
    return MessageRecord(*values)


def _whole(message: MessageRecord, places: dict[int, int]) -> WholeMessage:
    return WholeMessage(
        role=message.role,
        content=message.content,
        state=message.state,
        summary=message.summary,
        created=message.created,
        parent=None if message.parent is None else places[message.parent],
        made=message.made,
        figures=message.figures,
    )
