"""Killed in the middle of a reply, the program loses at most the last quarter second of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app import paths
from app.conversation import Conversation
from app.history import History
from tests.ui import install_model

PROGRAM = """
import asyncio, sys, time
from app.widgets.prompt import Prompt
from tests.ui import make_app, wait_for_state

async def main():
    app = make_app("--pace", "0.03")
    async with app.run_test() as pilot:
        await wait_for_state(pilot, "ready")
        app.screen.query_one(Prompt).text = "code"
        await pilot.press("enter")
        while True:
            await asyncio.sleep(0.02)
            if reply := app.screen._conversation.reply:
                print(time.monotonic(), len(reply.text), flush=True)

asyncio.run(main())
"""
SAVED_EVERY = 0.25
SLACK = 0.25
"""Seconds that a busy machine may add."""


@pytest.fixture
def repository() -> Path:
    return Path(__file__).resolve().parents[2]


def test_a_killed_program_loses_at_most_the_last_quarter_second(home: Path, repository: Path):
    install_model()
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=repository, stdout=subprocess.PIPE, text=True
    )
    shown: list[tuple[float, int]] = []
    assert program.stdout is not None
    for line in program.stdout:
        moment, length = line.split()
        shown.append((float(moment), int(length)))
        if int(length) > 320:
            break
    os.kill(program.pid, signal.SIGKILL)
    killed = time.monotonic()
    program.wait()

    history = History(paths.history_db())
    (kept,) = history.chats()
    chat = Conversation(history, "demo", chat=kept.id)
    reply = chat.records[-1]
    earlier = [length for moment, length in shown if moment < killed - SAVED_EVERY - SLACK]
    assert reply.state == "writing"
    assert earlier, "it was killed too early to tell"
    assert len(reply.content) >= earlier[-1] > 0
    assert chat.can_continue
