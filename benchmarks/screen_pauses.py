"""How long the screen is deaf while a reply is written: pauses of its event loop, by kind of reply.

    python -m benchmarks.screen_pauses [--quick] [--json]

The real screen without a terminal, before a scripted engine that writes 1,000 pieces a second. A
heartbeat of 5 ms measures how much processor time the loop's thread took between two beats: what
a key would have waited for, whatever else this machine does meanwhile. Twice: while the reply is
written, and at its end, when it is drawn for good. And how long after its end all of it is drawn.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from textual import events
from textual.pilot import Pilot

from app import paths
from app.child import module_command
from app.screens.chat import ChatScreen
from app.tui import McChatApp
from app.widgets.document import Document
from app.widgets.header import HeaderLine
from app.widgets.prompt import Prompt
from benchmarks.machine import machine
from engine import protocol
from engine.protocol import Memory, Meters

PIECE = 12
"""Characters of a token: long ones."""
PIECE_SECONDS = 0.001
BEAT_SECONDS = 0.005
SETTLED_SECONDS = 0.5
"""After the last piece was put in."""
SIZE = (120, 36)

REPLIES: dict[str, Callable[[int], str]] = {
    "tiny paragraphs": lambda count: "".join(f"Word {n}.\n\n" for n in range(count)),
    "one list": lambda count: "".join(f"- item {n}\n" for n in range(count)),
    "one fence": lambda count: (
        "```python\n" + "".join(f"x_{n} = f({n})\n" for n in range(count)) + "```\n"
    ),
    "one table": lambda count: (
        "| n | square |\n|---|---|\n" + "".join(f"| {n} | {n * n} |\n" for n in range(count))
    ),
    "long paragraphs": lambda count: "".join(
        f"Paragraph {n} of " + 40 * "*many* " + "words.\n\n" for n in range(count // 10)
    ),
    "small sections": lambda count: "".join(
        f"## Part {n}\n\nSome **words** here.\n\n1. one\n2. two\n\n" for n in range(count // 5)
    ),
}
"""By kind, the text of a reply of about so many blocks or lines."""


@dataclass(frozen=True)
class Pauses:
    """Processor seconds of the screen: the longest pause, the 99th percentile of all, the sum."""

    longest: float
    p99: float
    total: float


@dataclass(frozen=True)
class Row:
    """Of one kind of reply: while it is written, after its end, and seconds until all is drawn."""

    written: Pauses
    after: Pauses
    late: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the lengths")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--engine", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        give_replies(lambda kind: REPLIES[kind](options.engine))
        return
    count = 200 if options.quick else 2000
    rows = {kind: asyncio.run(measure(kind, count)) for kind in REPLIES}
    if options.json:
        shown = {kind: asdict(row) for kind, row in rows.items()}
        print(json.dumps({"machine": machine(), "count": count, "rows": shown}))
        return
    print(f"{machine()}; replies of {count:,} blocks or lines, milliseconds\n")
    print(
        "| reply | longest pause | 99 % below | all of it | longest at the end | all of it | late |"
    )
    print("|---|---|---|---|---|---|---|")
    for kind, row in rows.items():
        during, after = row.written, row.after
        figures = (during.longest, during.p99, during.total, after.longest, after.total, row.late)
        print(f"| {kind} | {' | '.join(f'{1000 * seconds:,.0f}' for seconds in figures)} |")


# --- the screen -----------------------------------------------------------------------------------


async def measure(kind: str, count: int) -> Row:
    """The pauses of a reply of ``kind``."""
    worker = module_command("benchmarks.screen_pauses", "--engine", str(count))
    with tempfile.TemporaryDirectory() as home:
        os.environ[paths.HOME_VARIABLE] = home
        app = McChatApp(model=Path("scripted"), worker_command=worker)
        async with app.run_test(size=SIZE) as pilot:
            screen = await chat_screen(pilot)
            beats: list[float] = []
            heart = asyncio.create_task(beat(beats))
            screen.query_one(Prompt).text = kind
            screen.query_one(Prompt).post_message(events.Key("enter", None))
            while not (said := screen._conversation.records) or said[-1].role == "user":
                await asyncio.sleep(BEAT_SECONDS)
            during, ended = len(beats), time.monotonic()
            while screen.query(Document).last().source != said[-1].content:
                await asyncio.sleep(BEAT_SECONDS)
            late = time.monotonic() - ended
            await asyncio.sleep(SETTLED_SECONDS)
            heart.cancel()
            with suppress(asyncio.CancelledError):
                await heart
    return Row(summed(beats[:during]), summed(beats[during:]), late)


async def chat_screen(pilot: Pilot[None]) -> ChatScreen:
    """The chat, as soon as the engine has loaded."""
    while True:
        await pilot.pause(BEAT_SECONDS)
        screen = pilot.app.screen
        if isinstance(screen, ChatScreen) and screen.query_one(HeaderLine).state == "ready":
            return screen


async def beat(beats: list[float]) -> None:
    """Note the processor time between beats."""
    before = time.thread_time()
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        now = time.thread_time()
        beats.append(now - before)
        before = now


def summed(beats: list[float]) -> Pauses:
    """The figures of a series of pauses."""
    ordered = sorted(beats)
    return Pauses(ordered[-1], ordered[int(0.99 * (len(ordered) - 1))], sum(ordered))


# --- the engine -----------------------------------------------------------------------------------


def give_replies(reply_to: Callable[[str], str]) -> None:
    """Speak the protocol, with a reply for each last message."""
    memory = Memory(1, 1, 1, 1, 4)
    meters = Meters(tokens_per_second=1000.0, context_used=1, context_size=8192, memory=memory)
    emit(protocol.Ready())
    for line in sys.stdin:
        match protocol.decode_request(line):
            case protocol.Load(model=model):
                emit(protocol.Loaded("scripted", "none", 8192, 1, 2.0, 2.0, memory, model=model))
            case protocol.Generate(id=reply, messages=messages):
                text = reply_to(messages[-1].content)
                due = time.monotonic()
                for start in range(0, len(text), PIECE):
                    emit(protocol.Token(reply, text[start : start + PIECE]))
                    due += PIECE_SECONDS
                    time.sleep(max(0.0, due - time.monotonic()))
                emit(protocol.Finished(reply, text, 1, 1, 1000.0, "stop", meters))


def emit(event: protocol.Event) -> None:
    """Tell the screen."""
    print(protocol.encode(event), flush=True)


if __name__ == "__main__":
    main()
