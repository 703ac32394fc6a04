"""Whether an expert's gate and up should have another width than its down: on the demo.

    python -m benchmarks.matrix_widths [--quick] [--json] [--seeds N]

The global program chooses, at the same bytes, among one width per expert or among all pairs of
widths, one for gate and up, one for down. Experts alone are rounded, as `--quantizer rotated` does
it; attention stays as it is, so that nothing else differs. Both the demo and the demo as it was
trained, with even channels.
"""

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch

from assets import DEMO_DIR
from benchmarks.demo_bench import (
    QUICK_SAMPLES,
    QUICK_WINDOWS,
    each_seed,
    evened,
    publish,
    table_options,
)
from compress import streams
from compress.allocation import ModelBudget
from compress.allocation.whole import fill
from compress.calibration import DEMO_SIZE, CalibrationSize, demo_windows
from compress.evaluation import DEMO_SEED, DEMO_WINDOWS
from compress.evaluation.divergence import diverge, record
from compress.expert_rounding import ExpertRounding
from compress.projection import chunk_of
from compress.quantizers import quantizer, scoring_quantizer
from compress.routed import Expert, MoeBlock, StreamedExperts
from compress.source import open_folder
from compress.streams import Stream, StreamStore
from engine.attention import Rope
from engine.checkpoint import load_model
from engine.experts import FloatExperts
from engine.layout import PackedShape
from engine.model import Layer, Model
from engine.tensor_names import EMBEDDING

BITS = (1.5, 1.75, 2.0, 2.25, 2.5)
QUICK_BITS = (1.5,)
GROUP = 128
CPU = torch.device("cpu")
WIDTHS = (1, 2, 3)
QUANTIZER = "rotated"

Pair = tuple[int, int]
"""Bits of gate and up, bits of down."""

CHOICES: dict[str, tuple[Pair, ...]] = {
    "one width per expert": tuple((bits, bits) for bits in WIDTHS),
    "one per matrix": tuple(product(WIDTHS, WIDTHS)),
}


@dataclass(frozen=True)
class Point:
    """``log_ratio`` of perplexities to 16 bits; ``unequal`` is the share of experts whose matrices
    have different widths."""

    choice: str
    bits: float
    seed: int
    even: bool
    expert_bytes: int
    log_ratio: float
    kl: float
    unequal: float


class Bench:
    """A model's experts rounded with one calibration seed."""

    def __init__(self, folder: Path, scratch: Path, seed: int, quick: bool) -> None:
        self._folder, self._scratch, self._seed = folder, scratch, seed
        self._source = open_folder(folder)
        config = self._source.config
        samples = QUICK_SAMPLES if quick else DEMO_SIZE.samples
        self._tokens = demo_windows("train", CalibrationSize(samples, DEMO_SIZE.window), seed)
        count = QUICK_WINDOWS if quick else DEMO_WINDOWS
        windows = demo_windows("heldout", CalibrationSize(count, config.max_context), DEMO_SEED)
        self._reference = record(load_model(folder), windows)
        self._rope = Rope(config, CPU).at(0, self._tokens.shape[1])
        hidden, inner = config.hidden_size, config.intermediate_size
        self._prices = {
            (a, b): 2 * PackedShape(inner, hidden, a, GROUP, True).total_bytes
            + PackedShape(hidden, inner, b, GROUP, True).total_bytes
            for a, b in product(WIDTHS, WIDTHS)
        }

    @torch.inference_mode()
    def points(self, widths: Sequence[float], even: bool) -> list[Point]:
        """Both choices at each width."""
        errors = self._errors()
        found = []
        for bits, (choice, pairs) in product(widths, CHOICES.items()):
            chosen = self._allocate(errors, pairs, bits)
            divergence = diverge(self._rounded(chosen), self._reference)
            everyone = [pair for layer in chosen for pair in layer]
            found.append(
                Point(
                    choice=choice,
                    bits=bits,
                    seed=self._seed,
                    even=even,
                    expert_bytes=sum(self._prices[pair] for pair in everyone),
                    log_ratio=divergence.log_ratio.value,
                    kl=divergence.kl.mean.value,
                    unequal=sum(a != b for a, b in everyone) / len(everyone),
                )
            )
        return found

    def _allocate(
        self, errors: Sequence[Sequence[dict[Pair, float]]], pairs: Sequence[Pair], bits: float
    ) -> list[list[Pair]]:
        """The global program over these pairs, at the bytes that ``bits`` for everyone take."""
        ordered = sorted(pairs, key=self._prices.__getitem__)
        low, high = int(bits), min(int(bits) + 1, WIDTHS[-1])
        narrow, wide = self._prices[low, low], self._prices[high, high]
        experts = sum(len(layer) for layer in errors)
        total = experts * round(narrow + (bits - low) * (wide - narrow))
        prices = tuple(self._prices[pair] for pair in ordered)
        budget = ModelBudget(total, prices, (), tuple(range(len(ordered))))
        table = [[row[pair] ** 2 for pair in ordered] for layer in errors for row in layer]
        picked = iter(fill(table, budget))
        return [[ordered[next(picked)] for _ in layer] for layer in errors]

    def _errors(self) -> list[list[dict[Pair, float]]]:
        """eps of each expert at each pair, over the norm of the exact stream behind its layer."""
        store, stream = self._begin("exact")
        found = []
        for index in range(self._source.config.num_layers):
            _, experts, block, mixed = self._enter(index, store, stream)
            rows = []
            for k in range(experts.count):
                expert = experts.read(k)
                rounding = ExpertRounding(block, k, scoring_quantizer(QUANTIZER), GROUP)
                gate_ups, _ = rounding.gate_up(expert, WIDTHS)
                downs, _ = rounding.down(expert, WIDTHS)
                trials = {
                    (a, b): expert.replaced(gate_up.dequantize(), down.dequantize())
                    for (a, gate_up), (b, down) in product(
                        zip(WIDTHS, gate_ups, strict=True), zip(WIDTHS, downs, strict=True)
                    )
                }
                rows.append(_changes(block, k, expert, trials, mixed))
            norm = stream.add(mixed) ** 0.5
            found.append([{pair: eps / norm for pair, eps in row.items()} for row in rows])
        return found

    def _rounded(self, chosen: Sequence[Sequence[Pair]]) -> Model:
        """The model with its experts rounded, each layer behind the rounded ones before it."""
        store, stream = self._begin("rounded")
        model = load_model(self._folder)
        for index, pairs in enumerate(chosen):
            _, experts, block, mixed = self._enter(index, store, stream)
            rounded = []
            for k, (a, b) in enumerate(pairs):
                expert = experts.read(k)
                rounding = ExpertRounding(block, k, quantizer(QUANTIZER), GROUP)
                (gate_up,), _ = rounding.gate_up(expert, (a,))
                expert = expert.replaced(gate_up=gate_up.dequantize())
                (down,), _ = rounding.down(expert, (b,))
                expert = expert.replaced(down=down.dequantize())
                _changes(block, k, expert, {}, mixed)
                rounded.append(expert)
            stream.add(mixed)
            model.layers[index].experts = _stacked(rounded)
        return model

    def _begin(self, name: str) -> tuple[StreamStore, Stream]:
        shape = (*self._tokens.shape, self._source.config.hidden_size)
        store = StreamStore(self._scratch, name, shape, "host", CPU)
        return store, store.begin(self._tokens, self._source.half(EMBEDDING))

    def _enter(
        self, index: int, store: StreamStore, stream: Stream
    ) -> tuple[Layer, StreamedExperts, MoeBlock, Stream]:
        """Move the stream past a layer's attention: the layer, its experts, its block, and zeros
        to add the block's output up in."""
        layer = self._source.layer(index)
        assert isinstance(layer.experts, StreamedExperts)
        streams.attend(layer, stream, stream, self._rope)
        return layer, layer.experts, MoeBlock.of(layer, stream), store.scratch()


def _changes(
    block: MoeBlock, index: int, expert: Expert, trials: dict[Pair, Expert], mixed: Stream
) -> dict[Pair, float]:
    """eps of each trial in an expert's place; the expert's output is added to ``mixed``."""
    tokens, weights = block.routed(index)
    squares = dict.fromkeys(trials, 0.0)
    for part, x in block.inputs(tokens, chunk_of(expert.down.shape[1])):
        weight = weights[part].unsqueeze(1)  # [t, 1]
        own = expert.forward(x)
        for pair, trial in trials.items():
            squares[pair] += float(((trial.forward(x) - own) * weight).square().sum())
        mixed.add_rows(tokens[part], own * weight)
    return {pair: square**0.5 for pair, square in squares.items()}


def _stacked(experts: Sequence[Expert]) -> FloatExperts:
    """Experts as a model has them."""
    gates, ups = zip(*(expert.gate_up.float().chunk(2) for expert in experts), strict=True)
    downs = [expert.down.float() for expert in experts]
    return FloatExperts(torch.stack(gates), torch.stack(ups), torch.stack(downs))


def run_seed(seed: int, quick: bool) -> list[Point]:
    """Every point with one seed."""
    found = []
    for even in (False, True):
        with tempfile.TemporaryDirectory() as scratch:
            source = evened(Path(scratch) / "even") if even else DEMO_DIR
            bench = Bench(source, Path(scratch), seed, quick)
            found += bench.points(QUICK_BITS if quick else BITS, even)
    return found


def markdown(points: Sequence[Point], conditions: str) -> str:
    """ln(ratio) and KL of both choices, medians over seeds."""
    lines = [
        "# A width for each matrix?",
        "",
        f"{conditions} ln(perplexity / 16-bit), KL divergence in nats; experts alone are rounded.",
        "",
        f"| demo | bits | {' | '.join(CHOICES)} | experts with two widths |",
        "|---" * (3 + len(CHOICES)) + "|",
    ]
    for even, bits in sorted({(point.even, point.bits) for point in points}):
        own = [point for point in points if (point.even, point.bits) == (even, bits)]
        cells = [_cell([point for point in own if point.choice == choice]) for choice in CHOICES]
        unequal = statistics.median(point.unequal for point in own if point.unequal)
        demo = "even channels" if even else "as it ships"
        lines.append(f"| {demo} | {bits:g} | {' | '.join(cells)} | {unequal:.0%} |")
    return "\n".join(lines) + "\n"


def _cell(seeds: Sequence[Point]) -> str:
    ratio = statistics.median(point.log_ratio for point in seeds)
    return f"{ratio:.4f}, {statistics.median(point.kl for point in seeds):.4f}"


def main() -> None:
    """Make the table."""
    options = table_options(__doc__, "one width, one seed, less text").parse_args()
    columns, said = each_seed(run_seed, options)
    points = [point for column in columns for point in column]
    data = {**said, "points": [asdict(point) for point in points]}
    publish("matrix_widths", markdown(points, said["conditions"]), data, options)


if __name__ == "__main__":
    main()
