import sqlite3
from pathlib import Path

import pytest

from app.history import MIGRATIONS, TITLE_LENGTH, History, HistoryError


class Clock:
    """Time that goes on by a second at each look."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "history.sqlite"


def test_what_is_written_is_read_back_by_another_process(path: Path):
    history = History(path, Clock())
    chat = history.new_chat("demo", "Hello")
    history.add_message(chat, "user", "Hello")
    reply = history.add_message(chat, "assistant", "", "writing")
    history.write_message(reply, "Hi", "writing")

    other = History(path, Clock())
    assert [(m.role, m.content, m.state) for m in other.messages(chat)] == [
        ("user", "Hello", "done"),
        ("assistant", "Hi", "writing"),
    ]
    history.write_message(reply, "Hi there", "done", "2 tokens")
    assert other.messages(chat)[1].content == "Hi there"
    assert other.messages(chat)[1].summary == "2 tokens"


def test_the_last_used_chat_comes_first(path: Path):
    history = History(path, Clock())
    first = history.new_chat("demo", "first")
    second = history.new_chat("other", "second")
    assert [chat.id for chat in history.chats()] == [second, first]
    history.add_message(first, "user", "again")
    assert [chat.id for chat in history.chats()] == [first, second]
    assert history.chats()[0].messages == 1
    last = history.last_chat("other")
    assert last is not None
    assert last.id == second
    assert history.last_chat("nobody") is None


def test_a_deleted_chat_takes_its_messages_along(path: Path):
    history = History(path)
    chat = history.new_chat("demo", "x")
    history.add_message(chat, "user", "x")
    history.delete_chat(chat)
    assert history.chats() == []
    assert history.messages(chat) == []


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ("\n\n  What is it?  \nmore", "What is it?"),
        ("", ""),
        ("x" * 100, "x" * (TITLE_LENGTH - 1) + "…"),
    ],
)
def test_a_chat_is_titled_by_its_first_line(path: Path, message: str, title: str):
    history = History(path)
    history.new_chat("demo", message)
    assert history.chats()[0].title == title


def test_the_schema_has_a_version_and_runs_each_migration_once(path: Path):
    History(path).close()
    history = History(path)
    assert history.version == len(MIGRATIONS)
    rows = sqlite3.connect(path).execute("SELECT version FROM migrations").fetchall()
    assert rows == [(version,) for version in range(1, len(MIGRATIONS) + 1)]


def test_the_write_ahead_log_is_on(path: Path):
    History(path)
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_newer_schema_is_not_touched(path: Path):
    History(path).close()
    database = sqlite3.connect(path)
    database.execute("INSERT INTO migrations VALUES (999, 0)")
    database.commit()
    with pytest.raises(HistoryError, match="newer mc-chat; update"):
        History(path)


def test_a_damaged_file_is_named(path: Path):
    path.parent.mkdir()
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(HistoryError, match=r"^[^\n]*is damaged[^\n]*move it away[^\n]*$"):
        History(path)
    assert path.read_bytes().startswith(b"this is no database")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError, match="cannot be made"):
        History(tmp_path / "file" / "history.sqlite")


def test_a_failed_write_raises_and_leaves_the_rest(path: Path):
    history = History(path)
    chat = history.new_chat("demo", "x")
    with pytest.raises(HistoryError):
        history.add_message(chat + 1, "user", "to a chat that is not there")
    history.add_message(chat, "user", "to one that is")
    assert len(history.messages(chat)) == 1


def test_a_broken_off_write_loses_only_what_was_not_written(path: Path):
    history = History(path)
    chat = history.new_chat("demo", "x")
    reply = history.add_message(chat, "assistant", "", "writing")
    history.write_message(reply, "half a", "writing")
    # No close: as after a kill. The write-ahead log is read by whoever opens next.
    copy = History(path)
    assert copy.messages(chat)[0].content == "half a"
    assert copy.messages(chat)[0].state == "writing"
