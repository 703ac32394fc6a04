"""The gauges show what the engine tells, and the pruning key reaches it."""

from dataclasses import replace

import pytest
from textual.widgets import TextArea

from app.widgets.gauge import Readings
from app.widgets.gauges import Gauges, NewReadings
from app.widgets.meters import (
    ActivatedGauge,
    ContextGauge,
    GaugeStrip,
    MemoryGauge,
    PruningGauge,
    SpeedGauge,
)
from app.widgets.prompt import Prompt
from tests.fakes.fake_worker import ANSWER
from tests.ui import drawn, install_model, make_app, send, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")


async def test_memory_is_known_as_soon_as_the_model_is_loaded():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        memory = drawn(pilot, MemoryGauge)
        for figure in ("19.1 GB", "17.4 GB", "1.07 GB", "612 MB", "4.98 GB of 25.3 GB"):
            assert figure in memory
        assert "–" in drawn(pilot, SpeedGauge)
        assert "of 8,192" in drawn(pilot, ContextGauge)


async def test_every_figure_is_the_engines():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await send(pilot, "one two three")
        await wait_for_state(pilot, "ready")
        await wait_until(pilot, lambda: "42.5" in drawn(pilot, SpeedGauge))
        activated = drawn(pilot, ActivatedGauge)
        assert "10.2 B" in activated
        assert "22 % of 46.7 B" in activated
        assert "4.10 GB read" in activated
        assert "31 % over the reply" in drawn(pilot, PruningGauge)
        assert "0.38 s" in drawn(pilot, SpeedGauge)
        assert "79 of 8,192" in drawn(pilot, ContextGauge)


async def test_the_pruning_key_changes_a_running_reply():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await send(pilot, "hold on")
        await wait_until(pilot, lambda: "33 % now" in drawn(pilot, PruningGauge))
        assert "ODP on" in drawn(pilot, PruningGauge)
        assert "10.2 B" in drawn(pilot, ActivatedGauge)

        await pilot.press("f2")
        await wait_until(pilot, lambda: " 0 % now" in drawn(pilot, PruningGauge))
        assert "no pruning" in drawn(pilot, PruningGauge)
        assert "12.9 B" in drawn(pilot, ActivatedGauge)

        await pilot.press("f2")
        await wait_until(pilot, lambda: "33 % now" in drawn(pilot, PruningGauge))


async def test_the_pruning_key_holds_for_the_next_reply_too():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("f2")
        await send(pilot, "go")
        await wait_until(pilot, lambda: "\n0 % over the reply" in drawn(pilot, PruningGauge))


async def test_the_sparkline_begins_anew_with_each_reply():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await send(pilot, "go")
        await wait_for_state(pilot, "ready")
        gauges = pilot.app.screen.query_one(Gauges)
        await wait_until(pilot, lambda: len(gauges.readings.recent) > 3)
        await send(pilot, "full")
        await wait_until(pilot, lambda: gauges.readings.recent == ())


async def test_a_narrow_screen_gets_two_lines_with_the_same_figures():
    install_model()
    async with make_app().run_test(size=(80, 24)) as pilot:
        await send(pilot, "one two three")
        await wait_until(pilot, lambda: "42.5" in drawn(pilot, GaugeStrip))
        await wait_for_state(pilot, "ready")
        strip = drawn(pilot, GaugeStrip)
        for figure in (
            "19.1 GB",
            "4.98 GB free",
            "10.2 B",
            "22 %",
            "31 %",
            "79 of 8,192",
            "ODP on",
        ):
            assert figure in strip
        assert pilot.app.screen.query_one(Gauges).size.height == 2
        assert not pilot.app.screen.query_one(MemoryGauge).is_on_screen


async def test_f3_hides_and_shows_the_gauges():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("f3")
        assert not pilot.app.screen.query_one(Gauges).display
        await pilot.press("f3")
        assert pilot.app.screen.query_one(Gauges).display


async def test_a_dead_engine_holds_no_memory():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await send(pilot, "crash")
        await wait_for_state(pilot, "down")
        await wait_until(pilot, lambda: "GB" not in drawn(pilot, MemoryGauge))


def test_old_readings_collapse():
    old, new = NewReadings(Readings()), NewReadings(replace(Readings(), context=1))
    assert new.can_replace(old)


async def test_the_context_of_a_chat_that_is_opened_again_is_counted_by_the_engine():
    install_model()
    async with make_app().run_test(size=(80, 24)) as pilot:
        await send(pilot, "one two three")
        await wait_for_state(pilot, "ready")
    words = 3 + len(ANSWER.split())
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_until(pilot, lambda: f"{words} of 8,192" in drawn(pilot, ContextGauge))
        assert "–" in drawn(pilot, SpeedGauge)
        await pilot.press("f5")
        await wait_until(pilot, lambda: pilot.app.screen.query("#system"))
        pilot.app.screen.query_one("#system", TextArea).text = "Be brief."
        await pilot.press("ctrl+s")
        await wait_until(pilot, lambda: pilot.app.screen.query(ContextGauge))
        await wait_until(pilot, lambda: f"{words + 2} of 8,192" in drawn(pilot, ContextGauge))
        prompt = pilot.app.screen.query_one(Prompt)
        prompt.text = 10 * "far too long for this chat, " * 200
        await wait_until(pilot, lambda: prompt.border_subtitle)
        assert f"but {8192 - words - 2:,} fit" in str(prompt.border_subtitle)
        assert f"{words + 2} of 8,192" in drawn(pilot, ContextGauge)
        prompt.text = ""
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: "0 of 8,192" in drawn(pilot, ContextGauge))
