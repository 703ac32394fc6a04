"""Go the way of a new user, with the real program and the demo, and take a picture of each step.

    python -m docs.journey

writes docs/journey.md and docs/images/journey-*.svg. What is pressed is what a person would press;
everything is kept in a temporary folder. It takes a minute, two where the machine is busy.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from textual.pilot import Pilot

from app import paths
from app.screens.compare import CompareScreen
from app.screens.expert_map import ExpertMapScreen
from app.screens.models import ModelsScreen
from app.tui import McChatApp
from app.widgets.messages import ModelMessage
from docs.screenshots import first_run, in_chat, is_ready, save, wait_until

FILE = Path(__file__).parent / "journey.md"
ROOT = FILE.parents[1]
SIZE = (110, 38)
INSTALL = (
    "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/mc-chat",
    "python3 -m venv .venv && .venv/bin/pip install 'torch<2.14' "
    "--index-url https://download.pytorch.org/whl/cpu",
)
"""As in the README."""
QUESTIONS = (
    "Please remember that my lucky number is 4711.",
    "Show me a function that computes a factorial.",
    "What is my lucky number?",
)
REMOVE = ("mc-chat models", "mc-chat rm demo")


@dataclass(frozen=True)
class Step:
    """A picture, what stands above it, and what one does there."""

    name: str
    heading: str
    words: str


STEPS = (
    Step(
        "wizard",
        "The wizard",
        "The first start looks at the machine and names what fits on it. The demo is chosen, its "
        "size is recommended: **Enter** begins.",
    ),
    Step(
        "compressing",
        "Compressing",
        "Every stage, with the time that is left. **Esc** asks whether to stop it or to leave it "
        "running; closing the terminal leaves it running, too.",
    ),
    Step(
        "report",
        "The report",
        "How far the result is from the original, in all and behind each layer. **Enter** opens "
        "the chat.",
    ),
    Step(
        "chat",
        "The chat",
        "Type, and **Enter**. The gauges on the right show the memory, the parameters a token "
        "really passed, what was pruned, the speed and the context.",
    ),
    Step(
        "compare",
        "A/B",
        "**Tab** leads from the prompt to the last reply, **A** sets another one beside it: the "
        "same prompt, pruned otherwise, or by another model. **Enter** asks.",
    ),
    Step(
        "map",
        "The experts",
        "**Ctrl+L**: the bits of every expert, how often it is used, what rounding it costs, and "
        "which of them run or are skipped while the model talks. The arrows read one out.",
    ),
    Step(
        "export",
        "Taking the chat along",
        "`/export` and the name of a file: Markdown to read, JSON to keep everything. With the "
        "slash, the prompt takes commands.",
    ),
    Step(
        "models",
        "What is installed",
        "**F4**: the models with their size, bits and date, and how they prune. **X**, pressed "
        "twice, removes one, the chat's own too: the chat stays.",
    ),
)

OPENING = """\
# The first hour, in pictures

From nothing to a chat, and back to nothing: the real program with the demo, driven key by key and
photographed by `python -m docs.journey`. What each page shows is explained in
[getting started](getting-started.md), [the wizard](wizard.md) and [keys](keys.md).

## Installing

"""


# --- the way --------------------------------------------------------------------------------------


async def go(pilot: Pilot[None]) -> None:
    """The whole way, from the first screen to the last."""
    await first_run(pilot, "journey-")
    for question in QUESTIONS:
        await say(pilot, question)
    shoot(pilot, "chat")
    await compare(pilot)
    await look_around(pilot)


async def compare(pilot: Pilot[None]) -> None:
    """The last reply beside another one."""
    await pilot.press("tab", "a")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, CompareScreen))
    comparing = pilot.app.screen
    await pilot.press("enter")
    await wait_until(pilot, lambda: comparing.check_action("keep", ()) and is_ready(pilot))
    shoot(pilot, "compare")
    await pilot.press("escape")
    await wait_until(pilot, lambda: in_chat(pilot))
    await pilot.press("escape")


async def look_around(pilot: Pilot[None]) -> None:
    """The experts, the export, the models."""
    await pilot.press("ctrl+l")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ExpertMapScreen))
    await pilot.press("1", "down", "right", "right")
    await pilot.pause()
    shoot(pilot, "map")
    await pilot.press("escape")
    await wait_until(pilot, lambda: in_chat(pilot))
    await pilot.press(*"/export chat.md", "enter")
    await wait_until(pilot, Path("chat.md").is_file)
    shoot(pilot, "export")
    pilot.app.clear_notifications()
    await pilot.press("f4")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
    shoot(pilot, "models")
    await pilot.press("escape")
    await wait_until(pilot, lambda: in_chat(pilot))


async def say(pilot: Pilot[None], text: str) -> None:
    """Type a message, send it, and wait for the whole reply."""
    replies = len(pilot.app.screen.query(ModelMessage))
    await pilot.press(*text, "enter")
    await wait_until(pilot, lambda: len(pilot.app.screen.query(ModelMessage)) > replies)
    await wait_until(pilot, lambda: in_chat(pilot))


def shoot(pilot: Pilot[None], name: str) -> None:
    """Take a step's picture."""
    save(pilot, f"journey-{name}")


# --- the page -------------------------------------------------------------------------------------


def page(exported: str, removed: list[str]) -> str:
    """The document: steps with their pictures, and what lies outside the screen in words."""
    lines = [OPENING, *_block("sh", INSTALL[:1])]
    lines += ["\nWithout a GPU, first the smaller build of torch:\n", *_block("sh", INSTALL[1:])]
    for step in STEPS:
        image = f"images/journey-{step.name}.svg"
        lines += [f"\n## {step.heading}\n", f"{step.words}\n", f"![{step.heading}]({image})"]
        if step.name == "export":
            lines += ["\nThe file:\n", *_block("markdown", exported.splitlines())]
    lines += [
        "\n## Removing it all\n",
        "The command line does it, too. What else there is lies where `mc-chat doctor` says "
        "([getting started](getting-started.md#removing-it)).\n",
        *_block("console", removed),
    ]
    return "\n".join(lines) + "\n"


def _block(language: str, lines: list[str] | tuple[str, ...]) -> list[str]:
    # Four backticks: an exported chat has blocks of three.
    return [f"````{language}", *lines, "````"]


def console(lines: tuple[str, ...], home: str) -> list[str]:
    """Commands and what they print."""
    shown = []
    for line in lines:
        arguments = line.split()[1:]
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        shown += [f"$ {line}", *done.stdout.replace(home, "~").splitlines()]
    return shown


async def main() -> None:
    """Go the way, and write it down."""
    os.environ["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {paths.HOME_VARIABLE: home, "HOME": home}  # which is shown as ~
        os.chdir(home)
        paths.settings_file().write_text("[sampling]\ntemperature = 0\n", encoding="utf-8")
        async with McChatApp().run_test(size=SIZE, notifications=True) as pilot:
            await go(pilot)
        exported = Path("chat.md").read_text(encoding="utf-8")
        removed = console(REMOVE, home)
        os.chdir(ROOT)
    FILE.write_text(page(exported, removed), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
