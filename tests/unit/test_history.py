import sqlite3
from pathlib import Path

import pytest

from app.history import (
    TITLE_LENGTH,
    Figures,
    History,
    HistoryError,
    MadeWith,
    MessageRecord,
)
from app.history.schema import MIGRATIONS
from app.history.store import UNDO_SECONDS
from engine.protocol import SamplingOptions
from tests.chats_for_tests import Clock, old_history, say_all

FIGURES = Figures(12, 30, 41.5, 0.25, 0.31, 0.28, "length")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "history.sqlite"


def contents(messages: list[MessageRecord]) -> list[str]:
    return [message.content for message in messages]


# --- chats ----------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_by_another_process(path: Path):
    history = History(path, Clock())
    chat = history.new_chat("demo", "Hello", system="Be brief.", preset="terse")
    said = history.add_message(chat, None, "user", "Hello")
    made = MadeWith("demo", 2.5, "cpu", "Be brief.", "off", SamplingOptions(seed=7), 99, 3)
    reply = history.add_message(chat, said.id, "assistant", "", "writing", made)
    history.write_message(reply.id, "Hi", "writing")

    other = History(path, Clock())
    assert other.chat(chat).system == "Be brief."
    assert other.chat(chat).preset == "terse"
    assert [(m.role, m.content, m.state) for m in other.messages(chat)] == [
        ("user", "Hello", "done"),
        ("assistant", "Hi", "writing"),
    ]
    history.write_message(reply.id, "Hi there", "done", "2 tokens", FIGURES)
    kept = other.messages(chat)[1]
    assert (kept.content, kept.summary, kept.made, kept.figures) == (
        "Hi there",
        "2 tokens",
        made,
        FIGURES,
    )


def test_the_last_used_chat_comes_first(path: Path):
    history = History(path, Clock())
    first = history.new_chat("demo", "first")
    second = history.new_chat("other", "second")
    assert [chat.id for chat in history.chats()] == [second, first]
    history.add_message(first, None, "user", "again")
    assert [chat.id for chat in history.chats()] == [first, second]
    assert history.chats()[0].messages == 1
    last = history.last_chat("other")
    assert last is not None
    assert last.id == second
    assert history.last_chat("nobody") is None


def test_a_chat_belongs_to_the_model_that_answered_last(path: Path):
    history = History(path, Clock())
    chat = history.new_chat("demo", "x")
    history.add_message(chat, None, "assistant", "y", made=MadeWith("other"))
    assert history.chat(chat).model == "other"


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ("\n\n  What is it?  \nmore", "What is it?"),
        ("", ""),
        ("x" * 100, "x" * (TITLE_LENGTH - 1) + "…"),
        ("\x1b[31mred\x07", "[31mred"),
    ],
)
def test_a_chat_is_titled_by_its_first_line(path: Path, message: str, title: str):
    history = History(path)
    history.new_chat("demo", message)
    assert history.chats()[0].title == title


def test_renaming_keeps_one_clean_line(path: Path):
    history = History(path)
    chat = history.new_chat("demo", "x")
    history.rename(chat, "  Ducks\x1b[2J\n and geese ")
    assert history.chat(chat).title == "Ducks[2J and geese"
    history.rename(chat, " \n ")
    assert history.chat(chat).title == "Ducks[2J and geese"
    history.rename(chat, "x" * 1000)
    assert len(history.chat(chat).title) == 200


def test_a_deleted_chat_can_be_brought_back_for_a_day(path: Path):
    clock = Clock()
    history = History(path, clock)
    chat, other = (history.new_chat("demo", title) for title in ("x", "y"))
    say_all(history, chat, "a", "b")
    history.delete_chat(chat)
    assert [kept.id for kept in history.chats()] == [other]
    assert history.last_chat("demo").id == other
    assert [gone.id for gone in history.deleted_chats()] == [chat]
    clock.now += UNDO_SECONDS - 60
    History(path, clock).restore_chat(chat)
    assert contents(history.messages(chat)) == ["a", "b"]

    history.delete_chat(chat)
    clock.now += UNDO_SECONDS + 60
    History(path, clock)
    with pytest.raises(HistoryError, match="no chat"):
        history.chat(chat)
    assert sqlite3.connect(path).execute("SELECT count(*) FROM messages").fetchone() == (0,)


def test_a_long_chat_can_be_purged(path: Path):
    clock = Clock()
    history = History(path, clock)
    chat = history.new_chat("demo", "x")
    with history.together():
        say_all(history, chat, *map(str, range(1500)))
    history.delete_chat(chat)
    clock.now += 2 * UNDO_SECONDS
    assert History(path, clock).deleted_chats() == []


# --- the tree -------------------------------------------------------------------------------------


def test_siblings_lose_nothing_and_the_leaf_says_which_line_is_current(path: Path):
    history = History(path, Clock())
    chat = history.new_chat("demo", "q")
    question, answer = say_all(history, chat, "q", "first answer")
    again = history.add_message(chat, question.id, "assistant", "second answer")
    assert contents(history.messages(chat)) == ["q", "second answer"]
    assert (again.branch, again.branches, again.depth) == (2, 2, 2)
    assert (history.message(answer.id).branch, history.message(answer.id).branches) == (1, 2)
    assert history.siblings(again.id) == [answer.id, again.id]
    assert history.siblings(question.id) == [question.id]

    more = history.add_message(chat, answer.id, "user", "more")
    assert contents(history.messages(chat)) == ["q", "first answer", "more"]
    assert history.newest_below(question.id) == more.id
    assert history.newest_below(again.id) == again.id
    history.set_leaf(chat, again.id)
    assert contents(history.messages(chat)) == ["q", "second answer"]
    assert history.chats()[0].messages == 2


def test_first_messages_can_have_siblings_too(path: Path):
    history = History(path, Clock())
    chat, other = history.new_chat("demo", "a"), history.new_chat("demo", "b")
    first, _ = say_all(history, chat, "a", "A")
    say_all(history, other, "b", "B")
    changed = history.add_message(chat, None, "user", "a, better")
    assert history.siblings(first.id) == [first.id, changed.id]
    assert contents(history.messages(chat)) == ["a, better"]


def test_pages_of_the_current_line(path: Path):
    history = History(path, Clock())
    chat = history.new_chat("demo", "x")
    say_all(history, chat, *map(str, range(25)))
    page = history.messages(chat, limit=10)
    assert contents(page) == [str(number) for number in range(15, 25)]
    assert page[0].depth == 16
    before = history.messages(chat, before=page[0].id, limit=10)
    assert contents(before) == [str(number) for number in range(5, 15)]
    first = history.messages(chat, before=before[0].id, limit=10)
    assert contents(first) == [str(number) for number in range(5)]
    assert history.messages(chat, before=first[0].id, limit=10) == []
    assert history.messages(chat, limit=0) == []
    assert contents(history.messages(chat)) == [str(number) for number in range(25)]


def test_deleting_a_message_deletes_what_follows_and_the_line_ends_before_it(path: Path):
    history = History(path, Clock())
    chat = history.new_chat("demo", "x")
    _, answer, question, _ = say_all(history, chat, "a", "b", "c", "d")
    history.add_message(chat, question.id, "assistant", "e")
    history.delete_from(question.id)
    assert contents(history.messages(chat)) == ["a", "b"]
    assert history.chat(chat).leaf == answer.id
    with pytest.raises(HistoryError, match="deleted by another"):
        history.delete_from(question.id)


def test_deleting_one_of_two_first_messages_leaves_the_other(path: Path):
    history = History(path, Clock())
    chat = history.new_chat("demo", "x")
    say_all(history, chat, "a", "A")
    changed = history.add_message(chat, None, "user", "b")
    history.delete_from(changed.id)
    assert contents(history.messages(chat)) == ["a", "A"]


# --- two windows ----------------------------------------------------------------------------------


def test_two_windows_in_one_chat_make_branches(path: Path):
    here, there = History(path), History(path)
    chat = here.new_chat("demo", "x")
    _, answer = say_all(here, chat, "a", "b")
    mine = here.add_message(chat, answer.id, "user", "mine")
    theirs = there.add_message(chat, answer.id, "user", "theirs")
    assert here.siblings(mine.id) == [mine.id, theirs.id]
    reply = here.add_message(chat, mine.id, "assistant", "to me", "writing")
    there.add_message(chat, theirs.id, "assistant", "to them")
    here.write_message(reply.id, "to me, all of it", "done")
    assert contents(here.messages(chat)) == ["a", "b", "theirs", "to them"]
    here.set_leaf(chat, reply.id)
    assert contents(there.messages(chat)) == ["a", "b", "mine", "to me, all of it"]


def test_saying_more_brings_back_a_chat_that_another_window_deleted(path: Path):
    here, there = History(path), History(path)
    chat = here.new_chat("demo", "x")
    (said,) = say_all(here, chat, "a")
    there.delete_chat(chat)
    here.add_message(chat, said.id, "assistant", "b")
    assert [kept.id for kept in there.chats()] == [chat]


def test_writing_to_what_is_gone_is_one_clear_line(path: Path):
    here, there = History(path), History(path)
    chat = here.new_chat("demo", "x")
    said, reply = say_all(here, chat, "a", "b")
    there.delete_from(said.id)
    for write in (
        lambda: here.add_message(chat, reply.id, "user", "c"),
        lambda: here.add_message(chat + 1, None, "user", "c"),
        lambda: here.write_message(reply.id, "more", "done"),
        lambda: here.rename(chat + 1, "nobody"),
    ):
        with pytest.raises(HistoryError, match=r"^[^\n]*deleted by another[^\n]*open[^\n]*$"):
            write()


def test_together_is_all_or_nothing(path: Path):
    history = History(path)

    def fail() -> None:
        with history.together():
            chat = history.new_chat("demo", "x")
            history.add_message(chat, None, "user", "x")
            history.add_message(chat, 999, "assistant", "y")

    with pytest.raises(HistoryError):
        fail()
    assert history.chats() == []
    history.new_chat("demo", "and on it goes")


# --- the file -------------------------------------------------------------------------------------


def test_the_schema_has_a_version_and_runs_each_migration_once(path: Path):
    History(path).close()
    history = History(path)
    assert history.version == len(MIGRATIONS)
    rows = sqlite3.connect(path).execute("SELECT version FROM migrations").fetchall()
    assert rows == [(version,) for version in range(1, len(MIGRATIONS) + 1)]


@pytest.mark.parametrize("indexed", [True, False])
def test_chats_of_the_first_version_become_one_line_each(path: Path, indexed: bool):
    lines = {"ducks": ["a", "b", "c"], "none": [], "geese": ["d", "e"]}
    old_history(path, lines)
    history = History(path, indexed=indexed)
    titles = {chat.title: chat for chat in history.chats()}
    assert set(titles) == set(lines)
    for title, said in lines.items():
        messages = history.messages(titles[title].id)
        assert contents(messages) == said
        assert [message.depth for message in messages] == list(range(1, len(said) + 1))
        assert titles[title].messages == len(said)
        assert titles[title].system is None
        assert all(message.made is None and message.branches == 1 for message in messages)
    last = history.messages(titles["geese"].id)[-1]
    history.add_message(titles["geese"].id, last.id, "user", "f")
    assert contents(history.messages(titles["geese"].id)) == ["d", "e", "f"]
    assert [found.chat.title for found in history.search("geese")] == ["geese"]


def test_what_another_version_noted_of_a_reply_counts_as_unknown(path: Path):
    history = History(path)
    chat = history.new_chat("demo", "x")
    say_all(history, chat, "a", "b")
    database = sqlite3.connect(path)
    database.execute("UPDATE messages SET made = '{\"spell\": 3}', figures = '[1'")
    database.commit()
    assert history.messages(chat)[1].made is None
    assert history.messages(chat)[1].figures is None


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


def test_a_broken_off_write_loses_only_what_was_not_written(path: Path):
    history = History(path)
    chat = history.new_chat("demo", "x")
    reply = history.add_message(chat, None, "assistant", "", "writing")
    history.write_message(reply.id, "half a", "writing")
    # No close: as after a kill. The write-ahead log is read by whoever opens next.
    copy = History(path)
    assert copy.messages(chat)[0].content == "half a"
    assert copy.messages(chat)[0].state == "writing"
