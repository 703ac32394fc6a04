"""The methods that `benchmarks.quality` compares, and the text and the plot of what it found."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.demo_bench import percent
from compress.allocation import Exponents
from engine.budget import NOMINAL_BITS

GOAL = 0.6
GOAL_BITS = (2.0, 2.5)
"""The logarithm of our ratio should be at most so much of the paper's there."""

_STEPS = (1.5, 2.0, 2.5)
_WHOLE = (2.0, 3.0)


@dataclass(frozen=True)
class Method:
    """A way to build: rounding, allocation, and the rounding that eps is measured with.

    ``exponents`` None are the allocator's own; a ``step`` is a row of the second table.
    """

    name: str
    quantizer: str
    allocator: str
    scored_by: str
    bits: tuple[float, ...]
    exponents: Exponents | None = None
    step: bool = False


PAPER, OURS = "paper's PMQ", "ours"

METHODS = (
    Method(PAPER, "gptq", "pmq", "minmax", NOMINAL_BITS, Exponents(1.0, 1.5, 2.0), step=True),
    Method(OURS, "rotated", "global", "rotated", (*NOMINAL_BITS, 3.25), step=True),
    Method("authors' code", "authors", "pmq", "minmax", _STEPS, Exponents(1.0, 1.5, 1.0)),
    Method("uniform, GPTQ", "gptq", "uniform", "minmax", _WHOLE),
    Method("uniform, hqq", "hqq", "uniform", "minmax", _WHOLE),
    Method("PMQ, eps by GPTQ", "gptq", "pmq", "gptq", _STEPS, step=True),
    Method("one program over all layers", "gptq", "global", "gptq", _STEPS, step=True),
    Method("and coordinate descent", "refined", "global", "refined", _STEPS, step=True),
    Method("and up's rows fitted", "corrected", "global", "corrected", _STEPS, step=True),
    Method("uniform, rotated", "rotated", "uniform", "rotated", _WHOLE),
    Method("PMQ, rotated", "rotated", "pmq", "rotated", _STEPS),
)
"""`ours`, the last of the steps: in the basis of Hadamard matrices, without zero points."""


@dataclass(frozen=True)
class Point:
    """One build with one calibration seed beside the original.

    ``log_ratio``: logarithm of perplexity over the original's, 95 % sure within ``log_low`` and
    ``log_high`` (over windows); ``kl`` in nats per token; ``agreement``, ``skills`` and ``recall``
    are shares, 0 to 1; ``bytes`` of the whole checkpoint. ``even``: of the demo as it was trained.
    """

    method: str
    bits: float
    seed: int
    even: bool
    nominal_bits: float
    bits_per_expert_weight: float
    bytes: int
    log_ratio: float
    log_low: float
    log_high: float
    kl: float
    agreement: float
    skills: float
    recall: float


class Found:
    """The points by method and width."""

    def __init__(self, points: Sequence[Point], even: bool = False) -> None:
        self._points: dict[tuple[str, float], list[Point]] = {}
        for point in (point for point in points if point.even == even):
            self._points.setdefault((point.method, point.bits), []).append(point)

    def widths(self, method: str) -> list[float]:
        """The widths that a method was measured at."""
        return sorted(bits for name, bits in self._points if name == method)

    def seeds(self, method: str, bits: float) -> list[Point]:
        """One point a seed."""
        return self._points[method, bits]

    def median(self, method: str, bits: float, field: str) -> float:
        """Of one figure, over seeds."""
        return statistics.median(getattr(point, field) for point in self.seeds(method, bits))

    def curve(self, method: str) -> list[tuple[float, float]]:
        """Bits per expert weight and logarithm of the ratio, medians, by width."""
        fields = ("bits_per_expert_weight", "log_ratio")
        return [
            (self.median(method, bits, fields[0]), self.median(method, bits, fields[1]))
            for bits in self.widths(method)
        ]


def markdown(points: Sequence[Point], conditions: str) -> str:
    """All tables."""
    found = Found(points)
    lines = [
        "# Quality per byte on the demo",
        "",
        f"{conditions} Medians over seeds; ln(ratio) with least and greatest seed, and the 95 % "
        "interval over windows of the median seed. Bits per expert weight count codes, scales and "
        "zero points; bytes the whole checkpoint.",
        "",
        "![ln(ratio) by bits per expert weight](../../docs/images/quality.png)",
        "",
        "| | nominal | bits per expert weight | MB | ln(ratio) | seeds | interval | KL "
        "| same top-1 | skills | recall |",
        "|---" * 11 + "|",
    ]
    for method in METHODS:
        lines += (_row(found, method.name, bits) for bits in found.widths(method.name))
    lines += _steps(found)
    if any(point.even for point in points):
        lines += _evened(Found(points, even=True))
    lines += ["", *(f"- {claim}" for claim in claims(found))]
    return "\n".join(lines) + "\n"


def _row(found: Found, method: str, bits: float) -> str:
    seeds = sorted(found.seeds(method, bits), key=lambda point: point.log_ratio)
    middle = seeds[len(seeds) // 2]

    def of(field: str) -> float:
        return found.median(method, bits, field)

    return (
        f"| {method} | {of('nominal_bits'):g} | {of('bits_per_expert_weight'):.3f} "
        f"| {of('bytes') / 1e6:.2f} | {of('log_ratio'):.4f} "
        f"| {seeds[0].log_ratio:.4f} to {seeds[-1].log_ratio:.4f} "
        f"| {middle.log_low:.4f} to {middle.log_high:.4f} | {of('kl'):.4f} "
        f"| {100 * of('agreement'):.1f} % | {percent(of('skills'))} | {percent(of('recall'))} |"
    )


def _steps(found: Found) -> Iterator[str]:
    """What each step from the paper's method to ours brings, at the same nominal bits."""
    widths = [bits for bits in _STEPS if bits in found.widths(OURS)]
    yield from ("", "From the paper's method to ours, ln(ratio) and bits per expert weight:", "")
    yield f"| | {' | '.join(f'{bits:g} bits' for bits in widths)} |"
    yield "|---" * (len(widths) + 1) + "|"
    for method in sorted(METHODS, key=lambda method: method.name == OURS):
        if method.step and found.widths(method.name):
            cells = [_cell(found, method.name, bits) for bits in widths]
            yield f"| {method.name} | {' | '.join(cells)} |"


def _evened(found: Found) -> Iterator[str]:
    """The demo without its uneven channels."""
    widths = sorted({bits for method in METHODS for bits in found.widths(method.name)})
    yield from ("", "The demo as it was trained, its channels even, ln(ratio) and bits:", "")
    yield f"| | {' | '.join(f'{bits:g} bits' for bits in widths)} |"
    yield "|---" * (len(widths) + 1) + "|"
    for method in METHODS:
        own = found.widths(method.name)
        cells = [_cell(found, method.name, bits) if bits in own else "" for bits in widths]
        if own:
            yield f"| {method.name} | {' | '.join(cells)} |"


def _cell(found: Found, method: str, bits: float) -> str:
    size = found.median(method, bits, "bits_per_expert_weight")
    return f"{found.median(method, bits, 'log_ratio'):.4f} at {size:.3f}"


def claims(found: Found) -> Iterator[str]:
    """The goals, and whether they are met."""
    for bits in GOAL_BITS:
        if bits in found.widths(OURS) and bits in found.widths(PAPER):
            share = found.median(OURS, bits, "log_ratio") / found.median(PAPER, bits, "log_ratio")
            fewer = found.median(OURS, bits, "bytes") <= found.median(PAPER, bits, "bytes")
            verdict = "met" if share <= GOAL and fewer else "MISSED"
            bytes_ = "no more bytes" if fewer else "MORE bytes"
            yield (
                f"ln(ratio) of ours at {bits:g} bits is {share:.2f} of the paper's PMQ at {bytes_} "
                f"(goal {GOAL:g}): {verdict}"
            )
    above = [
        f"{method.name} at {x:.3f} bits"
        for method in METHODS
        if method.name != OURS
        for x, y in found.curve(method.name)
        if not y > at(found.curve(OURS), x)
    ]
    yield "our curve lies below every other point: " + (
        f"NO, not below {', '.join(above)}" if above else "yes"
    )


def at(curve: Sequence[tuple[float, float]], x: float) -> float:
    """A curve's value at x: straight between points in the logarithm of ln(ratio), nothing known
    to the left of the first (infinite), flat to the right of the last."""
    if x < curve[0][0]:
        return math.inf
    for (left, low), (right, high) in pairwise(curve):
        if left <= x <= right:
            share = (x - left) / (right - left) if right > left else 0.0
            if low <= 0 or high <= 0:  # too close to the original for a logarithm
                return low + share * (high - low)
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return curve[-1][1]


_SMALLEST = 2e-4
"""What is drawn at least: below, a build cannot be told from the original."""


def draw(points: Sequence[Point], path: Path) -> None:
    """ln(ratio) by bits per expert weight, as a PNG. Needs matplotlib, of the extra `bench`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = Found(points)
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for method in METHODS:
        curve = found.curve(method.name)
        if not curve:
            continue
        xs, ys = zip(*((x, max(y, _SMALLEST)) for x, y in curve), strict=True)
        bold = method.name in (PAPER, OURS)
        axes.plot(
            xs, ys, marker="o", markersize=5 if bold else 3, linewidth=2 if bold else 0.8,
            label=method.name,
        )  # fmt: skip
        if bold:
            low, high = (
                [
                    max(pick(p.log_ratio for p in found.seeds(method.name, bits)), _SMALLEST)
                    for bits in found.widths(method.name)
                ]
                for pick in (min, max)
            )
            axes.fill_between(xs, low, high, alpha=0.15, linewidth=0)
    axes.set_yscale("log")
    axes.set_xlabel("bits per expert weight: codes, scales and zero points")
    axes.set_ylabel("ln(perplexity / perplexity in 16 bits)")
    axes.set_title("the demo, held-out text; lower is better")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
