"""The screen in front of the real engine, with a tiny random model: the two speak one protocol."""

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Static

from app import paths
from app.screens.wizard import WizardScreen
from app.tui import McChatApp
from app.widgets.gauges import Gauges
from app.widgets.header import HeaderLine
from app.widgets.messages import ModelMessage, Notice
from tests.checkpoints_for_tests import CONFIG, write_tiny_checkpoint
from tests.ui import send, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")


def last_summary(pilot: Pilot[None]) -> str:
    return str(pilot.app.screen.query(".below").last(Static).content)


async def test_a_chat_with_the_real_engine(home: Path):
    home.mkdir()
    paths.settings_file().write_text("max_tokens = 12\n[sampling]\nseed = 1\n")
    manifest = write_tiny_checkpoint(paths.models_dir() / "tiny")
    app = McChatApp()
    async with app.run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        bits = f"{manifest.nominal_bits:.2f} bits"
        assert pilot.app.screen.query_one(HeaderLine).about.startswith(f"tiny · {bits} · ")
        gauges = pilot.app.screen.query_one(Gauges)
        assert gauges.readings.memory.weights > 0

        await send(pilot, "Hello")
        await wait_until(pilot, lambda: "tokens/s" in last_summary(pilot))
        meters = gauges.readings.meters
        assert meters.context_size == CONFIG["max_position_embeddings"]
        assert 0 < meters.context_used <= meters.context_size
        assert 0 < meters.activated_fraction <= 1
        assert meters.tokens_per_second > 0

        await pilot.press("f2")
        await send(pilot, "Again")
        await wait_until(pilot, lambda: len(pilot.app.screen.query(ModelMessage)) == 2)
        await wait_until(pilot, lambda: " 0 % pruned" in last_summary(pilot))

        await pilot.press("ctrl+n")
        await send(pilot, "far too long " * 200)
        await wait_until(pilot, lambda: pilot.app.screen.query(Notice))
        labels = [str(button.label) for button in pilot.app.screen.query(Button)]
        assert labels == ["Drop oldest turns", "Summarise by hand", "New chat (Ctrl+N)"]

        app._services.engine._process._process.kill()
        await wait_for_state(pilot, "down")
        await pilot.press("ctrl+r")
        await wait_for_state(pilot, "ready")


async def test_the_wizard_sees_this_machine():
    async with McChatApp().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        assert isinstance(pilot.app.screen, WizardScreen)
        assert "free of" in str(pilot.app.screen.query_one("#machine", Static).content)


async def test_an_altered_model_says_so_and_what_to_do():
    folder = paths.models_dir() / "tiny"
    write_tiny_checkpoint(folder)
    with (folder / "layer-00.safetensors").open("ab") as file:
        file.write(b"x")
    async with McChatApp().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "down")
        notice = str(pilot.app.screen.query_one(Notice).query_one(Static).content)
        assert "layer-00.safetensors" in notice
        assert "compress or pull" in notice
