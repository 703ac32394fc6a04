"""Searching chats: what is found, in which order, and that the index follows every change."""

import sqlite3
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.history import History
from app.history.search import SNIPPET_LENGTH, Query, snippet
from tests.chats_for_tests import Clock, say_all


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


@pytest.fixture(params=[True, False], ids=["fts5", "like"])
def history(request: pytest.FixtureRequest, path: Path) -> Iterator[History]:
    history = History(path, Clock(), indexed=request.param)
    yield history
    history.close()


def add(history: History, title: str, *texts: str) -> int:
    chat = history.new_chat("demo", title)
    say_all(history, chat, *texts)
    return chat


def titles(history: History, text: str) -> list[str]:
    return [found.chat.title for found in history.search(text)]


# --- what is found --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("duck", ["ponds"]),
        ("DUC", ["ponds"]),
        ("ducks swim", ["ponds"]),
        ("swim duck", ["ponds"]),
        ("duck fly", []),
        ("Müller", ["mills"]),
        ("東京", ["towers"]),
        ("京タ", ["towers"]),
        ("塔", ["towers"]),
        ("学", []),
        ("->", ["types"]),
        ("🙂", ["mills"]),
        ("mill", ["mills"]),
        ("", []),
        ("  ", []),
    ],
)
def test_words_prefixes_umlauts_cjk_and_signs(history: History, query: str, found: list[str]):
    add(history, "ponds", "Do Ducks swim?", "They do.")
    add(history, "mills", "Herr Müller mahlt 🙂", "Gewiss.")
    add(history, "towers", "我想去東京タワー看塔", "好")
    add(history, "types", "def f() -> int: ...", "A function.")
    assert titles(history, query) == found


def test_accents_may_be_left_out_where_there_is_an_index(path: Path):
    history = History(path, indexed=True)
    add(history, "cafés", "Señor Müller, ÉCLAIR")
    for query in ("muller", "MÜLL", "eclair", "senor cafe", "éclair"):
        found = history.search(query)
        assert [hit.chat.title for hit in found] == (["cafés"] if query != "senor cafe" else [])
    assert titles(history, "cafe") == ["cafés"]


@pytest.mark.parametrize(
    "query",
    [
        '"', '""', "'", "a\"b", "AND", "OR NOT", "NEAR(a b)", "text:a", "-a", "a*", "*", "^a",
        "(", ")", "{a}", "a + b", "%", "_", "\\", "\x00", "a\x00b", "\ud800", "; DROP TABLE chats",
        "x" * 10_000, "a " * 1000,
    ],
)  # fmt: skip
def test_any_input_is_safe(history: History, query: str):
    add(history, "letters", "a b")
    assert set(titles(history, query)) <= {"letters"}
    assert len(history.chats()) == 1


def test_signs_of_like_are_plain_text(history: History):
    add(history, "half", "50%")
    add(history, "snake", "a_b \\")
    assert titles(history, "%") == ["half"]
    assert titles(history, "_") == (["snake"])
    assert titles(history, "\\") == ["snake"]


def test_titles_come_first_and_each_chat_once(history: History):
    add(history, "geese", "a duck", "a duck, and a duck again", "duck")
    add(history, "duck", "unrelated")
    found = history.search("duck")
    assert [hit.chat.title for hit in found] == ["duck", "geese"]
    assert found[0].message is None
    assert found[1].message is not None


def test_the_best_message_comes_first_where_there_is_an_index(path: Path):
    history = History(path, indexed=True)
    add(history, "long", "a duck among " + "many other words " * 30)
    add(history, "short", "duck, duck")
    assert titles(history, "duck") == ["short", "long"]


def test_other_branches_are_searched_too(history: History):
    chat = add(history, "birds", "a duck", "quack")
    history.add_message(chat, None, "user", "a goose")
    assert titles(history, "duck") == ["birds"]


def test_deleted_chats_are_not_found_until_they_are_back(history: History):
    chat = add(history, "birds", "a duck")
    history.delete_chat(chat)
    assert titles(history, "duck") == titles(history, "birds") == []
    history.restore_chat(chat)
    assert titles(history, "duck") == titles(history, "birds") == ["birds"]


def test_what_a_crash_cut_off_is_found(history: History):
    chat = add(history, "birds", "x")
    history.add_message(chat, None, "assistant", "half a duck", "writing")
    assert titles(history, "duck half") == ["birds"]


# --- the index follows ----------------------------------------------------------------------------


def test_changes_reach_the_index(history: History):
    chat = add(history, "birds", "a duck", "quack")
    history.rename(chat, "fowl")
    assert (titles(history, "birds"), titles(history, "fowl")) == ([], ["fowl"])
    reply = history.messages(chat)[1]
    history.write_message(reply.id, "honk", "writing")
    assert (titles(history, "quack"), titles(history, "honk")) == ([], ["fowl"])
    history.write_message(reply.id, "honk, honk", "done")
    assert titles(history, "honk") == ["fowl"]
    history.delete_from(reply.id)
    assert titles(history, "honk") == []


def indexed_rows(path: Path) -> dict[int, str]:
    return dict(sqlite3.connect(path).execute("SELECT rowid, text FROM search").fetchall())


def kept_rows(path: Path) -> dict[int, str]:
    database = sqlite3.connect(path)
    rows = database.execute("SELECT id, content FROM messages WHERE state <> 'writing'").fetchall()
    return dict(rows) | dict(database.execute("SELECT -id, title FROM chats").fetchall())


def test_purging_empties_the_index(path: Path):
    clock = Clock()
    history = History(path, clock, indexed=True)
    history.delete_chat(add(history, "birds", "a duck", "quack"))
    add(history, "fish", "a pike")
    clock.now += 10**6
    History(path, clock, indexed=True)
    assert indexed_rows(path) == kept_rows(path)
    assert len(indexed_rows(path)) == 2


def test_a_file_moves_between_systems_with_and_without_fts5(path: Path):
    with_index = History(path, indexed=True)
    chat = add(with_index, "birds", "a duck")
    with_index.close()
    without = History(path, indexed=False)
    add(without, "fish", "a pike")
    without.rename(chat, "fowl")
    without.close()
    again = History(path, indexed=True)
    assert titles(again, "pike") == ["fish"]
    assert titles(again, "fowl") == ["fowl"]
    assert indexed_rows(path) == kept_rows(path)


alphabet = st.sampled_from("abcABC äÄé東京 .->'\"%\n")
texts = st.text(alphabet, max_size=20)


def words_of(text: str) -> list[str]:
    """As the index should see a text: folded words, CJK characters on their own."""
    words, word = [], ""
    for character in unicodedata.normalize("NFKD", text).lower():
        if unicodedata.combining(character):
            continue
        if character in "東京":
            words += [word, character]
            word = ""
        elif character.isalnum():
            word += character
        else:
            words.append(word)
            word = ""
    return [found for found in (*words, word) if found]


def matches(query: str, text: str) -> bool:
    """Brute force: every term's words stand in a row in the text, the last one begins like it."""
    there = words_of(text)
    for term in query.split():
        wanted = words_of(term)
        if not wanted:
            if term.lower() not in text.lower():
                return False
            continue
        places = range(len(there) - len(wanted) + 1)
        if not any(
            there[at : at + len(wanted) - 1] == wanted[:-1]
            and there[at + len(wanted) - 1].startswith(wanted[-1])
            for at in places
        ):
            return False
    return bool(query.split())


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(said=st.lists(texts, min_size=1, max_size=6), query=texts)
def test_the_index_finds_what_looking_through_everything_finds(said: list[str], query: str):
    history = History(Path(":memory:"), indexed=True)
    chats = [history.new_chat("demo", "") for _ in said]
    for chat, text in zip(chats, said, strict=True):
        history.add_message(chat, None, "user", text)
    found = {hit.chat.id for hit in history.search(query)}
    assert found == {chat for chat, text in zip(chats, said, strict=True) if matches(query, text)}
    history.close()


# --- snippets -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(text=texts, query=texts)
def test_marks_are_in_order_apart_and_inside(text: str, query: str):
    piece, marks = snippet(text, Query(query))
    ends = [0, *(place for mark in marks for place in mark), len(piece)]
    assert ends == sorted(ends)
    assert all(start < end for start, end in marks)


def test_a_snippet_shows_what_was_found_far_inside():
    text = "word " * 500 + "then\nthe Ducké swims " + "more " * 500
    piece, marks = snippet(text, Query("swim duck"))
    assert len(piece) <= SNIPPET_LENGTH + 1
    assert [piece[start:end] for start, end in marks] == ["Duck", "swim"]
    assert piece.startswith("…")
    assert "\n" not in piece


def test_only_the_beginning_of_a_word_is_marked():
    piece, marks = snippet("a reduction of ducks; 東京京", Query("duc 京"))
    assert [piece[start:end] for start, end in marks] == ["duc", "京", "京"]
    assert marks[0][0] == piece.index("ducks")


QUERIES = ("aaord1", "ba", "ceord4 du")
"""Each is in hundreds of the messages."""


def test_a_search_looks_at_no_message_that_the_index_does_not_name(path: Path):
    history = History(path, indexed=True)
    connection = history._database.connection
    for query in QUERIES:
        asked: list[str] = []
        connection.set_trace_callback(asked.append)
        history.search(query)
        connection.set_trace_callback(None)
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {asked[0]}")]
        tables = [step for step in plan if step.startswith(("SCAN messages", "SCAN chats"))]
        assert tables == ["SCAN messages USING INDEX messages_being_written"]
        assert any(step.startswith("SCAN search VIRTUAL TABLE INDEX") for step in plan)


def test_ten_thousand_messages_are_searched_in_a_moment(path: Path):
    """Ten times as long as looking through them all is allowed: that takes some milliseconds, and
    weighs nothing. Processor time of this thread: others use this machine too."""
    fill(path)
    for query in QUERIES:
        found, seconds = searched(path, query, indexed=True)
        same, control = searched(path, query, indexed=False)
        assert found == same > 0
        assert seconds < 10 * control


def searched(path: Path, query: str, indexed: bool) -> tuple[int, float]:
    """How many chats are found, and the shortest time of several."""
    history = History(path, indexed=indexed)
    seconds = []
    for _ in range(7):
        started = time.thread_time()
        found = history.search(query, limit=None)
        seconds.append(time.thread_time() - started)
    history.close()
    return len(found), min(seconds)


def fill(path: Path) -> None:
    """A hundred chats of a hundred messages of forty words."""
    history = History(path, indexed=True)
    history.close()
    database = sqlite3.connect(path)
    database.create_function("spaced", 1, str)
    words = [
        f"{first}{second}ord{number}"
        for number in range(50)
        for first in "abcd"
        for second in "aeiou"
    ]
    with database:
        for chat in range(1, 101):
            database.execute(
                "INSERT INTO chats (id, title, model, created, updated)"
                " VALUES (?, 'x', 'demo', 1, 1)",
                (chat,),
            )
            database.executemany(
                "INSERT INTO messages (chat, role, content, state, summary, created)"
                " VALUES (?, 'user', ?, 'done', '', 1)",
                [
                    (chat, " ".join(words[(chat * 7 + n * 13 + k * 31) % 1000] for k in range(40)))
                    for n in range(100)
                ],
            )
    database.close()
