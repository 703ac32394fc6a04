"""The demo's table: what each way of compressing it costs.

    python -m benchmarks.demo_table [--quick] [--json] [--seeds N]

Every row is compressed once per calibration seed and measured on one fixed held-out set: medians
over seeds, answers of the first. Scores of experts (phi, w, eps) do not depend on the allocation
and are measured once per seed. `--quick`: one seed, the rows without ODP, a smaller held-out set,
no answers. The full table is also written to benchmarks/results/.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from assets import DEMO_DIR, corpus
from benchmarks.machine import machine
from compress.allocation import LayerScores
from compress.calibration import DEMO_SIZE, CalibrationSize, demo_windows
from compress.evaluation import (
    DEMO_SEED,
    DEMO_WINDOWS,
    ITEMS_PER_SKILL,
    RECALL_DISTANCE,
    RECALL_ITEMS,
    perplexity,
    pruning_of,
    run_task,
)
from compress.pipeline import CompressJob, compress
from compress.progress import Progress
from engine.checkpoint import load_model
from engine.config import ModelConfig
from engine.manifest import read_manifest
from engine.tokenizer import Tokenizer

RESULTS = Path(__file__).parent / "results"
ROWS = (
    ("uniform", 3.0, "gptq"),
    ("uniform", 2.0, "gptq"),
    ("uniform", 2.0, "gptq-plain"),
    ("uniform", 2.0, "minmax"),
    *(
        (allocator, bits, "gptq")
        for bits in (2.5, 2.0, 1.5)
        for allocator in ("pmq", "pmq-free", "fnorm-free", "random")
    ),
)
PRUNED_ROWS = (("pmq", 2.5, "gptq"), ("pmq", 2.0, "gptq"))


@dataclass
class Row:
    """One line of the table. Perplexities are one per seed; shares are 0 to 1.

    ``stepwise``: perplexity token by token, where ODP's protection sees nothing that comes later.
    """

    name: str
    nominal_bits: float
    bits_per_expert_weight: float
    bytes: int
    perplexities: list[float] = field(default_factory=list)
    stepwise: list[float] = field(default_factory=list)
    prune_ratios: list[float] = field(default_factory=list)
    skills: dict[str, float] = field(default_factory=dict)
    recall: float | None = None

    @property
    def perplexity(self) -> float:
        """Median over seeds."""
        return statistics.median(self.perplexities)

    @property
    def factual(self) -> float | None:
        """Mean share over the factual skills."""
        shares = [share for name, share in self.skills.items() if name in corpus.FACTUAL_SKILLS]
        return statistics.mean(shares) if shares else None


class Bench:
    """Compresses and measures; collects rows by name."""

    def __init__(self, scratch: Path, quick: bool) -> None:
        self._scratch = scratch
        self._quick = quick
        length = ModelConfig.from_folder(DEMO_DIR).max_context
        count = 8 if quick else DEMO_WINDOWS
        self._windows = demo_windows("heldout", CalibrationSize(count, length), DEMO_SEED)
        self._scores: dict[int, list[LayerScores]] = {}
        self.rows: dict[str, Row] = {}

    def original(self) -> None:
        """The 16-bit model."""
        tensors = load_file(DEMO_DIR / "model.safetensors").values()
        size = sum(tensor.nbytes for tensor in tensors)
        self.rows["16-bit"] = Row("16-bit", 16.0, 16.0, size)
        self._measure(self.rows["16-bit"], DEMO_DIR, "off", tasks=True)

    def compressed(self, allocator: str, bits: float, quantizer: str, seed: int) -> None:
        """One row with one calibration seed, with ODP too where the table asks for it."""
        folder = self._compress(allocator, bits, quantizer, seed)
        manifest = read_manifest(folder)
        name = f"{allocator} {bits:g}" + (f", {quantizer}" if allocator == "uniform" else "")
        sizes = manifest.sizes
        new = Row(name, manifest.nominal_bits, sizes.bits_per_expert_weight, sizes.total_bytes)
        self._measure(self.rows.setdefault(name, new), folder, "off", tasks=seed == 0)
        if (allocator, bits, quantizer) in PRUNED_ROWS and not self._quick:
            pruned = replace(new, name=f"{name} + ODP", perplexities=[], skills={})
            pruned = self.rows.setdefault(pruned.name, pruned)
            self._measure(pruned, folder, "odp", tasks=seed == 0)

    def _compress(self, allocator: str, bits: float, quantizer: str, seed: int) -> Path:
        job = CompressJob(
            source=DEMO_DIR,
            out=self._scratch / f"{allocator}-{bits}-{quantizer}-{seed}",
            bits=bits,
            allocator=allocator,
            quantizer=quantizer,
            seed=seed,
        )
        # GPTQ's scores for every row: the rows with other quantizers are uniform and need none.
        scores = self._scores.get(seed)
        compress(job, _quiet, scores)
        if scores is None:
            layers = read_manifest(job.out).layers
            self._scores[seed] = [LayerScores.of(record) for record in layers]
        return job.out

    def _measure(self, row: Row, folder: Path, mode: str, *, tasks: bool) -> None:
        model = load_model(folder)
        pruning = pruning_of(folder, "odp" if mode == "odp" else "off")
        measured = perplexity(model, self._windows, pruning)
        row.perplexities.append(measured.perplexity)
        row.prune_ratios.append(measured.prune_ratio)
        if mode == "odp":
            row.stepwise.append(perplexity(model, self._windows, pruning, stepwise=True).perplexity)
        if tasks and not self._quick:
            tokenizer = Tokenizer.from_folder(folder)
            row.skills = run_task("skills", model, tokenizer, pruning)
            row.recall = run_task("recall", model, tokenizer, pruning)[str(RECALL_DISTANCE)]


def _quiet(progress: Progress) -> None:
    """Nobody watches the single compressions."""


def markdown(rows: list[Row], seeds: int, minutes: float, quick: bool) -> str:
    """The tables."""
    exact = rows[0].perplexity
    count = 8 if quick else DEMO_WINDOWS
    lines = [
        "# The demo's table",
        "",
        f"{machine()}. Calibration: {DEMO_SIZE.samples} windows of {DEMO_SIZE.window} tokens of "
        f"the corpus's train split, {seeds} seed{'s' if seeds > 1 else ''}; perplexity: {count} "
        f"held-out windows, median over seeds (least to greatest). {minutes:.0f} minutes.",
        "Bits per expert weight count codes, scales and zero points; bytes are the whole "
        "checkpoint's. pmq-free is the program without its two forced widths; fnorm-free also "
        "leaves phi and w out of it.",
        "",
        "| | nominal bits | bits per expert weight | bytes | perplexity | ratio to 16-bit "
        "| facts right | recall at 300 | prune ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = f" ({min(row.perplexities):.3f} to {max(row.perplexities):.3f})"
        lines.append(
            f"| {row.name} | {row.nominal_bits:g} | {row.bits_per_expert_weight:.3f} "
            f"| {row.bytes:,} | {row.perplexity:.3f}{spread if seeds > 1 else ''} "
            f"| {row.perplexity / exact:.3f} | {_percent(row.factual)} | {_percent(row.recall)} "
            f"| {_percent(statistics.median(row.prune_ratios))} |"
        )
    lines += [*_pruning_lines(rows), *_skill_lines(rows), *_claim_lines(rows)]
    return "\n".join(lines) + "\n"


def _pruning_lines(rows: list[Row]) -> Iterator[str]:
    pruned = [row for row in rows if row.stepwise]
    if pruned:
        yield from ("", "Under ODP, whole windows protect tokens by what comes later; token by")
        yield from ("token, as in decoding, nothing later is seen:", "")
        yield from ("| | whole windows | token by token |", "|---|---|---|")
    for row in pruned:
        stepwise = statistics.median(row.stepwise)
        yield f"| {row.name} | {row.perplexity:.3f} | {stepwise:.3f} |"


def _skill_lines(rows: list[Row]) -> Iterator[str]:
    scored = [row for row in rows if row.skills]
    if not scored:
        return
    skills = list(scored[0].skills)
    yield from ("", f"Exact answers by skill, {ITEMS_PER_SKILL} held-out questions each; recall: ")
    yield from (f"{RECALL_ITEMS} facts told {RECALL_DISTANCE} tokens earlier.", "")
    yield f"| | {' | '.join(skills)} | recall |"
    yield "|---" * (len(skills) + 2) + "|"
    for row in scored:
        shares = [_percent(row.skills[skill]) for skill in skills]
        yield f"| {row.name} | {' | '.join(shares)} | {_percent(row.recall)} |"


def _claim_lines(rows: list[Row]) -> Iterator[str]:
    yield ""
    for claim, holds in claims({row.name: row for row in rows}).items():
        yield f"- {claim}: {'yes' if holds else 'NO'}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def claims(rows: dict[str, Row]) -> dict[str, bool]:
    """What was to be shown on the demo, by median perplexity."""
    pairs = [(f"pmq {bits}", f"random {bits}") for bits in ("2.5", "2", "1.5")]
    pairs += [(f"fnorm-free {bits}", f"pmq {bits}") for bits in ("2.5", "2", "1.5")]
    pairs += [(name, "uniform 2, gptq") for name in ("pmq 2", "pmq-free 2", "fnorm-free 2")]
    return {
        f"{better} is not above {worse}": rows[better].perplexity <= rows[worse].perplexity
        for better, worse in pairs
    }


def main() -> None:
    """Make the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, few windows, no answers")
    parser.add_argument("--json", action="store_true", help="print the rows")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    seeds = 1 if options.quick else options.seeds
    torch.set_num_threads(1)  # the demo's products are too small to share
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), options.quick)
        bench.original()
        for allocator, bits, quantizer in ROWS:
            for seed in range(seeds):
                bench.compressed(allocator, bits, quantizer, seed)
            seconds = time.monotonic() - began
            print(f"{seconds:5.0f} s  {allocator} {bits:g} {quantizer}", file=sys.stderr)
    minutes = (time.monotonic() - began) / 60
    rows = list(bench.rows.values())
    data = {
        "machine": machine(),
        "seeds": seeds,
        "rows": [asdict(row) for row in rows],
        "claims": claims(bench.rows),
    }
    table = markdown(rows, seeds, minutes, options.quick)
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "demo_table.md").write_text(table, encoding="utf-8")
        (RESULTS / "demo_table.json").write_text(json.dumps(data, indent=1) + "\n")
    print(json.dumps(data, indent=1) if options.json else table)


if __name__ == "__main__":
    main()
