"""The open file: its schema, its transactions, and its errors in one line each."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.history.schema import MIGRATIONS
from engine.errors import McChatError

BUSY_SECONDS = 5.0
"""How long a write waits for another window's; those take milliseconds."""

GONE = "this message or its chat was deleted by another mc-chat; open it again or begin a new one"

Values = tuple[object, ...]


class HistoryError(McChatError):
    """The history cannot be opened or written, or what is asked for is not in it any more."""


class Database:
    """One connection, with the schema of this version.

    Write-ahead logging: a crash loses at most the last transaction, and a second mc-chat can read
    and write beside this one.
    """

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        """Open or create the file and bring its schema up to date. Raises HistoryError."""
        self.path = path
        self._clock = clock
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")
            self.connection.execute("PRAGMA foreign_keys = ON")
            self._migrate()

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @property
    def version(self) -> int:
        """The schema's version: how many migrations have run."""
        ((version,),) = self.rows("SELECT coalesce(max(version), 0) FROM migrations")
        return int(version)

    def rows(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._explained():
            return self.connection.execute(statement, values).fetchall()

    def write(self, statement: str, values: Values = ()) -> int:
        """Run one statement; returns how many rows it changed."""
        with self._explained():
            return self.connection.execute(statement, values).rowcount

    def insert(self, statement: str, values: Values) -> int:
        """Add one row; returns its id."""
        with self._explained():
            return int(self.connection.execute(statement, values).lastrowid or 0)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written within, or nothing of it. One within another is part of that."""
        if self.connection.in_transaction:
            yield
            return
        with self._explained():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:  # SQLite may have rolled back by itself
                    self.connection.execute("ROLLBACK")
                raise

    def _migrate(self) -> None:
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, ran REAL NOT NULL)"
        )
        if self.version > len(MIGRATIONS):
            raise HistoryError(
                f"{self.path} was written by a newer mc-chat; update mc-chat to open it"
            )
        if self.version == len(MIGRATIONS):
            return
        # One transaction, and the version is read again within: another mc-chat may migrate too.
        with self.transaction():
            for version, statements in enumerate(MIGRATIONS, start=1):
                if version > self.version:
                    for statement in statements:
                        self.connection.execute(statement)
                    self.connection.execute(
                        "INSERT INTO migrations VALUES (?, ?)", (version, self._clock())
                    )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise HistoryError(GONE) from None
        except (sqlite3.OperationalError, sqlite3.ProgrammingError) as error:
            raise HistoryError(
                f"the chat history {self.path} cannot be used: {error};"
                " check its folder and the disk's free space"
            ) from None
        except sqlite3.DatabaseError as error:
            raise HistoryError(
                f"the chat history {self.path} is damaged ({error});"
                " move it away and mc-chat starts a new one"
            ) from None
        except OSError as error:
            raise HistoryError(f"the chat history {self.path} cannot be made: {error}") from None
