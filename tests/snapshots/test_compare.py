"""Pictures of two replies side by side, in all three of our themes."""

from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from app import paths
from app.screens import chat_messages
from app.screens.compare import CompareScreen
from app.widgets.messages import ModelMessage
from tests.snapshots.test_screens import Scene, fixed_world, send  # noqa: F401 - a fixture
from tests.ui import install_model, make_app, wait_for_state, wait_until


async def compared(pilot: Pilot[None]) -> None:
    await send(pilot, "Why are experts cheap? They differ, don't they?")
    await wait_until(pilot, lambda: pilot.app.screen.query(ModelMessage))
    await wait_for_state(pilot, "ready")
    await pilot.press("tab", "a")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, CompareScreen))
    await pilot.press("enter")
    verdict = pilot.app.screen.query_one("#verdict", Static)
    await wait_until(pilot, lambda: "words agree" in str(verdict.content))
    await wait_for_state(pilot, "ready")
    await pilot.pause()


@pytest.mark.parametrize(
    ("scene", "theme", "size"),
    [
        (compared, "mc-chat", (120, 36)),
        (compared, "mc-light", (80, 24)),
        (compared, "mc-contrast", (60, 20)),
    ],
    ids=["wide-dark", "light", "narrow-contrast"],
)
def test_compare(
    scene: Scene,
    theme: str,
    size: tuple[int, int],
    snap_compare: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MC_CHAT_THEME", theme)
    monkeypatch.setattr(chat_messages, "any_seed", lambda: 1234)
    install_model("demo")
    app = make_app(model=paths.models_dir() / "demo")
    assert snap_compare(app, terminal_size=size, run_before=scene)
