"""Pictures of the map of the experts beside the chat, and of a chat that was held with another
model."""

from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from app import paths
from app.history import History, MadeWith
from app.widgets.expert_map import ExpertMap
from app.widgets.messages import UserMessage
from app.widgets.prompt import Prompt
from tests.chats_for_tests import Clock
from tests.snapshots.test_screens import Scene, fixed_world  # noqa: F401 - a fixture
from tests.ui import install_model, make_app, send, wait_for_state, wait_until


def held_with(model: str) -> None:
    history = History(paths.history_db(), Clock())
    chat = history.new_chat(model, "Where does Ada live?")
    asked = history.add_message(chat, None, "user", "Where does Ada live?")
    made = MadeWith(model, 2.5)
    history.add_message(chat, asked.id, "assistant", "In **Doverby**.", "done", made)
    history.close()


async def map_beside(pilot: Pilot[None]) -> None:
    await send(pilot, "Why are experts cheap?")
    await wait_for_state(pilot, "ready")
    await pilot.press("ctrl+s", "ctrl+s")
    await wait_until(pilot, lambda: pilot.app.screen.query(ExpertMap))
    await pilot.pause()


async def held_with_another(pilot: Pilot[None]) -> None:
    await wait_for_state(pilot, "ready")
    await pilot.press("ctrl+o", "enter")
    await wait_until(pilot, lambda: pilot.app.screen.query(UserMessage))
    await wait_until(pilot, lambda: pilot.app.screen.query_one("#offer", Static).display)
    pilot.app.screen.query_one(Prompt).focus()
    await wait_for_state(pilot, "ready")


@pytest.mark.parametrize(
    ("scene", "theme", "size"),
    [
        (map_beside, "mc-chat", (160, 48)),
        (held_with_another, "mc-light", (120, 36)),
        (held_with_another, "mc-contrast", (60, 20)),
    ],
    ids=["map-beside", "other-wide", "other-narrow"],
)
def test_chat(
    scene: Scene,
    theme: str,
    size: tuple[int, int],
    snap_compare: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MC_CHAT_THEME", theme)
    install_model("demo")
    install_model("mixtral-2.5bit")
    if scene is held_with_another:
        held_with("mixtral-2.5bit")
    app = make_app(model=paths.models_dir() / "demo")
    assert snap_compare(app, terminal_size=size, run_before=scene)
