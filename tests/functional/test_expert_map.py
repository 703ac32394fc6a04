"""The map of the experts: what it says without colour, by key, and while the model talks."""

import re

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from app.screens.expert_map import ExpertMapScreen
from app.widgets.expert_map import ExpertMap
from app.widgets.gauges import Gauges
from app.widgets.map_panel import MapPanel
from app.widgets.messages import ModelMessage
from app.widgets.prompt import Prompt
from tests.ui import install_model, make_app, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")


async def open_map(pilot: Pilot[None]) -> ExpertMap:
    await pilot.press("ctrl+l")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ExpertMapScreen))
    return pilot.app.screen.query_one(ExpertMap)


def text(pilot: Pilot[None], id: str) -> str:
    return str(pilot.app.screen.query_one(id, Static).content)


@pytest.mark.parametrize("size", [(120, 36), (60, 20)])
async def test_views_by_key_each_with_its_legend(size: tuple[int, int]):
    install_model()
    async with make_app().run_test(size=size) as pilot:
        await wait_for_state(pilot, "ready")
        grid = await open_map(pilot)
        assert "nothing has run yet" in text(pilot, "#legend")
        await pilot.press("1")
        assert grid.view == "bits"
        rows = str(grid.render()).splitlines()
        assert re.findall(r"\d", rows[1])[1:] == ["3", "3", "2", "2"]
        await pilot.press("4")
        assert "error" in text(pilot, "#legend")
        await pilot.press("tab")
        assert grid.view == "live"
        await pilot.press("tab")
        assert grid.view == "pruned"
        await pilot.press("tab")
        assert grid.view == "bits"
        assert grid.has_focus


async def test_the_cursor_reads_an_expert_out_and_stays_inside():
    install_model()
    async with make_app().run_test(size=(80, 24)) as pilot:
        await wait_for_state(pilot, "ready")
        grid = await open_map(pilot)
        assert text(pilot, "#expert").startswith("Layer 0, expert 0: 3 bits. Chosen by 25 %")
        await pilot.press("left", "up", "down", "right", "right")
        assert text(pilot, "#expert").startswith("Layer 1, expert 2: 2 bits.")
        assert "behind its layer by 2.5 %." in text(pilot, "#expert"), "0.2 of a norm of 8"
        await pilot.press("end", *["right"] * 9)
        assert grid.cursor == (3, 3)
        await pilot.press("escape")
        await wait_until(pilot, lambda: pilot.app.screen.query(Prompt))


async def test_behind_a_reply_it_shows_what_that_ran():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        pilot.app.screen.query_one(Prompt).text = "hello"
        await pilot.press("enter")
        await wait_until(pilot, lambda: pilot.app.screen.query(ModelMessage))
        await wait_for_state(pilot, "ready")
        grid = await open_map(pilot)
        assert grid.view == "live"
        assert grid.live.runs[2][1] > 0
        assert "in the last reply" in text(pilot, "#legend")
        assert f"{grid.live.runs[0][0]} runs" in text(pilot, "#expert")


async def test_it_lives_while_the_model_talks():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        pilot.app.screen.query_one(Prompt).text = "hello"
        await pilot.press("enter")
        await wait_for_state(pilot, "ready")
        pilot.app.screen.query_one(Prompt).text = "hold"
        await pilot.press("enter")
        grid = await open_map(pilot)
        await wait_until(pilot, lambda: grid.live.runs)
        await pilot.press("end")
        await wait_until(pilot, lambda: "pruned; of this layer's slots" in text(pilot, "#expert"))
        assert "pruned" in str(grid.render()).splitlines()[0]


async def test_the_map_beside_the_chat_lives_and_turns_from_what_runs_to_what_is_pruned():
    install_model()
    async with make_app().run_test(size=(150, 40)) as pilot:
        await wait_for_state(pilot, "ready")
        chat, prompt = pilot.app.screen, pilot.app.screen.query_one(Prompt)
        prompt.text = "hold"
        await pilot.press("enter", "ctrl+s")
        await wait_until(pilot, lambda: chat.query(ExpertMap))
        grid = chat.query_one(ExpertMap)
        assert grid.view == "live"
        assert prompt.has_focus
        await wait_until(pilot, lambda: grid.live.runs)
        assert grid.region.right < chat.query_one(ModelMessage).region.x
        assert prompt.region.right <= chat.query_one(Gauges).region.x
        await pilot.press("ctrl+s")
        await wait_until(pilot, lambda: chat.query_one(ExpertMap).view == "pruned")
        assert chat.query_one(ExpertMap).live.runs
        assert "skipped" in text(pilot, "#map-legend")
        await pilot.resize_terminal(149, 40)
        await wait_until(pilot, lambda: not chat.query_one(MapPanel).display)
        await pilot.press("ctrl+s")
        await wait_until(pilot, lambda: pilot.app._notifications)
        await pilot.resize_terminal(150, 40)
        await wait_until(pilot, lambda: chat.query_one(MapPanel).display)
        await pilot.press("ctrl+s")
        await wait_until(pilot, lambda: not chat.query(ExpertMap))
        await pilot.press("escape")
