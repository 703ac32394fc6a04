"""A chat remembers the model it was held with, and can go on with another one."""

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from app import models, paths
from app.screens.chat import ChatScreen
from app.screens.chats import ChatsScreen
from app.widgets.header import HeaderLine
from app.widgets.messages import ModelMessage, UserMessage
from tests.ui import install_model, make_app, talk, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")


def offer(pilot: Pilot[None]) -> str:
    line = pilot.app.screen.query_one("#offer", Static)
    return str(line.content) if line.display else ""


def about(pilot: Pilot[None]) -> str:
    return pilot.app.screen.query_one(HeaderLine).about


async def open_first_chat(pilot: Pilot[None]) -> None:
    await wait_for_state(pilot, "ready")
    await pilot.press("ctrl+o")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatsScreen))
    await pilot.press("enter")
    await wait_until(pilot, lambda: pilot.app.screen.query(UserMessage))


async def test_a_chat_of_another_model_asks_once_and_switches_nothing_by_itself():
    demo, other = install_model(), install_model("other")
    async with make_app(model=demo).run_test(size=(100, 30)) as pilot:
        await talk(pilot, "hello")
        assert offer(pilot) == ""
    async with make_app(model=other).run_test(size=(100, 30)) as pilot:
        await open_first_chat(pilot)
        assert offer(pilot) == (
            "This chat was held with demo. A message goes on with other; F10 loads demo."
        )
        assert about(pilot).startswith("other · ")
        await pilot.press("f10")
        await wait_until(pilot, lambda: about(pilot).startswith("demo · 2.50 bits"))
        await wait_for_state(pilot, "ready")
        assert offer(pilot) == ""
        assert len(pilot.app.screen.query(UserMessage)) == 1
        await talk(pilot, "and on")
        assert pilot.app.screen.query(ModelMessage).last().record.made.model == "demo"


async def test_a_message_goes_on_with_what_is_loaded():
    demo, other = install_model(), install_model("other")
    async with make_app(model=demo).run_test(size=(100, 30)) as pilot:
        await talk(pilot, "hello")
    models.remove("demo")
    async with make_app(model=other).run_test(size=(100, 30)) as pilot:
        await open_first_chat(pilot)
        assert "demo is not on this machine" in offer(pilot)
        await talk(pilot, "and on")
        assert offer(pilot) == ""
        assert pilot.app.screen.query(ModelMessage).last().record.made.model == "other"
        await pilot.press("f10")
        await wait_until(pilot, lambda: pilot.app._notifications)
        assert about(pilot).startswith("other · ")


async def test_a_model_is_loaded_by_name_into_the_chat():
    install_model(), install_model("other"), install_model("broken")
    async with make_app(model=paths.models_dir() / "demo").run_test(size=(100, 30)) as pilot:
        await wait_for_state(pilot, "ready")
        chat = pilot.app.screen
        assert isinstance(chat, ChatScreen)
        await chat.run_action("screen.load_model('nothing')")
        await wait_until(pilot, lambda: pilot.app._notifications)
        await chat.run_action("screen.load_model('broken')")
        await wait_for_state(pilot, "down")
        await chat.run_action("screen.load_model('other')")
        await wait_until(pilot, lambda: about(pilot).startswith("other · 2.50 bits"))
        await talk(pilot, "hello")
        pilot.app._services.engine._process._process.kill()
        await wait_for_state(pilot, "down")
        await chat.run_action("screen.load_model('demo')")
        await wait_until(pilot, lambda: about(pilot).startswith("demo · 2.50 bits"))
        await talk(pilot, "again")
        assert "other" in str(chat.query(ModelMessage).first().record.made)
