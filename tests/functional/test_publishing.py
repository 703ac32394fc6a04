"""Publishing from the models screen: the real process and client against a hub on localhost."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from app import jobs, models, paths
from app.screens.chat import ChatScreen
from app.screens.models import ModelsScreen
from app.screens.parting import PartingScreen
from app.screens.publishing import PublishScreen
from app.screens.transferring import TransferScreen
from app.widgets.model_list import ModelList
from engine.errors import UsageError
from tests.checkpoints_for_tests import write_tiny_checkpoint
from tests.hub_for_tests import TOKEN, Hub, environment, running_hub
from tests.ui import install_model, make_app, text_of, wait_for_state, wait_until

DEMO = "demo"


@pytest.fixture
def hub(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that child processes talk to, one of us logged in, and a tiny model to publish."""
    install_model(DEMO)
    write_tiny_checkpoint(paths.models_dir() / "tiny")
    with running_hub(tmp_path / "hub") as hub:
        for name, value in (environment(hub, tmp_path) | {"HF_TOKEN": TOKEN}).items():
            monkeypatch.setenv(name, value)
        yield hub


async def ask(pilot: Pilot[None]) -> None:
    """Open the models screen and press P on the tiny model."""
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
    await wait_for_state(pilot, "ready")
    await pilot.press("f4")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
    listed = pilot.app.screen.query_one(ModelList)
    listed.highlighted = [model.name for model in listed.models].index("tiny")
    await pilot.press("p")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, PublishScreen))


def make():
    return make_app(model=paths.models_dir() / DEMO)


async def test_a_model_is_published_after_its_name_and_who_sees_it_were_asked(hub: Hub):
    async with make().run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        dialog = pilot.app.screen.query(Static).first()
        tiny = models.resolve("tiny")
        files = sum(path.stat().st_size for path in tiny.glob("*.safetensors"))
        assert f"Uploads {files / 1000:.0f} kB" in str(dialog.content)
        assert "▸ private" in text_of(pilot, "#who")
        await pilot.press("enter")
        assert "OWNER/NAME" in text_of(pilot, "#problem"), "an owner is missing"
        await pilot.press("m", "e")
        assert pilot.app.screen.query_one(Input).value == "me/tiny"
        await pilot.press("tab", "tab", "enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
        await wait_until(pilot, lambda: "✓ tiny is at" in text_of(pilot, "#told"))
        assert f"{hub.url}/me/tiny" in text_of(pilot, "#told")
        assert hub.created == {"me/tiny": True}
        assert (hub.folder / "me/tiny/mc.json").read_bytes() == (tiny / "mc.json").read_bytes()


async def test_public_is_chosen_by_a_key(hub: Hub):
    async with make().run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await pilot.press("m", "e", "tab")
        assert "▸ public" in text_of(pilot, "#who")
        await pilot.press("enter")
        await wait_until(pilot, lambda: hub.commits)
        assert hub.created == {"me/tiny": False}


async def test_without_a_login_one_line_says_what_to_do(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    async with make().run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await pilot.press("m", "e", "enter")
        await wait_for_state(pilot, "down")
        assert "hf auth login" in text_of(pilot, "#ending")
        assert not hub.requests
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        await pilot.press("r")
        await wait_until(pilot, lambda: hub.commits)


async def test_without_a_network_one_line_says_so(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    async with make().run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await pilot.press("m", "e", "enter")
        await wait_for_state(pilot, "down")
        assert "127.0.0.1:9 cannot be reached" in text_of(pilot, "#ending")
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))


async def test_an_upload_is_left_joined_again_and_stopped(hub: Hub):
    hub.faults.upload_seconds = 3.0
    async with make().run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await pilot.press("m", "e", "enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, TransferScreen))
        await wait_until(pilot, lambda: "uploading" in text_of(pilot, "#transfer"))
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, PartingScreen))
        await pilot.press("b")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
        assert "in the background" in text_of(pilot, "#told")
        assert "An upload of tiny is running" in text_of(pilot, "#running")
        with pytest.raises(UsageError, match="being published"):
            models.remove("tiny")
        await pilot.press("p")  # joins it
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, TransferScreen))
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, PartingScreen))
        await pilot.press("s")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
        assert "Stopped" in text_of(pilot, "#told")
        assert not hub.commits


async def test_an_upload_whose_process_is_killed_is_told(hub: Hub):
    hub.faults.upload_seconds = 0.5
    async with make().run_test(size=(100, 30)) as pilot:
        await ask(pilot)
        await pilot.press("m", "e", "enter")
        await wait_until(pilot, jobs.all_running)
        os.kill(jobs.all_running()[0].pid, signal.SIGKILL)
        await wait_for_state(pilot, "down")
        assert "stopped unexpectedly" in text_of(pilot, "#ending")
