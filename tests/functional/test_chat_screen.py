"""The chat as a person uses it, with a scripted engine behind the screen."""

import sqlite3

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Button, Markdown, Static

from app import paths
from app.history import HistoryError
from app.screens.chat import ChatScreen
from app.screens.chats import ChatsScreen
from app.screens.help import HelpScreen
from app.screens.models import ModelsScreen
from app.screens.talking import WAITING
from app.widgets.gauges import Gauges
from app.widgets.header import HeaderLine
from app.widgets.messages import Notice, UserMessage
from app.widgets.prompt import Prompt
from tests.fakes.fake_worker import ANSWER
from tests.ui import install_model, make_app, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")


async def send(pilot: Pilot[None], text: str) -> None:
    prompt = pilot.app.screen.query_one(Prompt)
    prompt.text = text
    await pilot.press("enter")


async def talk(pilot: Pilot[None], text: str) -> None:
    """Send a message and wait for the whole reply."""
    before = len(replies(pilot))
    await send(pilot, text)
    await wait_until(pilot, lambda: len(replies(pilot)) == before + 1 and replies(pilot)[-1])
    await wait_for_state(pilot, "ready")


def replies(pilot: Pilot[None]) -> list[str]:
    return [widget.source for widget in pilot.app.screen.query(Markdown)]


def shown(pilot: Pilot[None], kind: type) -> list[str]:
    return [str(widget.query_one(Static).content) for widget in pilot.app.screen.query(kind)]


def offered(pilot: Pilot[None]) -> list[str]:
    """What can be done about what has happened."""
    return [str(button.label) for button in pilot.app.screen.query_one(Notice).query(Button)]


def choose(pilot: Pilot[None], label: str) -> None:
    buttons = pilot.app.screen.query_one(Notice).query(Button)
    next(button for button in buttons if str(button.label) == label).press()


def below(pilot: Pilot[None]) -> str:
    return str(pilot.app.screen.query(".below").last(Static).content)


def saved() -> list[tuple[str, str, str]]:
    """Role, text and state of all messages, read by another connection."""
    rows = sqlite3.connect(paths.history_db()).execute(
        "SELECT role, content, state FROM messages ORDER BY id"
    )
    return rows.fetchall()


async def test_a_reply_streams_in_and_is_saved():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "What is a mixture of experts?")

        assert replies(pilot) == [ANSWER]
        assert "42.5 tokens/s" in below(pilot)
        assert saved() == [
            ("user", "What is a mixture of experts?", "done"),
            ("assistant", ANSWER, "done"),
        ]


async def test_two_replies_and_the_prompt_is_free_again():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "one")
        await talk(pilot, "two")

        assert replies(pilot) == [ANSWER, ANSWER]
        assert pilot.app.screen.query_one(Prompt).text == ""
        assert [role for role, _, _ in saved()] == ["user", "assistant"] * 2


async def test_a_message_sent_while_the_model_loads_is_answered():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await pilot.pause()
        await talk(pilot, "already waiting")
        assert replies(pilot) == [ANSWER]


async def test_a_reply_that_waits_for_the_model_says_so_until_it_is_there():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        chat = pilot.app.screen
        assert isinstance(chat, ChatScreen)
        chat.query_one(HeaderLine).show("loading")
        await send(pilot, "hold on")
        await wait_until(pilot, lambda: chat.query(".below") and below(pilot) == WAITING)
        pilot.app._services.events.publish(chat._loaded)
        await wait_until(pilot, lambda: below(pilot) == "")
        assert chat.query_one(HeaderLine).state == "writing"


async def test_esc_stops_and_keeps_the_text():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await send(pilot, "hold on")
        await wait_until(pilot, lambda: replies(pilot) and len(replies(pilot)[0]) > 40)
        await pilot.press("escape")
        await wait_for_state(pilot, "ready")

        (reply,) = replies(pilot)
        assert ANSWER.startswith(reply)
        assert len(reply) > 40
        assert "stopped" in below(pilot)
        assert saved()[-1] == ("assistant", reply, "stopped")
        await talk(pilot, "and now?")
        assert replies(pilot)[-1] == ANSWER


async def test_a_reply_is_saved_while_it_is_written():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await send(pilot, "hold on")
        await wait_until(pilot, lambda: len(saved()) == 2 and len(saved()[-1][1]) > 40)
        assert saved()[-1][2] == "writing"


async def test_a_crash_in_the_middle_of_a_word_keeps_the_chat_and_can_be_mended():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "first")
        await send(pilot, "crash")
        await wait_for_state(pilot, "down")

        (notice,) = shown(pilot, Notice)
        assert "exit code 7" in notice
        assert "CUDA error: device-side assert" in notice
        assert replies(pilot)[0] == ANSWER
        half = replies(pilot)[1]
        assert half == ANSWER[: len(half)]
        assert 0 < len(half) < len(ANSWER)
        assert saved()[-1] == ("assistant", half, "failed")

        await send(pilot, "too early")
        await wait_until(pilot, lambda: pilot.app._notifications)
        assert pilot.app.screen.query_one(Prompt).text == "too early"

        pilot.app.screen.query_one(Notice).query_one(Button).press()
        await wait_for_state(pilot, "ready")
        assert not pilot.app.screen.query(Notice)
        await talk(pilot, "are you back?")
        assert replies(pilot)[-1] == ANSWER


async def test_a_killed_engine_is_told_and_ctrl_r_restarts_it():
    install_model()
    app = make_app()
    async with app.run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await send(pilot, "hold on")
        await wait_for_state(pilot, "writing")
        process = app._services.engine._process._process
        process.kill()
        await wait_for_state(pilot, "down")
        assert "killed" in shown(pilot, Notice)[0]

        await pilot.press("ctrl+r")
        await wait_for_state(pilot, "ready")


async def test_a_model_that_does_not_load_says_why_and_another_can_be_chosen():
    folder = install_model("broken")
    async with make_app(model=folder).run_test() as pilot:
        await wait_for_state(pilot, "down")
        (notice,) = shown(pilot, Notice)
        assert notice == "▲ layer-03.safetensors is truncated; compress again"
        await send(pilot, "hello?")
        await wait_until(pilot, lambda: pilot.app._notifications)
        assert "No model is loaded; Ctrl+R" in next(iter(pilot.app._notifications)).message
        choose(pilot, "Choose a model (F4)")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))


async def test_a_full_context_offers_a_new_chat():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await send(pilot, "full")
        await wait_until(pilot, lambda: pilot.app.screen.query(Notice))
        assert "8,192 fit" in shown(pilot, Notice)[0]
        choose(pilot, "New chat (Ctrl+N)")
        await wait_until(pilot, lambda: not pilot.app.screen.query(Notice))
        assert not pilot.app.screen.query(UserMessage)
        await talk(pilot, "fresh")


async def test_a_context_that_fills_up_while_writing_keeps_the_reply():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "grow")
        assert replies(pilot) == [ANSWER]
        assert "context full" in below(pilot)
        assert offered(pilot) == [
            "Drop oldest turns",
            "Summarise by hand",
            "New chat (Ctrl+N)",
        ]


async def test_a_disk_that_fails_is_told_once_and_the_reply_goes_on(monkeypatch):
    install_model()
    app = make_app()
    async with app.run_test() as pilot:
        await wait_for_state(pilot, "ready")

        tries = 0

        def fail(*_: object) -> None:
            nonlocal tries
            tries += 1
            raise HistoryError("the disk is full")

        monkeypatch.setattr(app._services.history, "write_message", fail)
        await send(pilot, "hold on")
        await wait_until(pilot, lambda: app._notifications)
        await wait_until(pilot, lambda: tries > 2)
        await pilot.press("escape")
        await wait_for_state(pilot, "ready")
        assert [notice.message for notice in app._notifications] == ["the disk is full"]
        assert len(replies(pilot)[0]) > 40


async def test_no_memory_is_told_and_the_chat_goes_on():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await send(pilot, "memory")
        await wait_until(pilot, lambda: pilot.app.screen.query(Notice))
        assert "out of memory; use fewer bits" in shown(pilot, Notice)[0]
        await talk(pilot, "again")
        assert not pilot.app.screen.query(Notice)


async def test_markup_and_terminal_controls_are_text():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "[red]nasty[/red] \x1b[2J")
        screen = "\n".join(
            "".join(segment.text for segment in strip)
            for strip in pilot.app.screen._compositor.render_strips()
        )
        for text in (
            "[bold red]not markup[/]",
            "<b>not html</b>",
            "[@click=app.quit]",
            "[red]nasty",
        ):
            assert text in screen
        assert not any(control in screen for control in "\x1b\x07\x9b")


async def test_the_last_chat_comes_back_and_ctrl_n_leaves_it():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "remember me")
    async with make_app().run_test() as pilot:
        await wait_until(pilot, lambda: pilot.app.screen.query(UserMessage))
        assert replies(pilot) == [ANSWER]
        await wait_for_state(pilot, "ready")
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: not pilot.app.screen.query(UserMessage))
        assert len(saved()) == 2


async def test_an_earlier_chat_can_be_opened():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "the first chat")
        await pilot.press("ctrl+n")
        await talk(pilot, "the second chat")
        await pilot.press("ctrl+o")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatsScreen))
        await pilot.press("down", "enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await wait_until(pilot, lambda: pilot.app.screen.query(UserMessage))
        assert "the first chat" in shown(pilot, UserMessage)[0]


async def test_a_new_chat_in_the_middle_of_a_reply_stops_it():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await send(pilot, "hold on")
        await wait_until(pilot, lambda: replies(pilot) and len(replies(pilot)[0]) > 40)
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: not replies(pilot))
        assert saved()[-1][2] == "stopped"
        await wait_for_state(pilot, "ready")
        await talk(pilot, "next")
        assert replies(pilot) == [ANSWER]


async def test_what_is_typed_right_after_the_key_for_a_new_chat_is_said_there():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "hello")
        for key in ("ctrl+n", "h", "i", "enter"):  # without a look at the screen in between
            pilot.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await wait_until(pilot, lambda: len(saved()) == 4)
        await wait_for_state(pilot, "ready")
        assert replies(pilot) == [ANSWER]
        assert saved()[-1] == ("assistant", ANSWER, "done")


async def test_keys_pressed_faster_than_the_screen_draws_break_nothing():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        for _ in range(3):
            pilot.app.screen.query_one(Prompt).text = "hold on"
            await pilot.press("enter", "ctrl+n", "escape", "f2", "ctrl+r", "ctrl+n")
        await wait_for_state(pilot, "ready")
        assert not replies(pilot)
        assert {state for role, _, state in saved() if role == "assistant"} <= {"stopped"}
        await talk(pilot, "calm again")


async def test_a_message_to_an_engine_that_has_just_died_is_kept():
    install_model()
    app = make_app()
    async with app.run_test() as pilot:
        await wait_for_state(pilot, "ready")
        app._services.engine._process._process.kill()
        app.screen.post_message(Prompt.Sent("into the dark"))
        await wait_for_state(pilot, "down")
        assert saved()[0] == ("user", "into the dark", "done")
        await pilot.press("ctrl+r")
        await talk(pilot, "again")


async def test_enter_sends_and_ctrl_j_breaks_the_line():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("a", "ctrl+j", "b", "shift+enter", "c")
        assert pilot.app.screen.query_one(Prompt).text == "a\nb\nc"
        await pilot.press("enter")
        await wait_until(pilot, lambda: len(saved()) == 2)
        assert saved()[0][1] == "a\nb\nc"


async def test_keys_that_come_in_one_burst_keep_their_order():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        for key, character in [
            ("a", "a"),
            ("ctrl+j", "\n"),
            ("b", "b"),
            ("enter", "\r"),
            ("c", "c"),
        ]:
            pilot.app.post_message(events.Key(key, character))
        await wait_until(pilot, lambda: len(saved()) == 2)
        assert saved()[0][1] == "a\nb"
        assert pilot.app.screen.query_one(Prompt).text == "c"


async def test_blank_messages_are_not_sent():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("enter", "space", "enter")
        assert saved() == []


async def test_a_question_mark_asks_for_help_only_at_the_beginning():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("question_mark")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen))
        await pilot.press("escape")
        await pilot.press("w", "h", "y", "question_mark")
        assert pilot.app.screen.query_one(Prompt).text == "why?"


async def test_events_reach_the_chat_below_an_open_page():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        chat = pilot.app.screen
        await send(pilot, "go on below")
        await pilot.press("f1")
        await wait_until(pilot, lambda: len(saved()) == 2 and saved()[1][2] == "done")
        assert chat.query_one(Markdown).source == ANSWER


async def test_one_message_at_a_time():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await send(pilot, "hold on")
        await wait_for_state(pilot, "writing")
        await send(pilot, "and another")
        await wait_until(pilot, lambda: pilot.app._notifications)
        assert pilot.app.screen.query_one(Prompt).text == "and another"
        assert len(pilot.app.screen.query(UserMessage)) == 1


async def test_resizing_down_and_back_keeps_everything():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "resize me")
        await pilot.resize_terminal(60, 20)
        await wait_until(pilot, lambda: pilot.app.screen.query_one(Gauges).size.height == 2)
        assert pilot.app.screen.query_one(Prompt).region.bottom <= 20
        assert replies(pilot) == [ANSWER]
        await pilot.resize_terminal(120, 36)
        await wait_until(pilot, lambda: pilot.app.screen.query_one(Gauges).size.height > 30)
        assert replies(pilot) == [ANSWER]


async def test_no_process_is_left_behind():
    install_model()
    app = make_app()
    async with app.run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await send(pilot, "hold on")
        await wait_for_state(pilot, "writing")
    assert not app._services.engine.running
    assert saved()[-1][2] == "stopped"


async def test_the_header_names_model_bits_and_device():
    install_model()
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        about = pilot.app.screen.query_one(HeaderLine).about
        assert about == "demo · 2.50 bits · NVIDIA GeForce RTX 3090"
