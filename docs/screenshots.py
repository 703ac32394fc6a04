"""Take the pictures of the documentation from the program itself: the real engine and the demo.

    python -m docs.screenshots

writes docs/images/*.svg. It compresses the demo in a temporary folder, which takes half a minute.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot

from app import paths
from app.screens.chat import ChatScreen
from app.screens.report import ReportScreen
from app.tui import McChatApp
from app.widgets.header import HeaderLine
from app.widgets.job_view import JobView
from app.widgets.prompt import Prompt

IMAGES = Path(__file__).parent / "images"
QUESTIONS = (
    "Please remember that my lucky number is 4711.",
    "Where does Karin live?",
    "Show me a function that computes a factorial.",
    "What is my lucky number?",
)
PATIENCE_SECONDS = 300


async def wait_until(pilot: Pilot[None], ready: Callable[[], object]) -> None:
    """Let the app work until ``ready()`` is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError("the screen did not get there")
        await pilot.pause(0.05)
    await pilot.pause(0.5)


def save(pilot: Pilot[None], name: str) -> None:
    """Write the present screen."""
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / f"{name}.svg").write_text(pilot.app.export_screenshot(), encoding="utf-8")
    print(f"docs/images/{name}.svg")


def is_ready(pilot: Pilot[None]) -> bool:
    """Whether the engine waits for something to do."""
    headers = pilot.app.screen.query(HeaderLine)
    return bool(headers) and headers.first().state == "ready"


def in_chat(pilot: Pilot[None]) -> bool:
    """Whether the chat waits for a message."""
    return isinstance(pilot.app.screen, ChatScreen) and is_ready(pilot)


async def first_run(pilot: Pilot[None], prefix: str = "") -> None:
    """From the wizard over the report to an open chat; pictures' names begin with ``prefix``."""
    await wait_until(pilot, lambda: is_ready(pilot))
    save(pilot, f"{prefix}wizard")
    await pilot.press("enter")
    await wait_until(pilot, lambda: pilot.app.screen.query(JobView))
    job = pilot.app.screen.query_one(JobView)
    await wait_until(pilot, lambda: job.progress and job.progress.fraction > 0.5)
    save(pilot, f"{prefix}compressing")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ReportScreen))
    save(pilot, f"{prefix}report")
    await pilot.press("enter")
    await wait_until(pilot, lambda: in_chat(pilot))


async def talk(pilot: Pilot[None]) -> None:
    """Ask all questions, one after the other."""
    for question in QUESTIONS:
        pilot.app.screen.query_one(Prompt).text = question
        await pilot.press("enter")
        await wait_until(pilot, lambda: is_ready(pilot))


async def main() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as home:
        os.environ[paths.HOME_VARIABLE] = home
        paths.settings_file().write_text("[sampling]\ntemperature = 0\n", encoding="utf-8")
        async with McChatApp().run_test(size=(120, 36)) as pilot:
            await first_run(pilot)
            await talk(pilot)
            save(pilot, "chat")
            await pilot.resize_terminal(80, 24)
            await pilot.pause(0.5)
            save(pilot, "chat-narrow")


if __name__ == "__main__":
    asyncio.run(main())
