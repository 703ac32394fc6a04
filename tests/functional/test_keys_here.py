"""The page of keys begins with those of the screen that one looks at."""

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from app import paths
from app.screens.help import HelpScreen
from app.screens.models import ModelsScreen
from tests.ui import install_model, make_app, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")


async def page(pilot: Pilot[None]) -> list[str]:
    await pilot.press("question_mark")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen))
    shown = pilot.app.screen.query_one("#page", Static)
    await wait_until(pilot, lambda: str(shown.content))
    return str(shown.content).splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
async def test_the_keys_of_the_screen_below_come_first(width: int):
    install_model()
    async with make_app(model=paths.models_dir() / "demo").run_test(size=(width, 24)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("f4")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
        lines = await page(pilot)
        here = lines[1 : lines.index("")]
        assert lines[0] == "Here"
        assert [line.split() for line in here] == [
            ["Enter", "Load"],
            ["R", "Report"],
            ["M", "Map"],
            ["V", "Verify"],
            ["P", "Publish"],
            ["X", "Remove"],
            ["C", "New"],
            ["Esc", "Back"],
        ]
        longest = max(map(len, lines))
        assert longest <= pilot.app.screen.query_one("#page").content_size.width
        assert any(line.startswith(" " * 23) for line in lines) == (width < 120)


async def test_the_page_of_the_chat_is_that_of_its_commands():
    install_model()
    async with make_app(model=paths.models_dir() / "demo").run_test(size=(80, 24)) as pilot:
        await wait_for_state(pilot, "ready")
        assert "Here" not in await page(pilot)
