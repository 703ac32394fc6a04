"""From the chat to another size or another model and back, with fakes behind the screens."""

import pytest
from textual.pilot import Pilot
from textual.widgets import Markdown

from app.models import DEMO
from app.screens.chat import ChatScreen
from app.screens.models import ModelsScreen
from app.screens.wizard import WizardScreen
from app.widgets.header import HeaderLine
from app.widgets.prompt import Prompt
from tests.fakes.fake_worker import ANSWER
from tests.ui import install_model, make_app, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")


async def on_screen(pilot: Pilot[None], kind: type) -> None:
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, kind))
    await wait_for_state(pilot, "ready")


async def ask_for_models(pilot: Pilot[None]) -> None:
    await on_screen(pilot, ChatScreen)
    await pilot.press("f4")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
    await pilot.press("c")
    await on_screen(pilot, WizardScreen)


async def test_escape_leads_back_to_the_same_chat():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await on_screen(pilot, ChatScreen)
        pilot.app.screen.query_one(Prompt).text = "Hello"
        await pilot.press("enter")
        await wait_until(
            pilot, lambda: [m.source for m in pilot.app.screen.query(Markdown)] == [ANSWER]
        )
        await ask_for_models(pilot)
        await pilot.press("escape")
        await on_screen(pilot, ChatScreen)
        await wait_until(
            pilot, lambda: [m.source for m in pilot.app.screen.query(Markdown)] == [ANSWER]
        )


async def test_a_size_that_is_there_already_opens_at_once():
    install_model(DEMO)
    # The fake compression would fail: it must not be asked.
    async with make_app(story="fail").run_test(size=(120, 36)) as pilot:
        await ask_for_models(pilot)
        await pilot.press("enter")
        await on_screen(pilot, ChatScreen)


async def test_another_size_becomes_a_model_of_its_own():
    install_model(DEMO)
    async with make_app().run_test(size=(120, 36)) as pilot:
        await ask_for_models(pilot)
        await pilot.press("down", "enter")  # from the recommended 2.5 to 2.75 bits
        await on_screen(pilot, ChatScreen)
        assert "demo-2.75bit" in pilot.app.screen.query_one(HeaderLine).about


async def test_on_the_first_run_there_is_nothing_to_go_back_to():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await on_screen(pilot, WizardScreen)
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, WizardScreen)
