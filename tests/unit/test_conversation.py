from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import units
from app.conversation import Conversation, summary
from app.history import History
from engine.protocol import Finished, Message, Meters


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history.sqlite")


def test_an_empty_chat_leaves_no_trace(history: History):
    Conversation(history, "demo")
    assert history.chats() == []


def test_the_prompt_is_what_was_said_with_the_system_text_first(history: History):
    chat = Conversation(history, "demo", system="Be brief.")
    chat.say("Hello", 1)
    assert chat.prompt() == (Message("system", "Be brief."), Message("user", "Hello"))
    chat.add("Hi")
    chat.end("done")
    chat.say("Bye", 2)
    assert [message.content for message in chat.prompt()] == ["Be brief.", "Hello", "Hi", "Bye"]


def test_a_reply_is_saved_as_it_grows(history: History):
    chat = Conversation(history, "demo")
    chat.say("Hello", 1)
    chat.add("Good ")
    chat.save()
    assert history.messages(chat.chat)[1].content == "Good "
    chat.add("morning")
    assert history.messages(chat.chat)[1].content == "Good "
    chat.end("stopped", "2 tokens")
    assert history.messages(chat.chat)[1].content == "Good morning"
    assert history.messages(chat.chat)[1].state == "stopped"


def test_saving_without_news_writes_nothing(history: History, monkeypatch: pytest.MonkeyPatch):
    chat = Conversation(history, "demo")
    chat.say("Hello", 1)
    chat.add("x")
    chat.save()
    monkeypatch.setattr(history, "write_message", lambda *_: pytest.fail("written again"))
    chat.save()


def test_a_chat_goes_on_where_it_was_left(history: History):
    chat = Conversation(history, "demo")
    chat.say("Hello", 1)
    chat.add("Hi")
    chat.end("done")
    again = Conversation(history, "demo", chat=chat.chat)
    assert again.prompt() == chat.prompt()
    again.say("More", 2)
    assert len(history.chats()) == 1


def test_terminal_controls_never_reach_the_history(history: History):
    chat = Conversation(history, "demo")
    chat.say("Hello", 1)
    assert chat.add("\x1b[2Jred\x07") == "[2Jred"
    chat.end("done")
    assert history.messages(chat.chat)[1].content == "[2Jred"


@pytest.mark.parametrize(
    ("reason", "ending"),
    [("stop", ""), ("cancelled", " · stopped"), ("length", " · cut at the token limit")],
)
def test_the_line_below_a_reply(reason: str, ending: str):
    finished = Finished(1, "text", 1200, 30, 12.34, reason, Meters(prune_ratio=0.314))
    assert summary(finished) == "1,200 tokens · 12.3 tokens/s · 31 % pruned" + ending


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (4_196_000, "4.20 MB"),
        (999_600, "1.00 MB"),
        (21_340_000_000, "21.3 GB"),
        (612_000_000, "612 MB"),
    ],
)
def test_sizes(count: int, shown: str):
    assert units.size(count) == shown


@given(st.integers(0, 10**15))
def test_sizes_have_three_digits_and_the_right_magnitude(count: int):
    number, unit = units.size(count).split()
    assert len(number.replace(".", "")) <= 4
    factor = 1000 ** ["B", "kB", "MB", "GB", "TB"].index(unit)
    assert float(number) * factor == pytest.approx(count, rel=0.006, abs=0.5)


def test_counts_shares_and_times():
    assert units.quantity(46_702_792_704) == "46.7 B"
    assert units.quantity(512) == "512"
    assert units.share(0.314) == "31 %"
    assert units.share(0.0123) == "1.2 %"
    assert units.share(0) == "0 %"
    assert units.clock(7.4) == "0:07"
    assert units.clock(3723) == "1:02:03"
