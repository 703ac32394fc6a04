"""Every screen in three sizes, dark and light, and in a small terminal with the theme of contrasts:
each is brought about once, then resized and coloured anew while it is shown.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from pytest_textual_snapshot import SVGImageExtension
from syrupy.assertion import SnapshotAssertion
from textual.pilot import Pilot
from textual.widgets import Input, Static

from app import paths
from app.models import InstalledModel
from app.screens import chat_messages
from app.screens.compare import CompareScreen
from app.screens.expert_map import ExpertMapScreen
from app.screens.models import ModelsScreen
from app.screens.publishing import PublishScreen
from app.screens.report import ReportScreen
from app.widgets.expert_map import ExpertMap
from app.widgets.messages import ModelMessage
from app.widgets.prompt import Prompt
from tests.fakes import fake_job
from tests.snapshots.test_screens import (  # the fixtures are used by name
    NOW,
    answering_screen,
    chat_with_one_chosen,
    choose_mixtral,
    compress_until,
    context_full,
    fixed_world,  # noqa: F401
    help_screen,
    list_after,
    say_five_chats,
    set_up_a_preset,
    stop_or_leave,
)
from tests.ui import install_model, make_app, send, wait_for_state, wait_until

SIZES = ((80, 24), (120, 36), (160, 48))
LOOKS = (
    *((theme, size) for theme in ("mc-chat", "mc-light") for size in SIZES),
    ("mc-contrast", (60, 20)),
)


@dataclass(frozen=True)
class Seen:
    """What leads to a screen; ``prepare``: what is on the disk before the program starts."""

    scene: Callable[[Pilot[None]], Awaitable[None]]
    prepare: Callable[[], object] = install_model
    story: str = "hold"


# --- what is on the disk --------------------------------------------------------------------------


def nothing() -> None:
    """The first start."""


def preset() -> None:
    install_model()
    set_up_a_preset()


def five_chats() -> None:
    install_model()
    say_five_chats()


def three_models() -> None:
    """One of them cannot be read."""
    install_model()
    install_model("mixtral-2.5bit")
    (paths.models_dir() / "broken").mkdir()
    (paths.models_dir() / "broken" / "mc.json").write_text("{")


# --- what leads there -----------------------------------------------------------------------------


async def models_screen(pilot: Pilot[None]) -> None:
    await open_models(pilot)
    await pilot.press("x")


async def open_models(pilot: Pilot[None]) -> None:
    await wait_for_state(pilot, "ready")
    await pilot.press("f4")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))


async def publishing(pilot: Pilot[None]) -> None:
    await open_models(pilot)
    await pilot.press("p")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, PublishScreen))
    await pilot.press(*"ada", "tab")


async def report(pilot: Pilot[None]) -> None:
    await wait_for_state(pilot, "ready")
    install_model("demo", fake_job.QUALITY)
    await open_models(pilot)
    await pilot.press("r")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ReportScreen))


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


SCREENS = {
    "wizard": Seen(choose_mixtral, prepare=nothing),
    "compressing": Seen(compress_until(0.55), prepare=nothing),
    "parting": Seen(stop_or_leave, prepare=nothing),
    "chat": Seen(chat_with_one_chosen),
    "full": Seen(context_full),
    "answering": Seen(answering_screen, prepare=preset),
    "help": Seen(help_screen),
    "chats": Seen(list_after(*"duc"), prepare=five_chats),
    "models": Seen(models_screen, prepare=three_models),
    "report": Seen(report),
    "publish": Seen(publishing, prepare=three_models),
    "map": Seen(live_map),
    "compare": Seen(compared),
}


@pytest.mark.parametrize("name", SCREENS)
async def test_screen(
    name: str, snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_messages, "any_seed", lambda: 1234)
    monkeypatch.setattr(InstalledModel, "installed", property(lambda model: NOW))
    monkeypatch.setattr("app.date_words.time", SimpleNamespace(time=lambda: NOW + 60))
    seen = SCREENS[name]
    seen.prepare()
    demo = paths.models_dir() / "demo"
    app = make_app(story=seen.story, model=demo if demo.exists() else None)
    pictures = snapshot.use_extension(SVGImageExtension)
    changed = []
    async with app.run_test(size=SIZES[1]) as pilot:
        await seen.scene(pilot)
        for field in pilot.app.screen.query(Input):
            field.cursor_blink = False
        for theme, (width, height) in LOOKS:
            pilot.app.theme = theme
            await pilot.resize_terminal(width, height)
            await pilot.pause()
            shown = f"{theme}-{width}"
            if pilot.app.export_screenshot() != pictures(name=shown):
                changed.append(shown)
    assert not changed
