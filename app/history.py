"""Every chat, kept in one SQLite file as it happens.

Write-ahead logging: a crash loses at most the last transaction, and a second mc-chat can read and
write beside this one. A message without a ``state`` was being written when something broke.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.errors import McChatError
from engine.protocol import Role

TITLE_LENGTH = 60

State = Literal["writing", "done", "stopped", "failed"]
"""Of a message. One that is "writing" when it is read was cut off by a crash."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE chats (
            id INTEGER PRIMARY KEY,
            title TEXT NOT NULL,
            model TEXT NOT NULL,
            created REAL NOT NULL,
            updated REAL NOT NULL
        ) STRICT""",
        "CREATE INDEX chats_by_update ON chats (updated DESC)",
        """CREATE TABLE messages (
            id INTEGER PRIMARY KEY,
            chat INTEGER NOT NULL REFERENCES chats ON DELETE CASCADE,
            role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant')),
            content TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('writing', 'done', 'stopped', 'failed')),
            summary TEXT NOT NULL,
            created REAL NOT NULL
        ) STRICT""",
        "CREATE INDEX messages_by_chat ON messages (chat, id)",
    ),
)
"""The statements that make each schema version of the one before. Never edit one: add the next."""


_CHATS = (
    "SELECT id, title, model, created, updated,"
    " (SELECT count(*) FROM messages WHERE chat = chats.id) FROM chats"
)


class HistoryError(McChatError):
    """The history cannot be opened or written."""


@dataclass(frozen=True)
class ChatRecord:
    """A chat in the list. Times in seconds since 1970; ``messages`` is a count."""

    id: int
    title: str
    model: str
    created: float
    updated: float
    messages: int


@dataclass(frozen=True)
class MessageRecord:
    """One message; ``summary`` is the line below a reply: its tokens, speed and pruning."""

    id: int
    role: Role
    content: str
    state: State
    summary: str


class History:
    """The open file. All calls are short: a write takes well under a millisecond."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open or create the file and bring its schema up to date. Raises HistoryError."""
        self._path = path
        self._clock = clock
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute("PRAGMA foreign_keys = ON")
            self._migrate()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @property
    def version(self) -> int:
        """The schema's version: how many migrations have run."""
        ((version,),) = self._rows("SELECT coalesce(max(version), 0) FROM migrations")
        return int(version)

    def new_chat(self, model: str, first_message: str) -> int:
        """Begin a chat, titled by its first message; returns its id."""
        now = self._clock()
        return self._write(
            "INSERT INTO chats (title, model, created, updated) VALUES (?, ?, ?, ?)",
            (_title(first_message), model, now, now),
        )

    def add_message(self, chat: int, role: Role, content: str, state: State = "done") -> int:
        """Append a message to a chat; returns its id."""
        now = self._clock()
        with self._transaction():
            self._database.execute("UPDATE chats SET updated = ? WHERE id = ?", (now, chat))
            cursor = self._database.execute(
                "INSERT INTO messages (chat, role, content, state, summary, created)"
                " VALUES (?, ?, ?, ?, '', ?)",
                (chat, role, content, state, now),
            )
        return int(cursor.lastrowid or 0)

    def write_message(self, message: int, content: str, state: State, summary: str = "") -> None:
        """Replace a message's text and state."""
        self._write(
            "UPDATE messages SET content = ?, state = ?, summary = ? WHERE id = ?",
            (content, state, summary, message),
        )

    def delete_chat(self, chat: int) -> None:
        """Delete a chat and its messages."""
        self._write("DELETE FROM chats WHERE id = ?", (chat,))

    def chats(self, limit: int = 200) -> list[ChatRecord]:
        """The chats, the last used first."""
        rows = self._rows(f"{_CHATS} ORDER BY updated DESC, id DESC LIMIT ?", (limit,))
        return [ChatRecord(*row) for row in rows]

    def last_chat(self, model: str) -> ChatRecord | None:
        """The chat last used with a model."""
        last = "WHERE model = ? ORDER BY updated DESC, id DESC LIMIT 1"
        rows = self._rows(f"{_CHATS} {last}", (model,))
        return ChatRecord(*rows[0]) if rows else None

    def messages(self, chat: int) -> list[MessageRecord]:
        """The messages of a chat, the first first."""
        rows = self._rows(
            "SELECT id, role, content, state, summary FROM messages WHERE chat = ? ORDER BY id",
            (chat,),
        )
        return [MessageRecord(*row) for row in rows]

    def _migrate(self) -> None:
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, ran REAL NOT NULL)"
        )
        if self.version > len(MIGRATIONS):
            raise HistoryError(
                f"{self._path} was written by a newer mc-chat; update mc-chat to open it"
            )
        # One transaction, entered before the version is read: another mc-chat may migrate too.
        with self._transaction():
            for version, statements in enumerate(MIGRATIONS, start=1):
                if version > self.version:
                    for statement in statements:
                        self._database.execute(statement)
                    self._database.execute(
                        "INSERT INTO migrations VALUES (?, ?)", (version, self._clock())
                    )

    def _rows(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        with self._explained():
            return self._database.execute(statement, values).fetchall()

    def _write(self, statement: str, values: tuple[object, ...]) -> int:
        with self._explained():
            return int(self._database.execute(statement, values).lastrowid or 0)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise HistoryError(
                f"the chat history {self._path} cannot be used: {error};"
                " check its folder and the disk's free space"
            ) from None
        except sqlite3.DatabaseError as error:
            raise HistoryError(
                f"the chat history {self._path} is damaged ({error});"
                " move it away and mc-chat starts a new one"
            ) from None
        except OSError as error:
            raise HistoryError(f"the chat history {self._path} cannot be made: {error}") from None


def _title(message: str) -> str:
    line = next((line.strip() for line in message.splitlines() if line.strip()), "")
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"
