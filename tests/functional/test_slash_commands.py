"""Commands that are typed: each does what its words say."""

from pathlib import Path

import pytest
from textual.pilot import Pilot

from app import paths
from app.screens.chat import ChatScreen
from app.screens.models import ModelsScreen
from app.widgets.chips import Chips
from app.widgets.header import HeaderLine
from app.widgets.messages import ModelMessage
from app.widgets.prompt import Prompt
from tests.ui import install_model, make_app, wait_for_state, wait_until


@pytest.fixture(autouse=True)
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_model("demo")
    install_model("other")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


async def write(pilot: Pilot[None], text: str) -> None:
    pilot.app.screen.query_one(Prompt).text = text
    await pilot.press("enter")
    await pilot.pause()


async def say(pilot: Pilot[None], text: str) -> None:
    before = len(pilot.app.screen.query(ModelMessage))
    await write(pilot, text)
    await wait_until(pilot, lambda: len(pilot.app.screen.query(ModelMessage)) > before)
    await wait_for_state(pilot, "ready")


def notices(pilot: Pilot[None]) -> str:
    return "\n".join(notice.message for notice in pilot.app._notifications)


def chat(pilot: Pilot[None]) -> ChatScreen:
    screen = pilot.app.screen
    assert isinstance(screen, ChatScreen)
    return screen


def make():
    return make_app(model=paths.models_dir() / "demo")


async def test_system_tells_the_model_something_from_the_next_reply_on():
    async with make().run_test(size=(100, 30)) as pilot:
        await wait_for_state(pilot, "ready")
        await write(pilot, "/system Be brief.")
        await say(pilot, "Hello")
        assert chat(pilot)._conversation.last_made.system == "Be brief."
        await write(pilot, "/system none")
        await say(pilot, "Hello")
        assert chat(pilot)._conversation.last_made.system == ""


async def test_export_writes_this_chat_under_its_title_or_a_name(here: Path):
    async with make().run_test(size=(100, 30)) as pilot:
        await wait_for_state(pilot, "ready")
        await write(pilot, "/export")
        assert "nothing to write" in notices(pilot)
        await say(pilot, "Hello you")
        await write(pilot, "/export")
        await write(pilot, "/export")
        await write(pilot, "/export my chat.json")
        await write(pilot, "/export chat.txt")
        names = sorted(path.name for path in here.iterdir())
        assert names == ["Hello you (2).md", "Hello you.md", "my chat.json"]
        assert "Hello you" in (here / "Hello you.md").read_text()
        assert "neither in .md nor in .json" in notices(pilot)


async def test_model_loads_one_by_name_or_shows_all():
    async with make().run_test(size=(100, 30)) as pilot:
        await wait_for_state(pilot, "ready")
        await write(pilot, "/model other")
        await wait_until(pilot, lambda: "other" in pilot.app.screen.query_one(HeaderLine).about)
        await write(pilot, "/model nothing")
        assert "there is no model named" in notices(pilot)
        await write(pilot, "/model")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))


async def test_drop_leaves_the_oldest_out_and_asks_again():
    async with make().run_test(size=(100, 30)) as pilot:
        await wait_for_state(pilot, "ready")
        for text in ("One", "Two"):
            await say(pilot, text)
        await write(pilot, "/drop")
        await wait_until(pilot, lambda: chat(pilot)._conversation.left_out == 1)
        await wait_for_state(pilot, "ready")


async def test_what_is_typed_after_a_stroke_is_explained_and_completed():
    async with make().run_test(size=(80, 24)) as pilot:
        await wait_for_state(pilot, "ready")
        chips = pilot.app.screen.query_one(Chips)
        prompt = pilot.app.screen.query_one(Prompt)
        await pilot.press("slash")
        await wait_until(pilot, lambda: "/export  /compare" in str(chips.content))
        await pilot.press("e")
        explained = "/export FILE.md or .json  write this chat to a file"
        await wait_until(pilot, lambda: str(chips.content) == explained)
        await pilot.press("tab")
        assert prompt.text == "/export "
        assert prompt.has_focus
        await pilot.press("x")
        assert chips.display, "it tells what may follow as long as that is written"
        await pilot.press("ctrl+u")
        await wait_until(pilot, lambda: not chips.display)
