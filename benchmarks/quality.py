"""Quality per byte: the paper's PMQ, uniform roundings and ours on the demo, by bits all in.

    python -m benchmarks.quality [--quick] [--json] [--seeds N] [--keep FOLDER] [--redraw]

Every build is compared with the 16-bit demo on the same held-out windows: perplexity as a multiple
of the original's, KL divergence, how often the likeliest token is the same, exact answers, facts
recalled 300 tokens later. The steps from the paper's method to ours have a table of their own, and
so has the demo as it was trained, before its channels were made uneven (assets/spread.py). Seeds
run side by side. `--quick`: one width, one seed, less text, in a minute. The full table is also
written to benchmarks/results/ and docs/images/; `--redraw` makes text and plot again from the
figures there. `--keep` notes each point in a folder as soon as it is measured; run again, a table
that was stopped goes on.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from unittest import mock

from assets import DEMO_DIR
from benchmarks import quality_report as report
from benchmarks.authors_gptq import quantize_uncompensated
from benchmarks.demo_bench import RESULTS, Demo, each_seed, evened, publish, table_options
from benchmarks.quality_report import METHODS, Method, Point
from compress.allocation import LayerScores
from compress.evaluation import DEMO_TASKS, compare, record
from compress.quantizers import QUANTIZERS, Quantizer
from engine.checkpoint import load_model
from engine.manifest import read_manifest

QUICK_METHODS = ("paper's PMQ", "ours")
QUICK_BITS = (1.5,)
EVEN_BITS = (1.5, 2.0, 2.5, 3.0)
EVEN_METHODS = (report.PAPER, "uniform, GPTQ", "PMQ, rotated", report.OURS)
AUTHORS = {"authors": Quantizer(quantize_uncompensated)}


class Bench:
    """Measures builds of the demo with one calibration seed."""

    def __init__(
        self, scratch: Path, seed: int, quick: bool, even: bool, known: Sequence[Point]
    ) -> None:
        self._known = {(point.method, point.bits): point for point in known if point.even == even}
        source = evened(scratch / "even") if even else DEMO_DIR
        self._demo = Demo(scratch, seed, quick, source)
        self._quick, self._even = quick, even
        self._reference = record(load_model(source), self._demo.windows)
        self._scores: dict[str, list[LayerScores]] = {}

    def points(self) -> Iterator[Point]:
        """Every method at every width it is asked for."""
        for method in METHODS:
            bits = set(method.bits)
            if self._even:
                bits = bits & set(EVEN_BITS) if method.name in EVEN_METHODS else set()
            if self._quick:
                bits = bits & set(QUICK_BITS) if method.name in QUICK_METHODS else set()
            for width in sorted(bits):
                known = self._known.get((method.name, width))
                yield known or self._point(method, width)

    def _point(self, method: Method, bits: float) -> Point:
        widest = 4 if bits > 3 else 3
        folder = self._demo.compress(
            f"{method.name}-{bits}",
            self._measured(method.scored_by, widest, bits),
            quantizer=method.quantizer,
            allocator=method.allocator,
            bits=bits,
            exponents=method.exponents,
        )
        manifest = read_manifest(folder)
        tasks = () if self._quick else DEMO_TASKS
        found = compare(folder, self._reference, tasks)
        skills, recall = (found.tasks.get(task, {}) for task in DEMO_TASKS)
        divergence = found.divergence
        return Point(
            method=method.name,
            bits=bits,
            seed=self._demo.seed,
            even=self._even,
            nominal_bits=manifest.nominal_bits,
            bits_per_expert_weight=manifest.sizes.bits_per_expert_weight,
            bytes=manifest.sizes.total_bytes,
            log_ratio=divergence.log_ratio.value,
            log_low=divergence.log_ratio.low,
            log_high=divergence.log_ratio.high,
            kl=divergence.kl.mean.value,
            agreement=divergence.top1_agreement.value,
            skills=sum(skills.values()) / max(1, len(skills)),
            recall=sum(recall.values()) / max(1, len(recall)),
        )

    def _measured(self, quantizer: str, widest: int, bits: float) -> list[LayerScores]:
        """The scores of all experts with eps by this quantizer's rounding."""
        key = f"{quantizer}-{widest}"
        if key not in self._scores:
            # Uniform widths score nothing that a later method could use, so pmq measures.
            wanted = {"allocator": "global", "bits": bits if widest > 3 else 2.5}
            folder = self._demo.scored(f"scores-{key}", quantizer=quantizer, **wanted)
            layers = read_manifest(folder).layers
            self._scores[key] = [LayerScores.of(layer) for layer in layers]
        return self._scores[key]


def run_seed(seed: int, quick: bool, keep: Path | None = None) -> list[Point]:
    """Every point with one seed; progress goes to stderr. Those in the folder ``keep`` are not
    measured again."""
    began = time.monotonic()
    notes = None if keep is None else keep / f"seed-{seed}.jsonl"
    known = []
    if notes is not None and notes.is_file():
        known = [Point(**json.loads(line)) for line in notes.read_text().splitlines()]
    found = []
    for even in (False, True):
        with tempfile.TemporaryDirectory() as scratch, mock.patch.dict(QUANTIZERS, AUTHORS):
            for point in Bench(Path(scratch), seed, quick, even, known).points():
                found.append(point)
                if notes is not None and point not in known:
                    with notes.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(point)) + "\n")
                seconds = time.monotonic() - began
                said = f"{point.method} {point.bits:g}, log ratio {point.log_ratio:.4f}"
                print(f"seed {seed}, {seconds:4.0f} s: {said}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Make the tables."""
    parser = table_options(__doc__, "one width, less text, one seed")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="note each point there")
    parser.add_argument("--redraw", action="store_true", help="from the figures in results/")
    options = parser.parse_args()
    if options.redraw:
        data = json.loads((RESULTS / "quality.json").read_text())
    else:
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
        columns, data = each_seed(partial(run_seed, keep=options.keep), options)
        data["points"] = [asdict(point) for column in columns for point in column]
    points = [Point(**row) for row in data["points"]]
    if not options.quick:
        report.draw(points, RESULTS.parents[1] / "docs" / "images" / "quality.png")
    publish("quality", report.markdown(points, data["conditions"]), data, options)


if __name__ == "__main__":
    main()
