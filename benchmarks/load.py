"""Loading a model beside reading its files, and how long its first token takes.

    python -m benchmarks.load [--quick] [--json]

Two layers of Mixtral 8x7B in full width with random codes at 2.5 bits (1.5 GB). Reading is read()
of every file of weights, from first byte to last, into one buffer of 8 MiB that is used again and
again. A load is `load_model` with the kernels compiled already: every page is in memory when it
ends. Each round does one after the other; ratios are medians of the rounds' own. Cold: the system
was told to drop the files from its cache just before. A new process also pays for Python, torch and
the kernels; its first token is that of a prompt of one. `--quick`: a quarter of the width.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks import fit
from benchmarks.machine import machine
from benchmarks.random_checkpoint import write_random_checkpoint
from engine import budget
from engine.cache import KVCache
from engine.checkpoint import load_model
from engine.model import Model

BUFFER_BYTES = 8 << 20
CHILD = """
import json, sys, time
started = time.perf_counter()
from pathlib import Path
from benchmarks.load import first_token
from engine.checkpoint import load_model
imported = time.perf_counter()
model = load_model(Path(sys.argv[1]))
loaded = time.perf_counter()
first_token(model)
ended = time.perf_counter()
print(json.dumps([imported - started, loaded - imported, ended - loaded]))
"""


@dataclass(frozen=True)
class Row:
    """Medians in seconds. ``ratio``: load / read; ``token``: first one after the load; ``later``:
    one when all has run before."""

    cache: str
    read: float
    load: float
    ratio: float
    token: float
    later: float


@dataclass(frozen=True)
class Process:
    """A process that starts with warm files: seconds of its parts."""

    imports: float
    load: float
    token: float


def read_files(paths: list[Path]) -> None:
    buffer = memoryview(bytearray(BUFFER_BYTES))
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def drop_from_cache(paths: list[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)  # what is not on the disk yet cannot be dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def first_token(model: Model) -> None:
    """As soon as it can be: the prompt is one token long."""
    cache = KVCache(model.config, 16, dtype=model.dtype)
    with torch.inference_mode():
        model.forward(torch.tensor([[1]]), cache, last_only=True)


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure(folder: Path, cold: bool, rounds: int) -> Row:
    paths = sorted(folder.glob("*.safetensors"))
    first_token(load_model(folder))
    spent = []
    for _ in range(rounds):
        gc.collect()  # a mapped file stays in the cache
        if cold:
            drop_from_cache(paths)
        read = seconds(lambda: read_files(paths))
        if cold:
            drop_from_cache(paths)
        started = time.perf_counter()
        model = load_model(folder)
        load = time.perf_counter() - started
        token, later = (seconds(lambda model=model: first_token(model)) for _ in range(2))
        del model
        spent.append((read, load, load / read, token, later))
    return Row("cold" if cold else "warm", *map(statistics.median, zip(*spent, strict=True)))


def new_process(folder: Path, times: int) -> Process:
    runs = []
    for _ in range(times):
        command = [sys.executable, "-c", CHILD, str(folder)]
        runs.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    return Process(*map(statistics.median, zip(*runs, strict=True)))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a narrow slice, fewer rounds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config, rounds = (fit.quarter(), 3) if options.quick else (fit.full_width(), 7)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "slice"
        write_random_checkpoint(folder, config, fit.WIDE, budget.GROUP_SIZE)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        rows = [measure(folder, cold, rounds) for cold in (False, True)]
        process = new_process(folder, 3)
    if options.json:
        table = {"bytes": size, "rows": [asdict(row) for row in rows], "process": asdict(process)}
        print(json.dumps({"machine": machine(), **table}))
        return
    print(f"{machine()}; {size / 1e9:.2f} GB of files, medians of {rounds} rounds\n")
    print("| page cache | read files | load | load / read | first token | a later one |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.cache} | {1e3 * row.read:.0f} ms | {1e3 * row.load:.0f} ms | {row.ratio:.2f} "
            f"| {1e3 * row.token:.0f} ms | {1e3 * row.later:.0f} ms |"
        )
    print(
        f"\nA new process, files warm: imports {process.imports:.2f} s, load and kernels "
        f"{process.load:.2f} s, first token {1e3 * process.token:.0f} ms."
    )


if __name__ == "__main__":
    main()
