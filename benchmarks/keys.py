"""How long a key takes to the screen while the engine and everybody else are busy.

    python -m benchmarks.keys [--quick] [--json]

The real program in a pseudo-terminal, its real engine, and one busy process on each core. Letters
are typed at random times while a reply is written, and the time is taken from the press until the
letter is in what the program draws. Two stories: the demo, asked again as soon as it has answered,
which is the most that the screen can be given to do; and one long reply of a larger model of
random weights, which keeps the engine's threads busy all the time.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from assets import DEMO_DIR
from benchmarks.machine import machine
from benchmarks.random_checkpoint import write_random_checkpoint
from benchmarks.terminal import MC_CHAT, Terminal, terminal
from engine.config import ModelConfig

LETTERS = "абвгдежзиклмнопрстуфхцчшщьюя"
"""Nothing else on the screen has them."""
QUESTION = "Tell me a story."
GOAL_SECONDS = 0.05
SEED = 0
LARGE = {"hidden_size": 1024, "intermediate_size": 3584, "num_layers": 16, "max_context": 32768}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Keys:
    """Seconds from a press to the screen."""

    presses: int
    p50: float
    p95: float
    longest: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="60 presses a story instead of 200")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    presses = 60 if options.quick else 200
    with tempfile.TemporaryDirectory() as home:
        make_models(Path(home))
        rows = {
            name: measure(home, model, keep_busy, presses, busy)
            for name, model, keep_busy, busy in (
                ("no reply, idle cores", "demo", leave_alone, 0),
                ("no reply, busy cores", "demo", leave_alone, cores()),
                ("demo, again and again", "demo", ask_again, cores()),
                ("one long reply", "large", leave_alone, cores()),
            )
        }
    if options.json:
        shown = {name: asdict(keys) for name, keys in rows.items()}
        print(json.dumps({"machine": machine(), "goal_seconds": GOAL_SECONDS, "rows": shown}))
        return
    print(f"{machine()}; from a press to the screen, milliseconds\n")
    print("| | presses | p50 | p95 | longest |\n|---|---|---|---|---|")
    for name, keys in rows.items():
        figures = (keys.p50, keys.p95, keys.longest)
        shown = " | ".join(f"{1000 * seconds:.0f}" for seconds in figures)
        print(f"| {name} | {keys.presses} | {shown} |")


# --- a story --------------------------------------------------------------------------------------


def measure(
    home: str, model: str, keep_busy: Callable[[Terminal], None], presses: int, busy: int
) -> Keys:
    """Type into the program while it talks, beside ``busy`` processes that only compute."""
    chance = random.Random(SEED)
    took = []
    with terminal([*MC_CHAT, "chat", model], {"MC_CHAT_HOME": home}) as screen:
        screen.wait_for("ready")
        screen.rest(1.0)
        if keep_busy is ask_again or model == "large":
            screen.press(f"{QUESTION}\r")
            screen.wait_for("tokens/s")
        with busy_processes(busy):
            screen.rest(1.0)
            for number in range(presses):
                if number % len(LETTERS) == 0:
                    screen.press("\x15")  # Ctrl+U: the line is empty again
                    screen.rest(0.3)
                end = time.perf_counter() + chance.uniform(0.05, 0.3)
                while (left := end - time.perf_counter()) > 0:
                    screen.read(left)
                    keep_busy(screen)
                took.append(key_seconds(screen, LETTERS[number % len(LETTERS)]))
    took.sort()
    return Keys(presses, took[presses // 2], took[int(0.95 * (presses - 1))], took[-1])


def key_seconds(screen: Terminal, letter: str) -> float:
    """Seconds from the press of a key until the terminal is told to show it."""
    screen.forget()
    started = time.perf_counter()
    screen.press(letter)
    screen.wait_for(letter)
    return time.perf_counter() - started


def leave_alone(screen: Terminal) -> None:
    """Only type."""


def ask_again(screen: Terminal) -> None:
    """Ask for another reply as soon as there is one."""
    if b"ready" in screen.seen:
        screen.forget()
        screen.press("\x07")  # Ctrl+G


# --- what it runs on ------------------------------------------------------------------------------


def make_models(home: Path) -> None:
    """The demo, compressed, and a larger one of random weights that never ends its reply."""
    models = home / "models"
    job = [sys.executable, "-m", "compress.job", str(DEMO_DIR), "--out", str(models / "demo")]
    subprocess.run(job, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    demo = ModelConfig.from_folder(DEMO_DIR)
    write_random_checkpoint(models / "large", replace(demo, **LARGE), (2,) * demo.num_experts, 128)
    for name in TOKENIZER_FILES:
        shutil.copy(DEMO_DIR / name, models / "large")


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that compute and do nothing else, and end when this one does, however it does."""
    compute = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    command = [sys.executable, "-c", compute]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
