"""How long a person waits: `mc-chat --help`, and the first paint of the screen.

    python -m benchmarks.startup [--quick] [--json]

First paint is the time from starting the process in a pseudo-terminal to the first frame that
holds text. Medians of several starts on a warm disk.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable

from benchmarks.machine import machine
from benchmarks.terminal import MC_CHAT, terminal


def help_seconds() -> float:
    """Seconds of wall time of `mc-chat --help`."""
    started = time.perf_counter()
    subprocess.run([*MC_CHAT, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def first_paint_seconds() -> float:
    """Seconds until bare `mc-chat` has drawn its header in a 120x36 terminal, from nothing."""
    with tempfile.TemporaryDirectory() as home:
        started = time.perf_counter()
        with terminal(MC_CHAT, {"MC_CHAT_HOME": home}) as screen:
            screen.wait_for("mc-chat")
            return time.perf_counter() - started


def measure(what: Callable[[], float], times: int) -> dict[str, float]:
    """Median, least and greatest of ``times`` runs after one that is not counted; seconds."""
    what()
    runs = [what() for _ in range(times)]
    return {"median": statistics.median(runs), "min": min(runs), "max": max(runs)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 runs instead of 5")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    times = 3 if options.quick else 5
    rows = {
        "mc-chat --help": measure(help_seconds, times),
        "first paint": measure(first_paint_seconds, times),
    }
    if options.json:
        print(json.dumps({"machine": machine(), "seconds": rows}))
        return
    print(f"{machine()}, {times} runs each\n\n| | median s | min | max |\n|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['median']:.2f} | {row['min']:.2f} | {row['max']:.2f} |")


if __name__ == "__main__":
    main()
