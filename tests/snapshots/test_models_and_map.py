"""Pictures of the models screen and of the map of the experts, in all three of our themes."""

from types import SimpleNamespace
from typing import Any

import pytest
from textual.pilot import Pilot

from app import paths
from app.models import InstalledModel
from app.screens.expert_map import ExpertMapScreen
from app.screens.models import ModelsScreen
from app.screens.publishing import PublishScreen
from app.screens.report import ReportScreen
from app.widgets.expert_map import ExpertMap
from app.widgets.prompt import Prompt
from tests.fakes import fake_job
from tests.snapshots.test_screens import Scene, fixed_world  # noqa: F401 - a fixture
from tests.ui import install_model, make_app, wait_for_state, wait_until

NOW = 1_760_000_000.0


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch, fixed_world: None) -> None:  # noqa: F811
    for name in ("demo", "mixtral-2.5bit"):
        install_model(name)
    (paths.models_dir() / "broken").mkdir()
    (paths.models_dir() / "broken" / "mc.json").write_text("{")
    monkeypatch.setattr(InstalledModel, "installed", property(lambda model: NOW))
    monkeypatch.setattr("app.date_words.time", SimpleNamespace(time=lambda: NOW + 60))


async def models_screen(pilot: Pilot[None]) -> None:
    await wait_for_state(pilot, "ready")
    await pilot.press("f4")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
    await pilot.press("x")


async def live_map(pilot: Pilot[None]) -> None:
    await wait_for_state(pilot, "ready")
    pilot.app.screen.query_one(Prompt).text = "hold on"
    await pilot.press("enter", "ctrl+l")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ExpertMapScreen))
    grid = pilot.app.screen.query_one(ExpertMap)
    await pilot.press("down", "right")
    await wait_until(pilot, lambda: grid.live.runs)
    # Readings of a held reply are all alike: nothing runs between them.
    await wait_until(pilot, lambda: not any(map(any, grid.live.runs)))
    await pilot.press("1")


async def report(pilot: Pilot[None]) -> None:
    await wait_for_state(pilot, "ready")
    install_model("demo", fake_job.QUALITY)
    await pilot.press("f4")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
    await pilot.press("r")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ReportScreen))


async def publishing(pilot: Pilot[None]) -> None:
    await wait_for_state(pilot, "ready")
    await pilot.press("f4")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
    await pilot.press("p")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, PublishScreen))
    await pilot.press(*"ada", "tab")


@pytest.mark.parametrize("scene", [models_screen, live_map, report, publishing])
@pytest.mark.parametrize(
    ("theme", "size"),
    [("mc-chat", (80, 24)), ("mc-light", (120, 36)), ("mc-contrast", (60, 20))],
    ids=["dark", "light", "contrast"],
)
def test_screen(
    scene: Scene, theme: str, size: tuple[int, int], snap_compare: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("MC_CHAT_THEME", theme)
    app = make_app(model=paths.models_dir() / "demo")
    assert snap_compare(app, terminal_size=size, run_before=scene)
