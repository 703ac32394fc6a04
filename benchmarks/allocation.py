"""Every way of spreading the bits, on the demo: perplexity and skills from 1.5 to 3 bits.

    python -m benchmarks.allocation [--quick] [--json] [--seeds N] [--redraw]

Like figures 5 and 6 and tables 2, 3 and 7 of the paper, whose own figures stand beside. What is
measured depends on the widths alone, so allocators that agree are compressed once. Seeds run side
by side. `--quick`: one width, one seed, less text and fewer questions, in under a minute. The full
table is also written to benchmarks/results/; `--redraw` makes its text and plot again from the
figures there.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from assets import DEMO_DIR, corpus
from benchmarks import allocation_report as report
from benchmarks.allocation_report import Point
from benchmarks.demo_bench import RESULTS, Demo, each_seed, publish, table_options
from compress.allocation import (
    Exponents,
    LayerScores,
    allocate,
    allocate_model,
    plan_budget,
    plan_model_budget,
)
from compress.allocator_names import ALLOCATOR_NAMES, needs_all_layers
from compress.calibration import CalibrationSize, demo_windows
from compress.evaluation import DEMO_SEED, answer_shares, perplexity
from compress.model_error import load_whole, model_errors
from compress.quantizers import scoring_quantizer
from compress.source import open_folder
from engine.budget import GROUP_SIZE, NOMINAL_BITS
from engine.checkpoint import load_model
from engine.config import ModelConfig
from engine.manifest import read_manifest
from engine.threads import threads_for
from engine.tokenizer import Tokenizer

QUESTIONS = 12
QUICK_QUESTIONS = 2
"""Per skill, of thirteen."""

MODEL_ERROR_SAMPLES = 8
"""Windows that eps on the model's output is measured on: each costs passes through the model."""
QUICK_MODEL_ERROR_SAMPLES = 1

ABLATED_BITS = (1.5, 2.0)
ABLATED = ("pmq-free", "global")
WITH_MODEL_ERRORS = ("pmq", "pmq-free", "fnorm-free", "global")
QUICK_BITS = (1.5,)
QUICK_ALLOCATORS = ("pmq", "pmq-free", "global")
EXPONENTS = tuple(
    Exponents(*triple)
    for triple in (
        (1.0, 1.5, 2.0), (1.0, 1.5, 1.0), (1.0, 1.0, 2.0), (2.0, 2.0, 2.0), (1.0, 0.0, 2.0),
        (0.0, 1.5, 2.0), (0.0, 0.0, 2.0), (0.0, 0.0, 1.0),
    )
)  # fmt: skip
"""The first is the default; (0, 0, 2) is eps alone."""
QUICK_EXPONENTS = (EXPONENTS[0], EXPONENTS[6])

Widths = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Quality:
    """What one set of widths came to. ``skills``: mean share of exact answers, 0 to 1."""

    nominal_bits: float
    bits_per_expert_weight: float
    perplexity: float
    skills: float


class Bench:
    """Measures allocations of the demo with one calibration seed."""

    def __init__(self, scratch: Path, seed: int, quick: bool) -> None:
        self._demo = Demo(scratch, seed, quick)
        self._quick = quick
        self._config = ModelConfig.from_folder(DEMO_DIR)
        self._found: dict[Widths, Quality] = {}
        questions = QUICK_QUESTIONS if quick else QUESTIONS
        self._items = corpus.skill_items(DEMO_SEED, questions)

    def original(self) -> Point:
        """The 16-bit model."""
        return self._point("original", "16-bit", 16.0, self._measure(DEMO_DIR, (16.0, 16.0)))

    def allocators(self) -> Iterator[Point]:
        """Every allocator at every width that it can give."""
        for bits in QUICK_BITS if self._quick else NOMINAL_BITS:
            for allocator in QUICK_ALLOCATORS if self._quick else ALLOCATOR_NAMES:
                if can_give(allocator, bits):
                    yield self._allocated("allocators", allocator, allocator, bits)

    def exponents(self) -> Iterator[Point]:
        """The programs with other exponents."""
        for bits in QUICK_BITS if self._quick else ABLATED_BITS:
            for allocator in ABLATED[-1:] if self._quick else ABLATED:
                for chosen in QUICK_EXPONENTS if self._quick else EXPONENTS:
                    name = f"{allocator} {chosen.alpha:g}, {chosen.beta:g}, {chosen.gamma:g}"
                    yield self._allocated("exponents", name, allocator, bits, chosen)

    def kinds_of_error(self) -> Iterator[Point]:
        """The programs on eps of the model's output."""
        scores = self._model_scores()
        for bits in QUICK_BITS if self._quick else ABLATED_BITS:
            for allocator in WITH_MODEL_ERRORS[-1:] if self._quick else WITH_MODEL_ERRORS:
                yield self._allocated("errors", allocator, allocator, bits, scores=scores)

    def _model_scores(self) -> list[LayerScores]:
        """The measured scores, with eps on the model's output in their errors' place."""
        samples = QUICK_MODEL_ERROR_SAMPLES if self._quick else MODEL_ERROR_SAMPLES
        size = CalibrationSize(samples, self._demo.windows.shape[1])
        measured = self._demo.scores()
        with threads_for(self._config):
            errors = model_errors(
                load_whole(open_folder(DEMO_DIR), torch.device("cpu")),
                demo_windows("train", size, self._demo.seed),
                scoring_quantizer("refined"),
                GROUP_SIZE,
                measured[0].widths,
                _quiet,
            )
        return [
            scores.on_model(layer, scores.widths)
            for scores, layer in zip(measured, errors, strict=True)
        ]

    def _allocated(
        self,
        table: str,
        name: str,
        allocator: str,
        bits: float,
        exponents: Exponents | None = None,
        scores: Sequence[LayerScores] | None = None,
    ) -> Point:
        decide = self._demo.scores() if scores is None else scores
        chosen = exponents or Exponents()
        widths = self._widths(allocator, bits, chosen, decide)
        if widths not in self._found:
            folder = self._demo.compress(
                f"{table}-{name}-{bits}", decide, allocator=allocator, bits=bits, exponents=chosen
            )
            manifest = read_manifest(folder)
            if widths != tuple(layer.expert_bits for layer in manifest.layers):
                raise RuntimeError(f"{name} at {bits:g} bits: the job chose other widths")
            sizes = (manifest.nominal_bits, manifest.sizes.bits_per_expert_weight)
            self._found[widths] = self._measure(folder, sizes)
        return self._point(table, name, bits, self._found[widths])

    def _widths(
        self, allocator: str, bits: float, exponents: Exponents, scores: Sequence[LayerScores]
    ) -> Widths:
        """The widths that a job will choose, known before it runs."""
        if needs_all_layers(allocator):
            whole = plan_model_budget(allocator, bits, self._config, GROUP_SIZE)
            return allocate_model(allocator, scores, whole, exponents)
        budget = plan_budget(allocator, bits, self._config.num_experts)
        return tuple(
            allocate(allocator, layer, budget, exponents, f"{self._demo.seed}/{index}")
            for index, layer in enumerate(scores)
        )

    def _measure(self, folder: Path, sizes: tuple[float, float]) -> Quality:
        model = load_model(folder)
        whole = perplexity(model, self._demo.windows)
        shares = answer_shares(model, Tokenizer.from_folder(folder), self._items)
        return Quality(*sizes, whole.perplexity, sum(shares.values()) / len(shares))

    def _point(self, table: str, name: str, bits: float, quality: Quality) -> Point:
        return Point(table, name, bits, self._demo.seed, **asdict(quality))


def can_give(allocator: str, bits: float) -> bool:
    """Whether an allocator knows this width: uniform needs whole bits, BSP has one."""
    if allocator == "uniform":
        return bits == int(bits)
    return allocator != "bsp" or bits == 2.5


def _quiet(layer: int, expert: int, done: float) -> None:
    """Nobody watches."""


def run_seed(seed: int, quick: bool) -> list[Point]:
    """Every point with one seed; progress goes to stderr."""
    began = time.monotonic()
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), seed, quick)
        found.append(bench.original())
        for points in (bench.allocators(), bench.exponents(), bench.kinds_of_error()):
            for point in points:
                found.append(point)
                seconds = time.monotonic() - began
                said = f"{point.table}: {point.name} {point.bits:g}, {point.perplexity:.3f}"
                print(f"seed {seed}, {seconds:4.0f} s: {said}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Make the tables."""
    parser = table_options(__doc__, "one width, less text, one seed")
    parser.add_argument("--redraw", action="store_true", help="from the figures in results/")
    options = parser.parse_args()
    if options.redraw:
        data = json.loads((RESULTS / "allocation.json").read_text())
    else:
        columns, data = each_seed(run_seed, options)
        data["points"] = [asdict(point) for column in columns for point in column]
    points = [Point(**row) for row in data["points"]]
    if not options.quick:
        report.draw(points, RESULTS / "allocation.png")
    publish("allocation", report.markdown(points, data["conditions"]), data, options)


if __name__ == "__main__":
    main()
