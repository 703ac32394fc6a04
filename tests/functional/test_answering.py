"""System prompt, presets and sampling of a chat: changed by key, sent to the engine, kept."""

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Select, Static, TextArea

from app import paths
from app.screens.answering import FIELDS, AnsweringScreen
from app.screens.chat import ChatScreen
from app.settings import Settings
from app.widgets.header import HeaderLine
from app.widgets.prompt import Prompt
from engine.protocol import SamplingOptions
from tests.ui import install_model, make_app, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")

SETTINGS = """
system = "Be kind."
[sampling]
temperature = 0.5
[presets."[b]x[/b]"]
[presets.coder]
system = "Write code."
temperature = 0.1
top_k = 5
"""


@pytest.fixture(autouse=True)
def settings(home: Path) -> None:
    install_model()
    paths.settings_file().write_text(SETTINGS)


async def open_panel(pilot: Pilot[None]) -> None:
    await pilot.press("f5")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, AnsweringScreen))
    await wait_until(pilot, lambda: isinstance(pilot.app.focused, Input))


async def closed(pilot: Pilot[None]) -> None:
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))


def field(pilot: Pilot[None], name: str) -> Input:
    return pilot.app.screen.query_one(f"#{name}", Input)


def told(pilot: Pilot[None]) -> str:
    return str(pilot.app.screen.query_one("#told", Static).content)


def test_there_is_a_field_for_every_way_to_draw():
    names = {*SamplingOptions.__dataclass_fields__, "max_tokens"}
    assert set(FIELDS) == names
    assert names - {"max_tokens"} <= set(Settings().sampling.__dict__)


async def test_what_is_changed_is_what_the_engine_is_asked_and_comes_back():
    async with make_app().run_test(size=(80, 24)) as pilot:
        await wait_for_state(pilot, "ready")
        await open_panel(pilot)
        assert field(pilot, "temperature").value == "0.5"
        assert pilot.app.screen.query_one("#system", TextArea).text == "Be kind."
        field(pilot, "temperature").value = ""
        await pilot.press("1", ".", "2", "down", "7", "enter")
        await closed(pilot)
        pilot.app.screen.query_one(Prompt).text = "hello"
        await pilot.press("enter")
        await wait_until(pilot, lambda: pilot.app.screen._conversation.last_made)
        made = pilot.app.screen._conversation.last_made
        assert (made.sampling.temperature, made.sampling.top_k) == (1.2, 7)
        assert made.system == "Be kind."
        await wait_for_state(pilot, "ready")
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        assert pilot.app.screen._sampling.temperature == 1.2
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: pilot.app.screen._sampling.temperature == 0.5)


async def test_a_preset_fills_in_what_it_says():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await open_panel(pilot)
        pilot.app.screen.query_one(Select).value = "coder"
        await wait_until(pilot, lambda: field(pilot, "temperature").value == "0.1")
        assert field(pilot, "top_k").value == "5"
        assert pilot.app.screen.query_one("#system", TextArea).text == "Write code."
        await pilot.press("ctrl+s")
        await closed(pilot)
        screen = pilot.app.screen
        assert (screen._conversation.system, screen._conversation.preset) == (
            "Write code.",
            "coder",
        )
        assert screen.query_one(HeaderLine).about.endswith("· coder")

        await open_panel(pilot)
        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: field(pilot, "temperature").value == "0.5")
        await pilot.press("escape")
        await closed(pilot)
        assert screen._conversation.preset == "coder"


async def test_what_may_not_be_is_told_and_not_taken():
    async with make_app().run_test(size=(80, 24)) as pilot:
        await wait_for_state(pilot, "ready")
        await open_panel(pilot)
        for name, text, words in (
            ("top_p", "2", "Top-p must be above 0 and at most 1"),
            ("seed", "x", "Seed must be a whole number"),
            ("temperature", "nan", "Temperature must be 0 or more"),
        ):
            before = field(pilot, name).value
            field(pilot, name).value = text
            await wait_until(pilot, lambda words=words: words in told(pilot))
            await pilot.press("enter")
            assert isinstance(pilot.app.screen, AnsweringScreen)
            field(pilot, name).value = before
        await pilot.press("ctrl+s")
        await closed(pilot)
