"""Which experts to skip: ODP as the paper has it, its alternatives, and OTP, at equal savings.

    python -m benchmarks.pruning [--quick] [--json] [--seeds N]

The demo at 2 bits with one program over all layers is pruned in every way; each is compared with
the same build unpruned, on the same held-out windows; some also token by token, as in decoding.
What is skipped is the share of all expert slots; 50 % would be one expert a token. Answers are of
the first seed. `--quick`: less text, one seed, no answers. The full table is also written to
benchmarks/results/.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from assets import corpus
from benchmarks.demo_bench import Demo, each_seed, percent, publish, table_options
from benchmarks.gumbel import train_router
from compress.calibration import DEMO_SIZE, demo_windows
from compress.evaluation import DEMO_TASKS, perplexity, record, run_task
from compress.evaluation.divergence import diverge
from compress.pruning import criteria
from compress.pruning.criteria import RandomlyProtected, ScorePruning, TokenDropping
from compress.pruning.damage import LayerDamage, measure_damage
from compress.pruning.dial import damage_thresholds
from compress.pruning.otp import fit_router, price_for
from engine.checkpoint import load_model
from engine.counters import Counters
from engine.manifest import read_manifest
from engine.otp import OtpPruning, features
from engine.pruning import NO_PRUNING, OdpPruning, Pruning, RatioPruning
from engine.tokenizer import Tokenizer

SAVINGS = (0.25, 0.4, 0.45)
FIXED = (0.4, 0.5, 0.6, 0.7)
PROTECTED = (0.02, 0.1)
MILD, HARSH = 0.25, 0.45
"""Savings of the worse criteria, and such that protection has something to win back."""
STEPWISE = (
    *("ODP: medians, 2 % protected", "ODP: 0.7 everywhere, 2 % protected"),
    *("OTP at 45%", "w1/w0 at 45%, 2% protected by Eq. 6"),
)
ANSWERING = (
    *("nothing skipped", "ODP: medians, 2 % protected", "w1/w0 at 45%, one quantile"),
    "OTP at 45%",
)


@dataclass(frozen=True)
class Pruned:
    """One way to prune with one seed. ``saved``: of the activated parameters. ``ratio`` of the
    perplexity to the unpruned build's, with its 95 % interval; ``stepwise``: token by token."""

    name: str
    skipped: float
    saved: float
    ratio: float
    low: float
    high: float
    kl: float
    stepwise: float | None = None
    answers: dict[str, float] = field(default_factory=dict)


class Bench:
    """The build of one seed, and all that prunes it."""

    def __init__(self, scratch: Path, seed: int, quick: bool) -> None:
        demo = Demo(scratch, seed, quick)
        folder = demo.scored("pruned", allocator="global", bits=2.0)
        self._model, self._seed, self._quick = load_model(folder), seed, quick
        self._tokenizer = Tokenizer.from_folder(folder)
        self._windows = demo.windows
        self._odp = OdpPruning.from_records(read_manifest(folder).layers)
        text = demo_windows("train", DEMO_SIZE, seed)[: demo.samples]
        self._layers = list(measure_damage(self._model, text))
        self._fitted = [fit_router(layer) for layer in self._layers]
        self._reference = record(self._model, self._windows)
        self._whole = self._activated(NO_PRUNING)
        self._whole_stepwise = self._stepwise(NO_PRUNING)

    def ways(self) -> Iterator[tuple[str, Pruning]]:
        """Names, and what they stand for."""
        layers, odp = len(self._layers), self._odp
        yield "nothing skipped", NO_PRUNING
        yield "ODP: medians, 2 % protected", odp
        yield "ODP: medians, nobody protected", RatioPruning(odp.thresholds)
        for level in FIXED:
            yield f"ODP: {level} everywhere, 2 % protected", self._with((level,) * layers)
        for share in SAVINGS:
            yield from self._at(share)
        for score in (criteria.kurtosis, criteria.variance, criteria.mean):
            found = ScorePruning.at_quantile(score, self._layers, 2 * MILD)
            yield f"{score.__name__} of the token at {MILD:.0%}", found
        yield f"least important tokens without experts at {MILD:.0%}", TokenDropping(MILD)
        for share in PROTECTED:
            yield from self._protecting(share)

    def _at(self, share: float) -> Iterator[tuple[str, Pruning]]:
        """All at nearly equal savings."""
        yield f"w1/w0 at {share:.0%}, one quantile", self._quantiles(share)
        by_damage = RatioPruning(damage_thresholds(self._layers, share))
        yield f"w1/w0 at {share:.0%}, thresholds by damage", by_damage
        yield f"OTP at {share:.0%}", self._otp(share)
        yield f"OTP at {share:.0%}, by Gumbel-Softmax", self._trained(share)

    def _protecting(self, share: float) -> Iterator[tuple[str, Pruning]]:
        harsh, quantiles = self._quantiles(HARSH).thresholds, self._odp.quantiles
        name = f"w1/w0 at {HARSH:.0%}, {share:.0%} protected"
        yield f"{name} by Eq. 6", OdpPruning(harsh, quantiles, share)
        yield f"{name} by chance", RandomlyProtected(harsh, quantiles, share)

    def measured(self) -> Iterator[Pruned]:
        """Every way."""
        for name, pruning in self.ways():
            found = diverge(self._model, self._reference, pruning)
            stepwise = None
            if name in STEPWISE:
                stepwise = self._stepwise(pruning) / self._whole_stepwise
            yield Pruned(
                name=name,
                skipped=found.prune_ratio,
                saved=1 - self._activated(pruning) / self._whole,
                ratio=found.ratio.value,
                low=found.ratio.low,
                high=found.ratio.high,
                kl=found.kl.mean.value,
                stepwise=stepwise,
                answers=self._answers(pruning) if name in ANSWERING else {},
            )

    def _quantiles(self, share: float) -> ScorePruning:
        return ScorePruning.at_quantile(criteria.ratio, self._layers, 2 * share)

    def _with(self, thresholds: tuple[float, ...]) -> OdpPruning:
        return OdpPruning(thresholds, self._odp.quantiles)

    def _otp(self, share: float) -> OtpPruning:
        price = price_for([layer.foretold for layer in self._fitted], share)
        return OtpPruning(torch.stack([layer.router for layer in self._fitted]), price)

    def _trained(self, share: float) -> OtpPruning:
        """At the price of ours, and then moved to equal savings."""
        price = self._otp(share).price
        routers = [train_router(layer, price, self._seed) for layer in self._layers]
        foretold = [
            _says(router, layer) for router, layer in zip(routers, self._layers, strict=True)
        ]
        return OtpPruning(torch.stack(routers), price_for(foretold, share))

    def _activated(self, pruning: Pruning) -> float:
        counters = Counters(self._model)
        with torch.inference_mode():
            self._model.forward(self._windows[:8], None, pruning, counters)
        return counters.read().activated_params

    def _stepwise(self, pruning: Pruning) -> float:
        return perplexity(self._model, self._windows, pruning, stepwise=True).perplexity

    def _answers(self, pruning: Pruning) -> dict[str, float]:
        """Shares of exact answers: of facts, and of what was told far back."""
        if self._seed or self._quick:
            return {}
        skills, recall = (
            run_task(task, self._model, self._tokenizer, pruning) for task in DEMO_TASKS
        )
        facts = [share for name, share in skills.items() if name in corpus.FACTUAL_SKILLS]
        return {
            "skills": statistics.mean(skills.values()),
            "facts": statistics.mean(facts),
            "recall": next(iter(recall.values())),
        }


def _says(router: Tensor, layer: LayerDamage) -> Tensor:
    return features(layer.tokens, layer.weights) @ router.T


def run_seed(seed: int, quick: bool) -> list[Pruned]:
    """Every line with one seed; progress goes to stderr."""
    began, found = time.monotonic(), []
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        for row in Bench(Path(scratch), seed, quick).measured():
            found.append(row)
            said = f"seed {seed}, {time.monotonic() - began:4.0f} s: {row.name}"
            print(f"{said}, {row.skipped:.3f}, {row.ratio:.4f}", file=sys.stderr, flush=True)
    return found


def markdown(columns: Sequence[Sequence[Pruned]], said: str) -> str:
    """The table: medians over seeds, intervals and answers of the first."""
    lines = [
        "# What to skip",
        "",
        said,
        "The demo at 2 bits, one program over all layers; perplexity as a multiple of the same "
        "build's without pruning (95 % interval over windows, first seed). Savings are of the "
        "expert slots and of the activated parameters. Protection in a prompt sees later tokens; "
        "token by token, as in decoding, it does not. What protects nobody is the same both ways.",
        "",
        "| | slots skipped | parameters saved | perplexity | interval | KL | token by token "
        "| answers | facts | recall |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(rows) for rows in zip(*columns, strict=True)]
    return "\n".join(lines) + "\n"


def _line(rows: Sequence[Pruned]) -> str:
    first = rows[0]

    def middle(name: str) -> float:
        return float(statistics.median(getattr(row, name) for row in rows))

    stepwise = "" if first.stepwise is None else f"{middle('stepwise'):.4f}"
    answers = " | ".join(percent(first.answers.get(key)) for key in ("skills", "facts", "recall"))
    return (
        f"| {first.name} | {100 * middle('skipped'):.1f} % | {100 * middle('saved'):.1f} % "
        f"| {middle('ratio'):.4f} | {first.low:.4f} to {first.high:.4f} | {middle('kl'):.5f} "
        f"| {stepwise} | {answers} |"
    )


def main() -> None:
    """Make the table."""
    options = table_options(__doc__, "less text, one seed, no answers").parse_args()
    columns, data = each_seed(run_seed, options)
    data["seeds"] = [[asdict(row) for row in column] for column in columns]
    publish("pruning", markdown(columns, data["conditions"]), data, options)


if __name__ == "__main__":
    main()
