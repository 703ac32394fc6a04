"""Every screen in three sizes, dark and light: each is brought about once, then resized and
coloured anew while it is shown.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from pytest_textual_snapshot import SVGImageExtension
from syrupy.assertion import SnapshotAssertion
from textual.pilot import Pilot
from textual.widgets import Input

from app.models import InstalledModel
from app.screens import chat_messages
from tests.snapshots.test_compare import compared
from tests.snapshots.test_models_and_map import live_map, models_screen, publishing, report
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
from tests.ui import install_model, make_app

SIZES = ((80, 24), (120, 36), (160, 48))
THEMES = ("mc-chat", "mc-light")


@dataclass(frozen=True)
class Seen:
    """What leads to a screen; ``prepare``: what is on the disk before the program starts."""

    scene: Callable[[Pilot[None]], Awaitable[None]]
    prepare: Callable[[], object] = install_model
    story: str = "hold"


def nothing() -> None:
    """The first start."""


def preset() -> None:
    install_model()
    set_up_a_preset()


def five_chats() -> None:
    install_model()
    say_five_chats()


SCREENS = {
    "wizard": Seen(choose_mixtral, prepare=nothing),
    "compressing": Seen(compress_until(0.55), prepare=nothing),
    "parting": Seen(stop_or_leave, prepare=nothing),
    "chat": Seen(chat_with_one_chosen),
    "full": Seen(context_full),
    "answering": Seen(answering_screen, prepare=preset),
    "help": Seen(help_screen),
    "chats": Seen(list_after(*"duc"), prepare=five_chats),
    "models": Seen(models_screen),
    "report": Seen(report),
    "publish": Seen(publishing),
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
    pictures = snapshot.use_extension(SVGImageExtension)
    changed = []
    async with make_app(story=seen.story).run_test(size=SIZES[1]) as pilot:
        await seen.scene(pilot)
        for field in pilot.app.screen.query(Input):
            field.cursor_blink = False
        for theme in THEMES:
            pilot.app.theme = theme
            for width, height in SIZES:
                await pilot.resize_terminal(width, height)
                await pilot.pause()
                shown = f"{theme}-{width}"
                if pilot.app.export_screenshot() != pictures(name=shown):
                    changed.append(shown)
    assert not changed
