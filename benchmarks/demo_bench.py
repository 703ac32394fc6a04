"""What the demo's tables share: the demo compressed with one calibration seed, and measured."""

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file

from assets import DEMO_DIR
from assets.spread import spread as spread_channels
from benchmarks.machine import machine
from compress.allocation import LayerScores
from compress.calibration import DEMO_SIZE, CalibrationSize, demo_windows
from compress.evaluation import DEMO_SEED, DEMO_WINDOWS
from compress.pipeline import CompressJob, compress
from compress.progress import Progress
from engine.config import ModelConfig
from engine.manifest import read_manifest

RESULTS = Path(__file__).parent / "results"
QUICK_WINDOWS = 8
QUICK_SAMPLES = 16
QUANTIZER = "refined"
"""What the tables of allocations and of the demo round with, where they name nothing else."""

T = TypeVar("T")


class Demo:
    """Compresses the demo with one calibration seed; ``windows`` [N, T] are the held-out text.

    Scores of experts (phi, w, eps) do not depend on the allocation and are measured once.
    """

    def __init__(self, scratch: Path, seed: int, quick: bool, source: Path = DEMO_DIR) -> None:
        self.seed = seed
        self.source = source
        self.samples = QUICK_SAMPLES if quick else DEMO_SIZE.samples
        length = ModelConfig.from_folder(DEMO_DIR).max_context
        count = QUICK_WINDOWS if quick else DEMO_WINDOWS
        self.windows = demo_windows("heldout", CalibrationSize(count, length), DEMO_SEED)
        self._scratch = scratch
        self._scores: list[LayerScores] | None = None

    def scores(self) -> list[LayerScores]:
        """Layer by layer, at 1, 2 and 3 bits."""
        if self._scores is None:
            layers = read_manifest(self._compress("scores", None)).layers
            self._scores = [LayerScores.of(record) for record in layers]
        return self._scores

    def compress(
        self, name: str, scores: Sequence[LayerScores] | None = None, **options: Any
    ) -> Path:
        """The demo compressed by a job with these options; returns its folder.

        Other ``scores`` than the measured ones may decide the widths.
        """
        return self._compress(name, self.scores() if scores is None else scores, **options)

    def scored(self, name: str, **options: Any) -> Path:
        """The demo compressed by a job that measures its own scores; returns its folder."""
        return self._compress(name, None, **options)

    def _compress(self, name: str, scores: Sequence[LayerScores] | None, **options: Any) -> Path:
        out = self._scratch / f"{name}-{self.seed}"
        whole = {"quantizer": QUANTIZER, "samples": self.samples, "seed": self.seed, **options}
        job = CompressJob(self.source, out, device="cpu", **whole)
        return compress(job, _quiet, scores)


def evened(folder: Path) -> Path:
    """The demo as it was trained, before its channels were made uneven, in ``folder``."""
    shutil.copytree(DEMO_DIR, folder)
    weights = folder / "model.safetensors"
    save_file(spread_channels(load_file(weights), undo=True), weights, metadata={"format": "pt"})
    return folder


def _quiet(progress: Progress) -> None:
    """Nobody watches the single compressions."""


def table_options(doc: str | None, quick: str) -> argparse.ArgumentParser:
    """The options that every table has; ``quick`` says what `--quick` leaves."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", action="store_true", help="print the figures")
    parser.add_argument("--seeds", type=int, default=3)
    return parser


def each_seed(
    run: Callable[[int, bool], T], options: argparse.Namespace
) -> tuple[list[T], dict[str, Any]]:
    """``run(seed, quick)`` for each seed, side by side; and on what it was measured.

    A seed a process: a model this small leaves a second core idle.
    """
    began, seeds = time.monotonic(), 1 if options.quick else options.seeds
    with ProcessPoolExecutor(min(seeds, os.cpu_count() or 1), get_context("spawn")) as pool:
        found = list(pool.map(run, range(seeds), [options.quick] * seeds))
    minutes = (time.monotonic() - began) / 60
    said = {"machine": machine(), "conditions": conditions(seeds, options.quick, minutes)}
    return found, said


def publish(name: str, text: str, data: dict[str, Any], options: argparse.Namespace) -> None:
    """Print a table, or its figures; a full one is also written to results/."""
    if not options.quick:
        (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
        (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    print(json.dumps(data, indent=1) if options.json else text)


def conditions(seeds: int, quick: bool, minutes: float) -> str:
    """What the figures were measured on, in sentences."""
    count = QUICK_WINDOWS if quick else DEMO_WINDOWS
    samples = QUICK_SAMPLES if quick else DEMO_SIZE.samples
    return (
        f"{machine()}. Calibration: {samples} windows of {DEMO_SIZE.window} tokens of the corpus's "
        f"train split, {seeds} seed{'s' if seeds > 1 else ''}; perplexity: {count} held-out "
        f"windows, median over seeds (least to greatest). {minutes:.0f} minutes."
    )


def spread(values: Sequence[float]) -> str:
    """Median of some values, and their range if there are several that differ."""
    median = f"{statistics.median(values):.3f}"
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return median if low == high else f"{median} ({low} to {high})"


def percent(share: float | None) -> str:
    """A share as a whole per cent; nothing for None."""
    return "" if share is None else f"{100 * share:.0f} %"
