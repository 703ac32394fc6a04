"""Bits of the context's memory: one setting for loading, for the plan and for the wizard."""

import json
from pathlib import Path

import pytest

from app import paths
from app.load_choices import LoadChoice, load_request, remember
from app.screens import wizard
from app.screens.wizard import WizardScreen
from app.settings import Settings
from app.widgets.plan_table import PlanTable
from compress.plan import plan
from engine.protocol import Load
from tests.commands_for_tests import Command
from tests.ui import make_app, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")


def test_a_model_is_loaded_as_the_settings_say(home: Path) -> None:
    settings = Settings(device="cpu", context=64, kv_bits=8)
    model = Path("/models/one")
    assert load_request(model, settings) == Load("/models/one", "cpu", 64, kv_bits=8)
    home.mkdir()
    remember(model, LoadChoice("cuda:0", 32, force=True))
    assert load_request(model, settings) == Load("/models/one", "cuda:0", 32, True, 8)


def test_plan_and_run_take_them_from_the_settings_and_the_option(
    mc_chat: Command, tiny: Path
) -> None:
    def cache(*words: str) -> int:
        command = ("plan", "--vram", "24GiB", "--context", "32768", "--json", *words)
        found = json.loads(mc_chat(*command).out)
        return int(found["choices"][0]["kv_bytes"])

    def loaded(*words: str) -> int:
        command = ("run", "tiny", "Hello", "--max-tokens", "1", "--device", "cpu", "--json")
        meters = json.loads(mc_chat(*command, *words).out)["meters"]
        return int(meters["memory"]["kv_cache"])

    whole, held = cache(), loaded()
    assert cache("--kv-bits", "8") < whole
    paths.settings_file().write_text("kv_bits = 8\n")
    assert cache() < whole
    assert cache("--kv-bits", "16") == whole
    assert loaded() < held
    assert loaded("--kv-bits", "16") == held


async def test_the_wizards_fit_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_CHAT_KV_BITS", "8")
    counted = []

    def heard(*values: object, **options: object) -> object:
        counted.append(options["kv_bits"])
        return plan(*values, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(wizard, "plan", heard)
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        assert isinstance(pilot.app.screen, WizardScreen)
        await wait_until(pilot, lambda: pilot.app.screen.query_one(PlanTable).row_count)
        assert set(counted) == {8}
