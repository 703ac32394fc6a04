"""What tests of the screens share: the app with fakes behind it, and waiting without sleeping."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Static

from app import jobs, paths
from app.tui import McChatApp
from app.widgets.gauges import Gauges
from app.widgets.header import HeaderLine
from app.widgets.messages import ModelMessage
from app.widgets.prompt import Prompt
from tests.fakes import fake_job
from tests.waiting import PATIENCE_SECONDS

FAKES = Path(__file__).parent / "fakes"


def make_app(*worker: str, story: str = "done", model: Path | None = None) -> McChatApp:
    """The app; ``worker`` are the fake engine's options, ``story`` is the fake job's."""
    return McChatApp(
        model=model,
        worker_command=[sys.executable, str(FAKES / "fake_worker.py"), *worker],
        job_command=[sys.executable, str(FAKES / "fake_job.py"), "--story", story],
        clock=lambda: 0.0,
    )


def install_model(
    name: str = "demo", quality: dict[str, Any] | None = None, otp: dict[str, Any] | None = None
) -> Path:
    folder = paths.models_dir() / name
    fake_job.write_model(folder, quality, otp)
    return folder


def end_jobs() -> None:
    """Kill the jobs that a test has left running, as jobs are meant to be left."""
    for job in jobs.all_running():
        with suppress(ProcessLookupError):
            os.kill(job.pid, signal.SIGKILL)


async def send(pilot: Pilot[None], text: str) -> None:
    """Say something as soon as the engine waits for it."""
    await wait_for_state(pilot, "ready")
    prompt = pilot.app.screen.query_one(Prompt)
    prompt.focus()
    prompt.text = text
    await pilot.press("enter")


async def talk(pilot: Pilot[None], text: str) -> None:
    """Say something and wait for the whole reply."""
    before = len(pilot.app.screen.query(ModelMessage))
    await send(pilot, text)
    await wait_until(pilot, lambda: len(pilot.app.screen.query(ModelMessage)) == before + 1)
    await wait_for_state(pilot, "ready")


def text_of(pilot: Pilot[None], selector: str) -> str:
    """What a line of the screen says."""
    return str(pilot.app.screen.query_one(selector, Static).content)


def drawn(pilot: Pilot[None], kind: type[Widget]) -> str:
    """What the only widget of a kind draws."""
    return str(pilot.app.screen.query_one(kind).render())


async def wait_until(pilot: Pilot[None], predicate: Callable[[], object]) -> None:
    """Wait for something to become true, without guessing how long it takes."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError("it never became true")
        await pilot.pause(0.01)
    await pilot.pause()


async def wait_for_state(pilot: Pilot[None], state: str) -> None:
    """Wait until the header shows the engine in this state, and its last figures are drawn."""

    def shown() -> bool:
        headers = pilot.app.screen.query(HeaderLine)
        if not headers or headers.first().state != state:
            return False
        gauges = pilot.app.screen.query(Gauges)
        return state != "ready" or not gauges or gauges.first().readings.used is not None

    await wait_until(pilot, shown)
