"""A model that has nothing to do gives its memory back, and wakes with the next message."""

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Markdown

from app import paths
from app.idle import Idleness
from app.widgets.gauges import Gauges
from app.widgets.header import HeaderLine
from app.widgets.prompt import Prompt
from engine import protocol
from engine.protocol import Loaded, Memory, Unloaded
from tests.ui import install_model, make_app, wait_for_state, wait_until

LOADED = Loaded("x", "cpu", 8, 1, None, 16.0, Memory())


def test_time_counts_from_the_last_sign_of_life():
    now = 0.0
    idle = Idleness(2, lambda: now)
    now = 500.0
    assert not idle.is_over, "nothing is loaded"
    idle.hear(LOADED)
    now += 119
    assert not idle.is_over
    idle.hear(protocol.Token(1, "x"))
    now += 119
    assert not idle.is_over
    now += 1
    assert idle.is_over
    idle.hear(Unloaded())
    assert not idle.is_over
    assert not idle.loaded


def test_zero_minutes_are_never():
    now = 0.0
    idle = Idleness(0, lambda: now)
    idle.hear(LOADED)
    now = 1e9
    assert idle.loaded
    assert not idle.is_over


async def asleep(pilot: Pilot[None]) -> None:
    header = pilot.app.screen.query_one(HeaderLine)
    await wait_until(pilot, lambda: header.status.startswith("asleep"))


async def test_a_key_puts_it_to_sleep_and_a_message_wakes_it(home: Path):
    install_model()
    async with make_app().run_test(size=(100, 30)) as pilot:
        await wait_for_state(pilot, "ready")
        for count in (1, 2):
            await pilot.press("f12")
            await asleep(pilot)
            gauges = pilot.app.screen.query_one(Gauges)
            await wait_until(pilot, lambda gauges=gauges: gauges.readings.memory is None)
            pilot.app.screen.query_one(Prompt).text = "hello"
            await pilot.press("enter")
            await wait_until(
                pilot,
                lambda count=count: (
                    len(pilot.app.screen.query(Markdown)) == count
                    and pilot.app.screen.query_one(HeaderLine).status == ""
                    and pilot.app.screen.query_one(HeaderLine).state == "ready"
                ),
            )


async def test_not_while_it_writes(home: Path):
    install_model()
    async with make_app().run_test(size=(100, 30)) as pilot:
        await wait_for_state(pilot, "ready")
        pilot.app.screen.query_one(Prompt).text = "hold"
        await pilot.press("enter")
        await wait_for_state(pilot, "writing")
        await pilot.press("f12")
        await pilot.press("escape")
        await wait_for_state(pilot, "ready")
        assert not pilot.app.screen.query_one(HeaderLine).status


async def test_the_settings_say_after_how_long(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("app.tui.IDLE_LOOK_SECONDS", 0.02)
    install_model()
    home.mkdir(exist_ok=True)
    paths.settings_file().write_text("idle_unload_minutes = 1\n")
    app = make_app()
    now = 0.0
    app._idleness._clock = lambda: now
    async with app.run_test(size=(100, 30)) as pilot:
        await wait_for_state(pilot, "ready")
        now = 61.0
        await asleep(pilot)
