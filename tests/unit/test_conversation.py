from pathlib import Path

import pytest

from app.conversation import PAGE, Conversation
from app.history import History, HistoryError, MadeWith
from engine.protocol import Finished, Message, Meters, SamplingOptions
from tests.chats_for_tests import say_all


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history.sqlite")


def finished(reason: str = "stop", tokens: int = 2) -> Finished:
    return Finished(1, "", tokens, 30, 10.0, reason, Meters(prune_ratio=0.25))


def talk(chat: Conversation, *texts: str) -> None:
    """Say every other text, answer with the rest."""
    for said, answer in zip(texts[::2], texts[1::2], strict=True):
        chat.say(said, 1)
        reply(chat, answer)


def reply(chat: Conversation, text: str, reason: str = "stop") -> None:
    chat.add(text)
    chat.end("stopped" if reason == "cancelled" else "done", finished(reason))


def told(chat: Conversation) -> list[str]:
    return [message.content for message in chat.prompt()]


def reopened(history: History, chat: Conversation) -> Conversation:
    return Conversation(history, "demo", chat=chat.chat)


# --- saying and saving ----------------------------------------------------------------------------


def test_an_empty_chat_leaves_no_trace(history: History):
    Conversation(history, "demo")
    assert history.chats() == []


def test_the_prompt_is_what_was_said_with_the_system_text_first(history: History):
    chat = Conversation(history, "demo", system="Be brief.")
    chat.say("Hello", 1)
    assert chat.prompt() == (Message("system", "Be brief."), Message("user", "Hello"))
    reply(chat, "Hi")
    chat.say("Bye", 2)
    assert told(chat) == ["Be brief.", "Hello", "Hi", "Bye"]


def test_what_the_engine_is_asked_and_what_is_kept_of_it(history: History):
    chat = Conversation(history, "demo", system="Be brief.")
    sampling = SamplingOptions(temperature=0.1, seed=3)
    chat.using = MadeWith("demo", 2.5, "cuda:0", pruning="off", sampling=sampling, max_tokens=50)
    chat.say("Hello", 7)
    request = chat.request()
    assert (request.id, request.messages) == (7, chat.prompt())
    assert (request.sampling, request.max_tokens, request.pruning) == (sampling, 50, "off")
    reply(chat, "Hi")
    kept = history.messages(chat.chat)[1]
    assert kept.made == MadeWith("demo", 2.5, "cuda:0", "Be brief.", "off", sampling, 50, 0)
    assert (kept.figures.tokens, kept.figures.finish_reason) == (2, "stop")
    assert kept == chat.records[1]


def test_a_reply_is_saved_as_it_grows(history: History):
    chat = Conversation(history, "demo")
    chat.say("Hello", 1)
    chat.add("Good ")
    chat.save()
    assert history.messages(chat.chat)[1].content == "Good "
    chat.add("morning")
    assert history.messages(chat.chat)[1].content == "Good "
    chat.end("stopped", finished("cancelled"))
    assert history.messages(chat.chat)[1].content == "Good morning"
    assert history.messages(chat.chat)[1].state == "stopped"


def test_saving_without_news_writes_nothing(history: History, monkeypatch: pytest.MonkeyPatch):
    chat = Conversation(history, "demo")
    chat.say("Hello", 1)
    chat.add("x")
    chat.save()
    monkeypatch.setattr(history, "write_message", lambda *_: pytest.fail("written again"))
    chat.save()


def test_a_reply_whose_end_cannot_be_written_stays_here(
    history: History, monkeypatch: pytest.MonkeyPatch
):
    chat = Conversation(history, "demo")
    chat.say("Hello", 1)
    chat.add("Hi")

    def fail(*_: object) -> None:
        raise HistoryError("the disk is full")

    monkeypatch.setattr(history, "write_message", fail)
    with pytest.raises(HistoryError):
        chat.end("done")
    assert chat.reply is None
    assert told(chat) == ["Hello", "Hi"]


def test_a_message_that_cannot_be_written_is_not_begun(
    history: History, monkeypatch: pytest.MonkeyPatch
):
    chat = Conversation(history, "demo")
    monkeypatch.setattr(history, "message", lambda _: history.chat(99))
    with pytest.raises(HistoryError):
        chat.say("Hello", 1)
    assert (chat.chat, chat.reply, chat.records, history.chats()) == (None, None, [], [])


def test_a_chat_goes_on_where_it_was_left(history: History):
    chat = Conversation(history, "demo", system="Be brief.", preset="terse")
    talk(chat, "Hello", "Hi")
    again = Conversation(history, "demo", system="Be long.", chat=chat.chat)
    assert again.prompt() == chat.prompt()
    assert (again.system, again.preset) == ("Be brief.", "terse")
    again.set_system("Be long.")
    assert reopened(history, chat).system == "Be long."
    again.say("More", 2)
    assert len(history.chats()) == 1


def test_terminal_controls_never_reach_the_history(history: History):
    chat = Conversation(history, "demo")
    chat.say("Hello\x1b[2J\ud800", 1)
    assert told(chat) == ["Hello[2J"]
    assert chat.add("\x1b[2Jred\x07") == "[2Jred"
    chat.end("done")
    assert history.messages(chat.chat)[1].content == "[2Jred"


# --- branches -------------------------------------------------------------------------------------


def test_a_reply_can_be_made_again_and_again(history: History):
    chat = Conversation(history, "demo")
    talk(chat, "Hello", "one")
    for answer in ("two", "three"):
        assert chat.can_regenerate
        chat.regenerate(2)
        assert told(chat) == ["Hello"]
        assert not chat.can_regenerate
        reply(chat, answer)
    last = chat.records[-1]
    assert (last.content, last.branch, last.branches) == ("three", 3, 3)
    assert chat.switch_branch(last.id, -1)
    assert told(chat) == ["Hello", "two"]
    assert chat.switch_branch(chat.records[-1].id, -1)
    assert told(chat) == ["Hello", "one"]
    assert not chat.switch_branch(chat.records[-1].id, -1)
    assert told(reopened(history, chat)) == ["Hello", "one"]


def test_a_message_that_was_never_answered_can_be(history: History):
    chat = Conversation(history, "demo")
    talk(chat, "Hello", "Hi")
    history.add_message(chat.chat, chat.records[-1].id, "user", "and then it crashed")
    again = reopened(history, chat)
    assert again.can_regenerate
    again.regenerate(1)
    reply(again, "sorry")
    assert told(again) == ["Hello", "Hi", "and then it crashed", "sorry"]
    assert again.records[-1].branches == 1


def test_an_empty_reply_is_replaced_but_never_what_another_window_said_after_it(
    history: History, tmp_path: Path
):
    chat = Conversation(history, "demo")
    chat.say("a", 1)
    chat.end("failed")
    chat.regenerate(2)
    reply(chat, "A")
    assert history.siblings(chat.records[-1].id) == [chat.records[-1].id]

    chat.say("b", 3)
    failed = chat.end("failed")
    history.add_message(chat.chat, failed.id, "user", "said elsewhere")
    chat.regenerate(4)
    reply(chat, "B")
    assert history.siblings(failed.id) == [failed.id, chat.records[-1].id]
    assert told(chat) == ["a", "A", "b", "B"]


def test_a_full_context_is_answered_once_turns_are_dropped(history: History):
    chat = Conversation(history, "demo")
    talk(chat, *"aAbB")
    chat.say("c", 3)
    chat.end("failed")
    chat.drop_oldest_turns()
    chat.regenerate(4)
    assert told(chat) == ["b", "B", "c"]
    reply(chat, "C")
    assert [record.content for record in reopened(history, chat).line()] == list("aAbBcC")


def test_the_first_message_that_is_shown_is_known(history: History):
    chat = Conversation(history, "demo")
    talk(chat, *(f"{number}" for number in range(2 * PAGE)))
    assert chat.first_shown() == 1
    chat.drop_oldest_turns(3)
    assert chat.first_shown() == 7
    reopened_chat = reopened(history, chat)
    reopened_chat.left_out = 3
    assert told(reopened_chat)[0] == chat.line()[6].content
    assert reopened_chat.first_shown() == 7


def test_editing_a_message_makes_a_branch_and_the_old_one_comes_back(history: History):
    chat = Conversation(history, "demo")
    talk(chat, "a", "A", "b", "B", "c", "C")
    chat.edit(chat.records[2].id, "b, better", 9)
    assert told(chat) == ["a", "A", "b, better"]
    reply(chat, "B, better")
    edited = chat.records[2]
    assert (edited.branch, edited.branches) == (2, 2)
    assert chat.switch_branch(edited.id, -1)
    assert told(chat) == ["a", "A", "b", "B", "c", "C"]
    assert chat.switch_branch(chat.records[2].id, 1)
    assert told(chat) == ["a", "A", "b, better", "B, better"]
    assert not chat.switch_branch(chat.records[2].id, 1)
    assert told(reopened(history, chat)) == told(chat)


def test_the_first_message_can_be_edited(history: History):
    chat = Conversation(history, "demo")
    talk(chat, "a", "A")
    chat.edit(chat.records[0].id, "b", 2)
    reply(chat, "B")
    assert told(chat) == ["b", "B"]
    assert chat.switch_branch(chat.records[0].id, -1)
    assert told(chat) == ["a", "A"]


def test_a_branch_that_a_search_found_is_shown(history: History):
    chat = Conversation(history, "demo")
    talk(chat, "a", "the duck", "b", "B")
    chat.edit(chat.records[0].id, "c", 2)
    reply(chat, "a goose")
    (found,) = history.search("duck")
    chat.show(found.message)
    assert told(chat) == ["a", "the duck", "b", "B"]
    chat.show(chat.records[0].id)
    assert told(chat) == ["a", "the duck", "b", "B"]


def test_two_windows_answer_the_same_message_and_keep_both(history: History, tmp_path: Path):
    here = Conversation(history, "demo")
    talk(here, "a", "A")
    there = Conversation(History(tmp_path / "history.sqlite"), "demo", chat=here.chat)
    here.say("mine", 1)
    there.say("theirs", 1)
    reply(here, "to me")
    reply(there, "to them")
    assert told(here) == ["a", "A", "mine", "to me"]
    assert told(there) == ["a", "A", "theirs", "to them"]
    assert here.switch_branch(here.records[2].id, 1)
    assert told(here) == told(there)


# --- continuing -----------------------------------------------------------------------------------


def test_a_reply_cut_by_length_goes_on_in_the_same_message(history: History):
    chat = Conversation(history, "demo")
    chat.say("Count", 1)
    reply(chat, "one, two,", "length")
    assert chat.can_continue
    chat.continue_reply(2)
    assert chat.request().messages[-1] == Message("assistant", "one, two,")
    assert history.messages(chat.chat)[1].state == "writing"
    chat.add(" three")
    chat.save()
    assert history.messages(chat.chat)[1].content == "one, two, three"
    chat.add(".")
    chat.end("done", finished("stop", tokens=6))
    (_, record) = history.messages(chat.chat)
    assert (record.content, record.state) == ("one, two, three.", "done")
    assert (record.figures.tokens, record.figures.finish_reason) == (8, "stop")
    assert not chat.can_continue
    assert told(chat) == ["Count", "one, two, three."]


@pytest.mark.parametrize("reason", ["cancelled", "length", "context"])
def test_what_was_cut_can_go_on_and_what_ended_cannot(history: History, reason: str):
    chat = Conversation(history, "demo")
    assert not chat.can_continue
    talk(chat, "a", "A")
    assert not chat.can_continue
    chat.say("b", 1)
    reply(chat, "B", reason)
    assert chat.can_continue


def test_a_reply_cut_by_a_crash_can_go_on(history: History):
    chat = Conversation(history, "demo")
    chat.say("a", 1)
    chat.add("half a")
    chat.save()
    again = reopened(history, chat)
    assert again.records[-1].state == "writing"
    assert again.can_continue
    again.continue_reply(2)
    reply(again, " word")
    assert told(again) == ["a", "half a word"]


def test_a_continued_reply_that_fails_keeps_what_was_known(history: History):
    chat = Conversation(history, "demo")
    chat.say("a", 1)
    reply(chat, "A", "length")
    chat.continue_reply(2)
    record = chat.end("failed")
    assert (record.content, record.figures.tokens) == ("A", 2)
    assert chat.can_continue


# --- deleting -------------------------------------------------------------------------------------


def test_the_last_message_and_its_replies_can_be_deleted(history: History):
    chat = Conversation(history, "demo")
    talk(chat, "a", "A", "b", "B")
    chat.regenerate(3)
    reply(chat, "B again")
    assert chat.delete_last() == "b"
    assert told(chat) == ["a", "A"]
    assert history.search("B again") == []
    assert chat.delete_last() == "a"
    assert (chat.chat, told(chat), history.chats()) == (None, [], [])
    talk(chat, "new", "N")
    assert [kept.title for kept in history.chats()] == ["new"]


# --- long chats -----------------------------------------------------------------------------------


def test_only_the_last_page_is_read_and_the_engine_is_told_everything(history: History):
    texts = [str(number) for number in range(3 * PAGE + 10)]
    chat = history.new_chat("demo", "long")
    with history.together():
        say_all(history, chat, *texts)
    long = Conversation(history, "demo", chat=chat)
    assert [record.content for record in long.records] == texts[-PAGE:]
    assert long.earlier == 2 * PAGE + 10
    assert told(long) == texts
    assert len(long.records) == PAGE
    assert [record.content for record in long.read_earlier()] == texts[-2 * PAGE : -PAGE]
    assert len(long.read_earlier()) == PAGE
    assert len(long.read_earlier()) == 10
    assert long.earlier == 0
    assert long.read_earlier() == []
    assert [record.content for record in long.records] == texts == told(long)


# --- a full context -------------------------------------------------------------------------------


def test_dropping_turns_leaves_them_out_of_the_prompt_only(history: History):
    chat = Conversation(history, "demo", system="Be brief.")
    talk(chat, *"aAbBcCdD")
    assert chat.drop_oldest_turns() == 2
    assert told(chat) == ["Be brief.", "c", "C", "d", "D"]
    chat.say("e", 5)
    reply(chat, "E")
    assert told(chat) == ["Be brief.", *"cCdDeE"]
    assert "the oldest 2 turns were left out" in chat.records[-1].summary
    assert [record.content for record in chat.line()] == list("aAbBcCdDeE")
    again = reopened(history, chat)
    assert again.records[-1].made.left_out == 2
    assert told(again) == told(chat)
    assert again.drop_oldest_turns(1) == 3
    assert again.drop_oldest_turns(99) == 4
    assert told(again) == ["Be brief.", "e", "E"]


def test_editing_what_was_left_out_shows_what_is_said_instead(history: History):
    chat = Conversation(history, "demo")
    talk(chat, *"aAbBcCdD")
    chat.drop_oldest_turns(3)
    chat.edit(chat.records[2].id, "b, better", 1)
    assert told(chat) == ["b, better"]
    assert chat.left_out == 1


def test_the_draft_of_a_summary_names_what_was_asked(history: History):
    chat = Conversation(history, "demo")
    talk(chat, "Who has\nfeathers?", "Ducks.", "x" * 500, "y" * 500)
    draft = chat.summary_draft()
    assert "- Who has\n" in draft
    assert f"- {'x' * 119}…\n" in draft
    assert f"{'y' * 399}…\n" in draft
