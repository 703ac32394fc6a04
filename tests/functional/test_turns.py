"""Messages that are asked for again, edited, continued, copied and deleted, all by key."""

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Markdown, Static

from app import paths
from app.history import History, WholeMessage
from app.widgets.messages import ModelMessage, Notice, Turn, UserMessage
from app.widgets.prompt import Prompt
from tests.chats_for_tests import say_all
from tests.fakes.fake_worker import ANSWER, MORE
from tests.ui import install_model, make_app, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(autouse=True)
def model(home: object) -> None:
    install_model()


def prompt(pilot: Pilot[None]) -> Prompt:
    return pilot.app.screen.query_one(Prompt)


def turns(pilot: Pilot[None]) -> list[str]:
    return [turn.text for turn in pilot.app.screen.query(Turn)]


async def talk(pilot: Pilot[None], text: str = "") -> None:
    """Send what is written, or ``text``, and wait for the whole reply."""
    if text:
        prompt(pilot).text = text
    await pilot.press("enter")
    await replied(pilot)


async def replied(pilot: Pilot[None]) -> None:
    await wait_until(
        pilot,
        lambda: (
            not prompt(pilot).text
            and not pilot.app.screen._conversation.reply
            and pilot.app.screen.query(ModelMessage)
        ),
    )
    await wait_for_state(pilot, "ready")


async def focus_turn(pilot: Pilot[None], *keys: str) -> Turn:
    await pilot.press("shift+up")
    await wait_until(pilot, lambda: isinstance(pilot.app.focused, Turn))
    await pilot.press(*keys)
    turn = pilot.app.focused
    assert isinstance(turn, Turn)
    return turn


def whole() -> tuple[WholeMessage, ...]:
    """All messages of the last chat, of every branch, read by another connection."""
    history = History(paths.history_db())
    try:
        return history.read_whole(history.chats()[0].id).messages
    finally:
        history.close()


def below(pilot: Pilot[None]) -> str:
    return str(pilot.app.screen.query(".below").last(Static).content)


async def test_another_reply_is_a_branch_and_the_arrows_switch():
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "one")
        await pilot.press("ctrl+g")
        await wait_until(pilot, lambda: len(whole()) == 3)
        await replied(pilot)
        assert turns(pilot) == ["one", ANSWER]
        assert below(pilot).startswith("‹ 2/2 ›")
        assert [message.parent for message in whole()] == [None, 0, 0]

        await focus_turn(pilot, "left")
        await wait_until(pilot, lambda: below(pilot).startswith("‹ 1/2 ›"))
        await wait_until(pilot, lambda: isinstance(pilot.app.focused, ModelMessage))
        await pilot.press("right")
        await wait_until(pilot, lambda: below(pilot).startswith("‹ 2/2 ›"))


async def test_up_in_an_empty_prompt_edits_what_was_said_last():
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "one")
        await talk(pilot, "two")
        await pilot.press("up")
        await wait_until(pilot, lambda: prompt(pilot).text == "two")
        assert "Editing" in str(prompt(pilot).border_title)
        await pilot.press("!", "enter")
        await replied(pilot)
        assert turns(pilot) == ["one", ANSWER, "two!", ANSWER]
        assert prompt(pilot).border_title == ""
        assert len(whole()) == 6
        branch = pilot.app.screen.query_one(".branch", Static)
        assert str(branch.content) == "‹ 2/2 ›"


async def test_an_earlier_message_is_edited_and_the_branches_are_kept():
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "one")
        await talk(pilot, "two")
        turn = await focus_turn(pilot, "up", "up", "up")
        assert turn.text == "one"
        await pilot.press("e")
        await wait_until(pilot, lambda: prompt(pilot).has_focus and prompt(pilot).text == "one")
        await pilot.press("1")
        await talk(pilot)
        assert turns(pilot) == ["one1", ANSWER]
        await focus_turn(pilot, "up", "left")
        await wait_until(pilot, lambda: turns(pilot) == ["one", ANSWER, "two", ANSWER])


async def test_esc_leaves_editing_and_the_messages():
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "one")
        await pilot.press("up", "x", "escape")
        assert prompt(pilot).text == ""
        await talk(pilot, "two")
        assert turns(pilot) == ["one", ANSWER, "two", ANSWER]
        await focus_turn(pilot)
        await pilot.press("escape")
        await wait_until(pilot, lambda: prompt(pilot).has_focus)


async def test_tab_goes_round_and_is_never_stuck():
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "one")
        await pilot.press("tab")
        await wait_until(pilot, lambda: isinstance(pilot.app.focused, ModelMessage))
        await pilot.press("tab")
        await wait_until(pilot, lambda: prompt(pilot).has_focus)
        await pilot.press("shift+up", "up", "down", "down")
        await wait_until(pilot, lambda: prompt(pilot).has_focus)


async def test_a_cut_reply_goes_on_in_the_same_message():
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "cut")
        assert "cut at the token limit" in below(pilot)
        button = pilot.app.screen.query_one(Notice).query_one(Button)
        assert str(button.label) == "Go on (Ctrl+T)"
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: turns(pilot)[-1:] == [ANSWER + MORE])
        await replied(pilot)
        assert turns(pilot) == ["cut", ANSWER + MORE]
        assert [message.content for message in whole()] == ["cut", ANSWER + MORE]
        assert pilot.app.screen.query_one(Markdown).source == ANSWER + MORE
        assert not pilot.app.screen.query(Notice)

        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: pilot.app._notifications)
        assert "nothing to go on with" in next(iter(pilot.app._notifications)).message


async def test_messages_and_their_code_are_copied():
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "one")
        await focus_turn(pilot, "y")
        assert pilot.app.clipboard == ANSWER
        await pilot.press("c")
        assert pilot.app.clipboard == ANSWER.split("```python\n")[1].split("```")[0]
        await pilot.press("up", "y")
        assert pilot.app.clipboard == "one"


async def test_the_last_message_is_deleted_at_the_second_press_and_comes_back_as_text():
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "one")
        await talk(pilot, "two")
        await focus_turn(pilot, "up", "up", "d", "d")
        assert len(whole()) == 4  # only the last one may go
        await pilot.press("down", "d")
        assert len(whole()) == 4
        await pilot.press("d")
        await wait_until(pilot, lambda: turns(pilot) == ["one", ANSWER])
        assert prompt(pilot).text == "two"
        assert prompt(pilot).has_focus
        assert [message.content for message in whole()] == ["one", ANSWER]


async def test_while_a_reply_is_written_nothing_else_begins():
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "one")
        prompt(pilot).text = "hold on"
        await pilot.press("enter")
        await wait_for_state(pilot, "writing")
        for key in ("ctrl+g", "ctrl+t"):
            await pilot.press(key)
        await focus_turn(pilot, "up", "e", "d", "d", "left", "y")
        assert pilot.app.clipboard == "hold on"
        await pilot.press("escape")
        await replied(pilot)
        assert len(whole()) == 4
        assert prompt(pilot).has_focus


async def test_a_full_context_leaves_the_oldest_turns_out_and_says_so():
    history = History(paths.history_db())
    say_all(history, history.new_chat("demo", "t"), "one", "1", "two", "2", "three", "3")
    history.close()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "grow")
        screen = pilot.app.screen
        choose(pilot, "Drop oldest turns")
        await wait_until(pilot, lambda: turns(pilot)[-1] == ANSWER + MORE)
        await replied(pilot)
        assert screen._conversation.left_out == 2
        assert "the oldest 2 turns were left out" in below(pilot)
        marked = [turn for turn in pilot.app.screen.query(Turn) if turn.border_title]
        assert [turn.text for turn in marked] == ["three"]
        assert [said.content for said in screen._conversation.prompt()][:2] == ["three", "3"]


async def test_a_full_context_can_be_summarised_by_hand():
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "tell me")
        await talk(pilot, "full")
        await wait_until(pilot, lambda: pilot.app.screen.query(Notice))
        choose(pilot, "Summarise by hand")
        await wait_until(pilot, lambda: "We talked before" in prompt(pilot).text)
        assert "- tell me" in prompt(pilot).text
        assert turns(pilot) == []
        await talk(pilot)
        assert turns(pilot)[0].startswith("We talked before")


def choose(pilot: Pilot[None], label: str) -> None:
    buttons = pilot.app.screen.query_one(Notice).query(Button)
    next(button for button in buttons if str(button.label) == label).press()


async def test_a_long_message_is_folded_until_enter():
    history = History(paths.history_db())
    text = "\n".join(f"line {n}" for n in range(100))
    say_all(history, history.new_chat("demo", "t"), text, "1")
    history.close()
    async with make_app().run_test() as pilot:
        await wait_until(pilot, lambda: pilot.app.screen.query(UserMessage))
        said = pilot.app.screen.query_one(".said", Static)
        assert "⋯ 84 lines ⋯" in str(said.content)
        await wait_for_state(pilot, "ready")
        await focus_turn(pilot, "up", "enter")
        assert "line 50" in str(said.content)
        await pilot.press("y")
        assert pilot.app.clipboard == text
