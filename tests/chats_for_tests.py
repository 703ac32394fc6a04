"""Chats for tests: said in one go, or written as the first version of the program did."""

import sqlite3
from pathlib import Path

from app.history import History, MessageRecord
from app.history.schema import MIGRATIONS


class Clock:
    """Time that goes on by a second at each look."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        self.now += 1
        return self.now


def say_all(history: History, chat: int, *texts: str) -> list[MessageRecord]:
    """Add messages at the end of the current line, the user's and the model's in turn."""
    parent = history.chat(chat).leaf
    said: list[MessageRecord] = []
    for number, text in enumerate(texts):
        role = "assistant" if number % 2 else "user"
        said.append(history.add_message(chat, parent, role, text))
        parent = said[-1].id
    return said


def old_history(path: Path, chats: dict[str, list[str]]) -> None:
    """A file of the first schema; ``chats`` are titles and what was said."""
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE migrations (version INTEGER PRIMARY KEY, ran REAL NOT NULL)")
    for statement in MIGRATIONS[0]:
        database.execute(statement)
    database.execute("INSERT INTO migrations VALUES (1, 0)")
    rows = [
        (chat, number, text)
        for chat, texts in enumerate(chats.values(), start=1)
        for number, text in enumerate(texts)
    ]
    for chat, title in enumerate(chats, start=1):
        database.execute("INSERT INTO chats VALUES (?, ?, 'demo', 1, ?)", (chat, title, chat))
    # As they happened: the chats took turns.
    for chat, number, text in sorted(rows, key=lambda row: row[1]):
        role = "assistant" if number % 2 else "user"
        database.execute(
            "INSERT INTO messages (chat, role, content, state, summary, created)"
            " VALUES (?, ?, ?, 'done', '', ?)",
            (chat, role, text, number),
        )
    database.commit()
    database.close()
