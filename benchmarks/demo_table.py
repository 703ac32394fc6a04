"""The demo's table: what each way of compressing it costs.

    python -m benchmarks.demo_table [--quick] [--json] [--seeds N]

Every row is compressed once per calibration seed and measured on one fixed held-out set: medians
over seeds, answers of the first. Seeds run side by side. Scores of experts (phi, w, eps) do not
depend on the allocation and are measured once per seed. `--quick`: rows at 2 bits, one seed, less
text, no ODP, no answers. The full table is also written to benchmarks/results/.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from safetensors.torch import load_file

from assets import DEMO_DIR, corpus
from benchmarks.demo_bench import Demo, each_seed, percent, publish, spread, table_options
from compress.evaluation import (
    ITEMS_PER_SKILL,
    RECALL_DISTANCE,
    RECALL_ITEMS,
    perplexity,
    run_task,
)
from engine.checkpoint import load_model
from engine.manifest import read_manifest
from engine.pruning import NO_PRUNING, OdpPruning, Pruning, RatioPruning
from engine.tokenizer import Tokenizer

ROWS = (
    ("uniform", 3.0, "refined"),
    ("uniform", 2.0, "refined"),
    ("uniform", 2.0, "gptq"),
    ("uniform", 2.0, "minmax"),
    *(
        (allocator, bits, "refined")
        for bits in (2.5, 2.0, 1.5)
        for allocator in ("pmq", "pmq-free", "fnorm-free", "random")
    ),
)
QUICK_ROWS = tuple(
    (allocator, 2.0, "refined") for allocator in ("uniform", "pmq", "fnorm-free", "random")
)
PRUNED_ROWS = (("pmq", 2.5, "refined"), ("pmq", 2.0, "refined"))


@dataclass(frozen=True)
class Measured:
    """One way of compressing with one calibration seed. Shares are 0 to 1.

    ``stepwise``: perplexity token by token, where ODP's protection sees nothing that comes later.
    """

    name: str
    nominal_bits: float
    bits_per_expert_weight: float
    bytes: int
    perplexity: float
    prune_ratio: float
    stepwise: float | None = None
    skills: dict[str, float] = field(default_factory=dict)
    recall: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured with each seed, the first seed's answers too."""

    seeds: tuple[Measured, ...]

    @property
    def first(self) -> Measured:
        """The first seed's."""
        return self.seeds[0]

    @property
    def name(self) -> str:
        """What the line is called."""
        return self.first.name

    @property
    def perplexity(self) -> float:
        """Median over seeds."""
        return statistics.median(self.perplexities)

    @property
    def perplexities(self) -> list[float]:
        """One per seed."""
        return [measured.perplexity for measured in self.seeds]

    @property
    def prune_ratio(self) -> float:
        """Median over seeds."""
        return statistics.median(measured.prune_ratio for measured in self.seeds)

    @property
    def factual(self) -> float | None:
        """Mean share over the factual skills."""
        skills = self.first.skills
        shares = [share for name, share in skills.items() if name in corpus.FACTUAL_SKILLS]
        return statistics.mean(shares) if shares else None


class Bench:
    """Compresses and measures with one calibration seed; the first one also asks questions."""

    def __init__(self, scratch: Path, seed: int, quick: bool) -> None:
        self._demo = Demo(scratch, seed, quick)
        self._quick = quick

    def original(self) -> Measured:
        """The 16-bit model."""
        tensors = load_file(DEMO_DIR / "model.safetensors").values()
        size = sum(tensor.nbytes for tensor in tensors)
        return self._measure(DEMO_DIR, "16-bit", (16.0, 16.0, size))

    def compressed(self, allocator: str, bits: float, quantizer: str) -> Iterator[Measured]:
        """One row, and one more with ODP where the table asks for it."""
        # The default quantizer's scores for every row: those with another are uniform.
        folder = self._demo.compress(
            f"{allocator}-{bits}-{quantizer}",
            allocator=allocator,
            bits=bits,
            quantizer=quantizer,
        )
        manifest = read_manifest(folder)
        name = f"{allocator} {bits:g}" + (f", {quantizer}" if allocator == "uniform" else "")
        size = manifest.sizes
        sizes = (manifest.nominal_bits, size.bits_per_expert_weight, size.total_bytes)
        yield self._measure(folder, name, sizes)
        if (allocator, bits, quantizer) in PRUNED_ROWS and not self._quick:
            odp = OdpPruning.from_records(manifest.layers)
            yield self._measure(folder, f"{name} + ODP", sizes, odp)
            bare = RatioPruning(odp.thresholds)
            yield self._measure(folder, f"{name} + ODP, nobody protected", sizes, bare)

    def _measure(
        self,
        folder: Path,
        name: str,
        sizes: tuple[float, float, int],
        pruning: Pruning = NO_PRUNING,
    ) -> Measured:
        model = load_model(folder)
        whole = perplexity(model, self._demo.windows, pruning)
        measured = Measured(name, *sizes, whole.perplexity, whole.prune_ratio)
        if self._demo.seed or self._quick:
            return measured
        stepwise = None
        if pruning.needs_statistics:
            stepwise = perplexity(model, self._demo.windows, pruning, stepwise=True).perplexity
        tokenizer = Tokenizer.from_folder(folder)
        return replace(
            measured,
            stepwise=stepwise,
            skills=run_task("skills", model, tokenizer, pruning),
            recall=run_task("recall", model, tokenizer, pruning)[str(RECALL_DISTANCE)],
        )


def run_seed(seed: int, quick: bool) -> list[Measured]:
    """Every line of the table with one seed; progress goes to stderr."""
    began = time.monotonic()
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), seed, quick)
        found.append(bench.original())
        for row in QUICK_ROWS if quick else ROWS:
            found += bench.compressed(*row)
            seconds = time.monotonic() - began
            print(f"seed {seed}, {seconds:4.0f} s: {found[-1].name}", file=sys.stderr, flush=True)
    return found


def markdown(rows: list[Row], said: str) -> str:
    """The tables."""
    exact = rows[0].perplexity
    lines = [
        "# The demo's table",
        "",
        said,
        "Bits per expert weight count codes, scales and zero points; bytes are the whole "
        "checkpoint's. pmq-free is the program without its two forced widths; fnorm-free also "
        "leaves phi and w out of it.",
        "",
        "| | nominal bits | bits per expert weight | bytes | perplexity | ratio to 16-bit "
        "| facts right | recall at 300 | prune ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.first.nominal_bits:g} | {row.first.bits_per_expert_weight:.3f} "
        f"| {row.first.bytes:,} | {spread(row.perplexities)} "
        f"| {row.perplexity / exact:.3f} | {percent(row.factual)} "
        f"| {percent(row.first.recall)} | {percent(row.prune_ratio)} |"
        for row in rows
    ]
    lines += [*_pruning_lines(rows), *_skill_lines(rows), *_claim_lines(rows)]
    return "\n".join(lines) + "\n"


def _pruning_lines(rows: list[Row]) -> Iterator[str]:
    pruned = [row.first for row in rows if row.first.stepwise is not None]
    if pruned:
        yield from ("", "Under ODP, whole windows protect tokens by what comes later; token by")
        yield from ("token, as in decoding, nothing later is seen (first seed):", "")
        yield from ("| | whole windows | token by token |", "|---|---|---|")
    for measured in pruned:
        yield f"| {measured.name} | {measured.perplexity:.3f} | {measured.stepwise:.3f} |"


def _skill_lines(rows: list[Row]) -> Iterator[str]:
    scored = [row.first for row in rows if row.first.skills]
    if not scored:
        return
    skills = list(scored[0].skills)
    yield from ("", f"Exact answers by skill, {ITEMS_PER_SKILL} held-out questions each; recall:")
    yield from (f"{RECALL_ITEMS} facts told {RECALL_DISTANCE} tokens earlier (first seed).", "")
    yield f"| | {' | '.join(skills)} | recall |"
    yield "|---" * (len(skills) + 2) + "|"
    for measured in scored:
        shares = [percent(measured.skills[skill]) for skill in skills]
        yield f"| {measured.name} | {' | '.join(shares)} | {percent(measured.recall)} |"


def _claim_lines(rows: list[Row]) -> Iterator[str]:
    yield ""
    for claim, holds in claims(rows).items():
        yield f"- {claim}: {'yes' if holds else 'NO'}"


def claims(rows: list[Row]) -> dict[str, bool]:
    """What was to be shown on the demo, by median perplexity."""
    found = {row.name: row.perplexity for row in rows}
    pairs = [(f"pmq {bits}", f"random {bits}") for bits in ("2.5", "2", "1.5")]
    pairs += [(f"fnorm-free {bits}", f"pmq {bits}") for bits in ("2.5", "2", "1.5")]
    pairs += [(name, "uniform 2, refined") for name in ("pmq 2", "pmq-free 2", "fnorm-free 2")]
    return {
        f"{better} is not above {worse}": found[better] <= found[worse]
        for better, worse in pairs
        if {better, worse} <= set(found)
    }


def main() -> None:
    """Make the table."""
    options = table_options(__doc__, "a few rows at 2 bits, no answers").parse_args()
    columns, data = each_seed(run_seed, options)
    rows = [Row(measured) for measured in zip(*columns, strict=True)]
    data |= {"rows": [asdict(row) for row in rows], "claims": claims(rows)}
    publish("demo_table", markdown(rows, data["conditions"]), data, options)


if __name__ == "__main__":
    main()
