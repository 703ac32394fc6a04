"""What a newcomer waits for: compressing the demo, one question, and the speed of replies.

    python -m benchmarks.first_run [--quick] [--json]

Whole processes, timed from outside; peak memory is the largest single process's resident set.
Medians of several runs, each with an empty home.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Any

from assets import DEMO_DIR
from benchmarks.machine import machine

MC_CHAT = (sys.executable, "-m", "app.cli")
QUESTION = "Where does Karin live?"


@dataclass(frozen=True)
class Waits:
    """One newcomer. Seconds of wall time, bytes, decoded tokens per second with and without ODP."""

    compress_seconds: float
    compress_peak_bytes: int
    answer_seconds: float
    odp_tokens_per_second: float
    unpruned_tokens_per_second: float


def newcomer() -> Waits:
    """Compress the demo in an empty home and ask it one question."""
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "MC_CHAT_HOME": home}
        compress_seconds, _, _ = run("compress", "demo", "--json", env=env)
        # The job is a process of its own, which outlives the command: here it is run by itself.
        job = [sys.executable, "-m", "compress.job", str(DEMO_DIR), "--out", f"{home}/again"]
        _, peak, _ = spent(job, env)
        answer_seconds, _, _ = run("run", "demo", QUESTION, "--json", env=env)
        odp, unpruned = (
            run("bench", "demo", "--tokens", "256", "--pruning", mode, "--json", env=env)[2]
            for mode in ("odp", "off")
        )
        return Waits(
            compress_seconds,
            peak,
            answer_seconds,
            odp["decode_tokens_per_second"],
            unpruned["decode_tokens_per_second"],
        )


def run(*words: str, env: dict[str, str]) -> tuple[float, int, Any]:
    """Wall seconds, peak bytes and JSON result of one command."""
    seconds, peak, output = spent([*MC_CHAT, *words], env)
    return seconds, peak, json.loads(output)


def spent(command: list[str], env: dict[str, str]) -> tuple[float, int, bytes]:
    """Wall seconds, peak bytes and standard output of a process."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    output = process.stdout.read()
    # Waits for this very child, so the peak is its own.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with {process.returncode}")
    per_unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - started, usage.ru_maxrss * per_unit, output


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run instead of 3")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = [newcomer() for _ in range(1 if options.quick else 3)]
    if options.json:
        print(json.dumps({"machine": machine(), "runs": [asdict(waits) for waits in runs]}))
        return
    compress = statistics.median(waits.compress_seconds for waits in runs)
    peak = max(waits.compress_peak_bytes for waits in runs)
    answer = statistics.median(waits.answer_seconds for waits in runs)
    odp = statistics.median(waits.odp_tokens_per_second for waits in runs)
    unpruned = statistics.median(waits.unpruned_tokens_per_second for waits in runs)
    print(f"{machine()}, median of {len(runs)}\n\n| | |\n|---|---|")
    print(f"| compress the demo | {compress:.0f} s |")
    print(f"| its peak memory | {peak / 1e9:.2f} GB |")
    print(f"| one question, start to end of the process | {answer:.1f} s |")
    print(f"| decoding, ODP on | {odp:.0f} tokens/s |")
    print(f"| decoding, ODP off | {unpruned:.0f} tokens/s |")


if __name__ == "__main__":
    main()
