"""The wizard's two sliders, and the bar that follows them."""

import json
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from app import paths
from app.screens.chat import ChatScreen
from app.units import size
from app.widgets.context_slider import ContextSlider
from app.widgets.fit_bar import FitBar
from app.widgets.plan_table import PlanTable
from app.widgets.source_list import SourceList
from assets import DEMO_DIR
from compress.plan import Choice, Plan, plan
from engine.config import MIXTRAL_8X7B
from tests.fakes.fake_worker import DEVICES
from tests.ui import drawn, make_app, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")
CARD = DEVICES[0]


def chosen(pilot: Pilot[None]) -> Choice:
    return pilot.app.screen.query_one(PlanTable).chosen


def context_line(pilot: Pilot[None]) -> str:
    return str(pilot.app.screen.query_one("#context", Static).content)


def at(tokens: int, bits: float) -> Choice:
    """The plan's own row."""
    rows: Plan = plan(MIXTRAL_8X7B, CARD, tokens)
    return next(row for row in rows.choices if row.nominal_bits == bits)


async def choose_mixtral(pilot: Pilot[None]) -> ContextSlider:
    """With the context under the cursor."""
    await wait_for_state(pilot, "ready")
    pilot.app.screen.query_one(SourceList).focus()
    await pilot.press("down")
    await wait_until(pilot, lambda: "8,192 tokens" in context_line(pilot))
    await pilot.press("tab")
    slider = pilot.app.screen.query_one(ContextSlider)
    assert pilot.app.focused is slider
    return slider


async def test_left_and_right_move_the_context_and_keep_the_width():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await choose_mixtral(pilot)
        bits = chosen(pilot).nominal_bits
        for key, tokens in (("left", 4096), ("right", 8192), ("home", 1024), ("left", 1024)):
            await pilot.press(key)
            assert context_line(pilot).split()[1] == f"{tokens:,}"
            assert chosen(pilot) == at(tokens, bits)
            assert size(chosen(pilot).kv_bytes) in drawn(pilot, FitBar)


async def test_a_width_that_stops_fitting_is_marked_and_said_in_words():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await choose_mixtral(pilot)
        await pilot.press("tab", *["down"] * 20)
        widest = plan(MIXTRAL_8X7B, CARD).choices[-1]
        assert chosen(pilot) == widest
        contexts = (1024, 2048, 4096, 8192, 16_384, 32_768)
        rows = [plan(MIXTRAL_8X7B, CARD, tokens, only=widest.nominal_bits) for tokens in contexts]
        fitting = [row.choices[0].fits for row in rows]
        assert 0 < fitting.count(True) < len(fitting), "or it would show nothing"
        assert drawn(pilot, ContextSlider).count("✕") == fitting.count(False)
        last = contexts[fitting.count(True) - 1] // 1024
        assert f"{widest.nominal_bits:.2f} bits fit up to {last}k" in context_line(pilot)
        await pilot.press("shift+tab", "end")
        assert chosen(pilot) == rows[-1].choices[0], "a width that was chosen stays"
        lacking = size(rows[-1].choices[0].total_bytes - CARD.free_bytes)
        assert f"✕ too big by {lacking}" in drawn(pilot, FitBar)
        await pilot.press("home")
        assert chosen(pilot).nominal_bits == widest.nominal_bits


async def test_another_width_changes_the_bar_by_left_and_right_too():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await choose_mixtral(pilot)
        await pilot.press("tab", "home")
        table = pilot.app.screen.query_one(PlanTable)
        for key in ("left", "left", "right", "down", "up"):
            await pilot.press(key)
            row = table.chosen
            left = size(CARD.free_bytes - row.total_bytes)
            assert f"{size(row.total_bytes)} of 24.1 GB free, {left} left" in drawn(pilot, FitBar)


@pytest.mark.parametrize("tokens", [1024, 4096, 32_768])
async def test_the_mouse_chooses_the_stop_under_it(tokens: int):
    async with make_app().run_test(size=(120, 36)) as pilot:
        await choose_mixtral(pilot)
        column = drawn(pilot, ContextSlider).index(f"{tokens // 1024}k")
        await pilot.click(ContextSlider, offset=(column, 0))
        assert f"{tokens:,} tokens" in context_line(pilot)


async def test_the_mouse_drags():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await choose_mixtral(pilot)
        line = drawn(pilot, ContextSlider)
        await pilot.mouse_down(ContextSlider, offset=(line.index("1k"), 0))
        await pilot.hover(ContextSlider, offset=(line.index("16k"), 0))
        assert "16,384 tokens" in context_line(pilot)
        await pilot.mouse_up(ContextSlider, offset=(line.index("16k"), 0))
        await pilot.hover(ContextSlider, offset=(line.index("2k"), 0))
        assert "16,384 tokens" in context_line(pilot)


async def test_enter_on_the_context_begins():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await choose_mixtral(pilot)
        await pilot.press("left", "enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await wait_for_state(pilot, "ready")
        assert pilot.app.screen._readings.context == 4096


async def test_the_context_of_the_settings_is_a_stop_of_its_own():
    paths.settings_file().parent.mkdir(parents=True, exist_ok=True)
    paths.settings_file().write_text("context = 5000\n")
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        pilot.app.screen.query_one(SourceList).focus()
        await pilot.press("down")
        await wait_until(pilot, lambda: "5,000 tokens" in context_line(pilot))
        assert "4k━━━━━●5,000─────○8k" in drawn(pilot, ContextSlider)
        await pilot.press("tab", "right", "left")
        assert "5,000 tokens" in context_line(pilot)


async def test_an_odd_limit_is_kept_for_a_model_that_could_do_more(tmp_path: Path):
    config = json.loads((DEMO_DIR / "config.json").read_text()) | {"max_position_embeddings": 3000}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        sources = pilot.app.screen.query_one(SourceList)
        sources.focus()
        await pilot.press("down", "down")
        folder = pilot.app.screen.query_one(Input)
        await wait_until(pilot, lambda: folder.display)
        folder.value = str(tmp_path)
        folder.focus()
        await pilot.press("enter")
        await wait_until(pilot, lambda: "3,000 tokens" in context_line(pilot))
        pilot.app.screen.query_one(ContextSlider).focus()
        await pilot.press("left", "right")
        assert "●3,000" in drawn(pilot, ContextSlider)
        sources.focus()
        await pilot.press("up")
        await wait_until(pilot, lambda: "32k" in drawn(pilot, ContextSlider))
        assert "●3,000" in drawn(pilot, ContextSlider)


async def test_a_single_context_is_no_slider():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("tab", "tab")
        assert isinstance(pilot.app.focused, PlanTable)


@pytest.mark.parametrize("terminal", [(60, 20), (80, 20), (120, 24)])
async def test_in_a_small_terminal_the_bar_is_seen_with_what_moves_it(terminal: tuple[int, int]):
    async with make_app().run_test(size=terminal) as pilot:
        await choose_mixtral(pilot)
        screen = pilot.app.screen
        below, line = screen.query_one("#wizard").region, screen.query_one("#message")
        for kind in (ContextSlider, PlanTable):
            screen.query_one(kind).focus()
            await pilot.pause()
            for part in (ContextSlider, PlanTable, FitBar):
                assert screen.query_one(part).region in below, (kind, part)
        for text in drawn(pilot, FitBar).splitlines():
            assert len(text) <= screen.query_one(FitBar).size.width
        await pilot.press("pagedown", "pagedown", "pagedown")
        assert line.region.bottom <= below.bottom
        await pilot.press("pageup", "pageup", "pageup")
        assert screen.query_one("#intro").region in below
