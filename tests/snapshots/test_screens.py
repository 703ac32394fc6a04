"""Pictures of what every screen can come to, wide and narrow; those in test_sizes_and_themes have
none here. After a change that is meant:

    pytest tests/snapshots --snapshot-update

and look at the pictures in the commit.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Input, Markdown, Static

from app import job_words, paths
from app.history import History
from app.screens import wizard
from app.screens.answering import AnsweringScreen
from app.screens.chats import ChatsScreen
from app.screens.help import HelpScreen
from app.screens.parting import PartingScreen
from app.screens.wizard import WizardScreen
from app.widgets.chips import Chips
from app.widgets.gauge import SPARKLINE_LENGTH
from app.widgets.gauges import Gauges
from app.widgets.job_view import JobView
from app.widgets.messages import ModelMessage, Notice
from app.widgets.plan_table import PlanTable
from app.widgets.source_list import SourceList
from compress.plan import Choice, PaperScore, Plan
from engine.budget import KvBits
from engine.config import ModelConfig
from engine.protocol import Device
from tests.chats_for_tests import say_all
from tests.ui import end_jobs, install_model, make_app, send, wait_for_state, wait_until

Scene = Callable[[Pilot[None]], Awaitable[None]]
SIZES = [(120, 36), (80, 24)]


FIXED_BITS = (1.5, 2.0, 2.5, 3.0)


def fixed_device(config: ModelConfig, device: Device) -> Device:
    """With so much free memory that the third width is too big."""
    scale = fixed_scale(config)
    return replace(device, free_bytes=min(device.free_bytes or 100 * scale, 16 * scale))


def fixed_scale(config: ModelConfig) -> int:
    return 10**9 if config.hidden_size > 1000 else 10**6


def fixed_choice(config: ModelConfig, device: Device, context: int, bits: float) -> Choice:
    scale = fixed_scale(config)
    step = FIXED_BITS.index(bits)
    weights = 3 * step * scale + 19 * scale // 2
    kv_cache = context * scale // min(8192, config.max_context)
    workspace = scale // 2
    total = weights + kv_cache + workspace
    scored = scale == 10**9 and step < 3
    score = PaperScore(bits, 8.5 - step, None) if scored else None
    free = device.free_bytes
    tight = 0.9 * free < total <= free
    return Choice(bits, weights, kv_cache, workspace, total, total <= free, tight, score)


def fixed_choices(
    config: ModelConfig,
    device: Device,
    contexts: Sequence[int],
    bits: float,
    kv_bits: KvBits = 16,
) -> tuple[Choice, ...]:
    return tuple(fixed_choice(config, device, tokens, bits) for tokens in contexts)


def fixed_plan(
    config: ModelConfig,
    device: Device,
    context: int | None = None,
    preferred_bits: float | None = None,
    others: Sequence[Device] = (),
    only: float | None = None,
    kv_bits: KvBits = 16,
    also: float | None = None,
) -> Plan:
    """Rows of all kinds; the real figures are other tests' business."""
    tokens = context or min(8192, config.max_context)
    known = fixed_device(config, device)
    choices = tuple(fixed_choice(config, known, tokens, bits) for bits in FIXED_BITS)
    fitting = [choice for choice in choices if choice.fits and not choice.tight]
    recommended = fitting[-1] if fitting else None
    if fitting:
        reason = f"the largest that fits comfortably on {device.name}"
    else:
        reason = (
            f"nothing fits on {device.name}: 1.5 bits need 9.1 GB more than is free; "
            "a context of 2,048 tokens would fit"
        )
    return Plan(known, tokens, choices, recommended, reason)


@pytest.fixture(autouse=True)
def fixed_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MC_CHAT_HOME", str(tmp_path))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(wizard, "plan", fixed_plan)
    monkeypatch.setattr(wizard, "at_contexts", fixed_choices)
    monkeypatch.setattr(job_words, "free_disk", lambda folder: 58 * 10**9)
    yield
    end_jobs()


@pytest.fixture(params=SIZES, ids=["wide", "narrow"])
def picture(request: pytest.FixtureRequest, snap_compare: Any) -> Callable[..., bool]:
    def compare(scene: Scene, *worker: str, **options: Any) -> bool:
        app = make_app(*worker, **options)
        return bool(snap_compare(app, terminal_size=request.param, run_before=scene))

    return compare


# --- the first run --------------------------------------------------------------------------------


def test_wizard_looking(picture):
    async def scene(pilot: Pilot[None]) -> None:
        await wait_until(pilot, lambda: pilot.app.screen.query(PlanTable))

    assert picture(scene, "--devices", "none")


def test_wizard_demo(picture):
    async def scene(pilot: Pilot[None]) -> None:
        await wait_for_state(pilot, "ready")

    assert picture(scene)


async def choose_mixtral(pilot: Pilot[None]) -> None:
    await wait_for_state(pilot, "ready")
    pilot.app.screen.query_one(Input).cursor_blink = False
    pilot.app.screen.query_one(SourceList).focus()
    await pilot.press("down")
    message = pilot.app.screen.query_one("#message", Static)
    await wait_until(
        pilot, lambda: any(word in str(message.content) for word in ("hub", "nothing"))
    )


def test_wizard_nothing_fits(picture):
    assert picture(choose_mixtral, "--devices", "small")


def test_wizard_tries_anyway(picture):
    async def scene(pilot: Pilot[None]) -> None:
        await choose_mixtral(pilot)
        pilot.app.screen.query_one(PlanTable).focus()
        await pilot.press("down", "enter")

    assert picture(scene)


async def context_moved(pilot: Pilot[None]) -> None:
    await choose_mixtral(pilot)
    await pilot.press("tab", "right", "right")


def test_wizard_context_moved(picture):
    assert picture(context_moved)


def test_wizard_in_a_small_terminal(snap_compare):
    assert snap_compare(make_app(), terminal_size=(60, 20), run_before=context_moved)


def test_wizard_odd_devices(picture):
    async def scene(pilot: Pilot[None]) -> None:
        await wait_for_state(pilot, "ready")

    assert picture(scene, "--devices", "odd")


def test_wizard_asks_for_another(picture):
    async def scene(pilot: Pilot[None]) -> None:
        await choose_mixtral(pilot)
        await pilot.press("down")
        await wait_until(pilot, lambda: pilot.app.screen.query_one("#folder").display)
        pilot.app.screen.query_one(PlanTable).focus()
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.focused, Input))

    assert picture(scene)


def compress_until(fraction: float) -> Scene:
    async def scene(pilot: Pilot[None]) -> None:
        await wait_for_state(pilot, "ready")
        await pilot.press("enter")
        await wait_until(pilot, lambda: pilot.app.screen.query(JobView))
        job = pilot.app.screen.query_one(JobView)
        await wait_until(pilot, lambda: job.progress and job.progress.fraction == fraction)

    return scene


def test_compressing_what_is_downloaded(picture):
    assert picture(compress_until(0.31), story="downloads")


async def stop_or_leave(pilot: Pilot[None]) -> None:
    await compress_until(0.55)(pilot)
    await pilot.press("escape")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, PartingScreen))


def test_compression_left_in_the_background(picture):
    async def scene(pilot: Pilot[None]) -> None:
        await compress_until(0.55)(pilot)
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, PartingScreen))
        await pilot.press("b")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))

    assert picture(scene, story="hold")


def test_compression_failed(picture):
    async def scene(pilot: Pilot[None]) -> None:
        await wait_for_state(pilot, "ready")
        await pilot.press("enter")
        await wait_for_state(pilot, "down")

    assert picture(scene, story="fail")


# --- the chat -------------------------------------------------------------------------------------


@pytest.fixture
def model() -> Path:
    return install_model()


def test_chat_empty(picture, model):
    async def scene(pilot: Pilot[None]) -> None:
        await wait_for_state(pilot, "ready")

    assert picture(scene)


def test_chat_replied(picture, model):
    async def scene(pilot: Pilot[None]) -> None:
        await send(pilot, "What is a mixture of experts?")
        await wait_until(pilot, lambda: pilot.app.screen.query(Markdown))
        await wait_for_state(pilot, "ready")

    assert picture(scene)


def test_chat_writing(picture, model):
    async def scene(pilot: Pilot[None]) -> None:
        await send(pilot, "hold on\nwhile I look at the gauges")
        gauges = pilot.app.screen.query_one(Gauges)
        await wait_until(
            pilot,
            lambda: (
                len(gauges.readings.recent) == SPARKLINE_LENGTH
                and len(set(gauges.readings.recent)) == 1
                and len(pilot.app.screen.query_one(Markdown).source) == 19 * 6
            ),
        )

    assert picture(scene)


def test_chat_engine_died(picture, model):
    async def scene(pilot: Pilot[None]) -> None:
        await send(pilot, "crash")
        await wait_for_state(pilot, "down")

    assert picture(scene)


async def replied(pilot: Pilot[None], text: str) -> None:
    await send(pilot, text)
    await wait_until(pilot, lambda: pilot.app.screen.query(Markdown))
    await wait_until(pilot, lambda: not pilot.app.screen._conversation.reply)
    await wait_for_state(pilot, "ready")


async def chat_with_one_chosen(pilot: Pilot[None]) -> None:
    await replied(pilot, "What is a mixture of experts?")
    await pilot.press("ctrl+g")
    await wait_until(pilot, lambda: "2/2" in below(pilot))
    await wait_for_state(pilot, "ready")
    await pilot.press("shift+up")
    await wait_until(pilot, lambda: isinstance(pilot.app.focused, ModelMessage))


def test_chat_editing_with_a_file(picture, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("ducks and geese\n" * 300)

    async def scene(pilot: Pilot[None]) -> None:
        await replied(pilot, "nasty")
        await pilot.press("up", *" @notes.txt @none.txt")
        await wait_until(pilot, lambda: pilot.app.screen.query_one(Chips).display)

    assert picture(scene)


async def context_full(pilot: Pilot[None]) -> None:
    await replied(pilot, "grow")
    await wait_until(pilot, lambda: pilot.app.screen.query(Notice))
    await pilot.press("tab")


def test_chat_oldest_left_out(picture, model):
    history = History(paths.history_db())
    said = ("My name is Ada.", "Hello, Ada.", "And I like ducks.", "So do I.")
    say_all(history, history.new_chat("demo", "Ada"), *said)
    history.close()

    async def scene(pilot: Pilot[None]) -> None:
        await replied(pilot, "grow")
        button = pilot.app.screen.query_one(Notice).query(Button).first()
        assert str(button.label) == "Drop oldest turns"
        button.press()
        await wait_until(pilot, lambda: "left out" in below(pilot))
        await wait_for_state(pilot, "ready")
        await pilot.press("pageup")
        await pilot.pause()

    assert picture(scene)


async def answering_screen(pilot: Pilot[None]) -> None:
    await wait_for_state(pilot, "ready")
    await pilot.press("f5")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, AnsweringScreen))
    await wait_until(pilot, lambda: isinstance(pilot.app.focused, Input))


def set_up_a_preset() -> None:
    paths.settings_file().write_text(
        'system = "Answer in one sentence."\n[presets.coder]\ntop_k = 5\n'
    )


def below(pilot: Pilot[None]) -> str:
    return str(pilot.app.screen.query(".below").last(Static).content)


async def help_screen(pilot: Pilot[None]) -> None:
    await wait_for_state(pilot, "ready")
    await pilot.press("f1")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen))


# --- the list of chats ----------------------------------------------------------------------------


NOW = 1_760_000_000.0


def say_five_chats() -> None:
    """Chats of different age."""
    days = (400, 40, 1, 0.1, 0)
    said = (
        ("Une recette de crêpes", "Donne-moi une recette", "Voilà : farine, lait, œufs."),
        ("東京の天気", "東京の天気は?", "晴れです。"),
        ("Which animals live in the valley?", "Which animals?", "Ducks, geese and an old heron."),
        ("[b]17 + 25[/b]", "17 + 25", "42", "And a duck?"),
        ("A story about a duck that has a title much longer than what fits", "A story", "Once"),
    )
    for age, (title, *texts) in zip(days, said, strict=True):
        history = History(paths.history_db(), clock=lambda age=age: NOW - 86_400 * age)
        say_all(history, history.new_chat("demo", title), *texts)
        history.close()


@pytest.fixture
def chats(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say_five_chats()
    monkeypatch.setattr("app.date_words.time", SimpleNamespace(time=lambda: NOW + 60))


def list_after(*keys: str) -> Scene:
    async def scene(pilot: Pilot[None]) -> None:
        await wait_for_state(pilot, "ready")
        await pilot.press("ctrl+o")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatsScreen))
        await pilot.press(*keys)
        await pilot.pause()

    return scene


def test_chats(picture, chats):
    assert picture(list_after())


def test_chats_not_found(picture, chats):
    assert picture(list_after(*"swan"))


def test_chats_renamed_in_place(picture, chats):
    assert picture(list_after("tab", "down", "r"))


def test_chats_deleted(picture, chats):
    assert picture(list_after("tab", "down", "d"))


def test_chats_none(picture, model):
    assert picture(list_after())
