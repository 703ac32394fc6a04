"""The text and the plot of the allocators' table, from its points."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.demo_bench import percent, spread

PAPER_EXACT = (3.84, 71.29)
"""Mixtral 8x7B in 16 bits: perplexity of WikiText-2, mean of eight zero-shot tasks in per cent."""


@dataclass(frozen=True)
class Printed:
    """A row of the paper: the same two figures for an allocator, None where it gives none.

    ``label`` is the width as the paper prints it. Where widths are mixed it counts attention's 4
    bits too; ``bits`` does without them.
    """

    name: str
    label: float
    perplexity: float | None
    score: float | None = None

    @property
    def bits(self) -> float:
        """Mean code bits of the experts."""
        return self.label if self.name == "uniform" else (self.label - 0.116) / 0.971


PAPER = (
    Printed("pmq", 2.54, 5.09, 67.50),
    Printed("pmq", 2.42, 5.25),
    Printed("pmq", 2.30, 5.45),
    Printed("pmq", 2.20, 5.72),
    Printed("pmq", 2.05, 5.91, 63.25),
    Printed("pmq", 1.94, 6.49),
    Printed("pmq", 1.81, 6.81),
    Printed("pmq", 1.69, 7.78),
    Printed("pmq", 1.57, 8.50, 54.49),
    Printed("hessian", 2.54, 5.41),
    Printed("hessian", 2.05, 6.65),
    Printed("hessian", 1.57, 14.20),
    Printed("bsp", 2.54, 13.61),
    Printed("uniform", 2.0, 16.38, 42.67),
    Printed("uniform", 3.0, None, 69.09),
)
_NEAR = 0.02
"""A row of the paper stands beside a width at most so many bits away."""

_SHOWN = ("pmq", "pmq-free", "global", "fnorm-free", "hessian", "random", "uniform", "bsp")
"""What is drawn: the plain rankings by one signal would hide the rest."""


Cell = Callable[[str, float], str]
"""The text of a row's cell at a width."""


@dataclass(frozen=True)
class Point:
    """One allocation at one width with one calibration seed; ``name`` is its row in ``table``.

    ``bits`` were asked for; ``skills`` is the mean share of exact answers, 0 to 1.
    """

    table: str
    name: str
    bits: float
    seed: int
    nominal_bits: float
    bits_per_expert_weight: float
    perplexity: float
    skills: float


class Found:
    """The points, by table, row and width; ``exact`` is the 16-bit model's first."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.exact = next(point for point in points if point.table == "original")
        self._points: dict[tuple[str, str, float], list[Point]] = {}
        for point in points:
            self._points.setdefault((point.table, point.name, point.bits), []).append(point)

    def seeds(self, table: str, name: str, bits: float) -> list[Point]:
        """One point a seed; none where it was not measured."""
        return self._points.get((table, name, bits), [])

    def names(self, table: str) -> list[str]:
        """The rows of a table, in the order they were measured."""
        return list(dict.fromkeys(name for where, name, _ in self._points if where == table))

    def widths(self, table: str) -> list[float]:
        """The widths of a table, in bits."""
        return sorted({bits for where, _, bits in self._points if where == table})

    def ratios(self, table: str, name: str, bits: float) -> list[float]:
        """Perplexity as a multiple of the 16-bit model's, one a seed."""
        return [point.perplexity / self.exact.perplexity for point in self.seeds(table, name, bits)]

    def ratio(self, table: str, name: str, bits: float) -> float:
        """Median over seeds."""
        return statistics.median(self.ratios(table, name, bits))

    def skills(self, table: str, name: str, bits: float) -> float:
        """Median over seeds of the mean share of exact answers."""
        return statistics.median(point.skills for point in self.seeds(table, name, bits))


def markdown(points: Sequence[Point], conditions: str) -> str:
    """All tables."""
    found = Found(points)
    lines = [
        "# How the bits are spread: every allocator on the demo",
        "",
        f"{conditions} Skills: mean share of exact answers over thirteen skills.",
        f"16-bit: perplexity {found.exact.perplexity:.3f}, skills {percent(found.exact.skills)}.",
        "",
        "![perplexity and skills by width](allocation.png)",
    ]
    lines += _matrices(found)
    lines += _beside_the_paper(found)
    lines += _exponents(found)
    lines += _kinds_of_error(found)
    lines += ["", *(f"- {claim}" for claim in claims(found))]
    return "\n".join(lines) + "\n"


def _matrices(found: Found) -> Iterator[str]:
    """Allocators by widths: perplexity, skills, stored bits."""
    table = "allocators"
    yield from _matrix(
        "Perplexity, as a multiple of the 16-bit model's, by mean code bits of the experts:",
        found,
        lambda name, bits: spread(found.ratios(table, name, bits)),
    )
    yield from _matrix(
        "Skills, median over seeds:",
        found,
        lambda name, bits: percent(found.skills(table, name, bits)),
    )
    yield from _matrix(
        "Bits per expert weight: codes, scales and zero points. `global` fills the bytes of an "
        "even spread, the others its code bits:",
        found,
        lambda name, bits: f"{found.seeds(table, name, bits)[0].bits_per_expert_weight:.3f}",
    )


def _matrix(title: str, found: Found, cell: Cell) -> Iterator[str]:
    table = "allocators"
    widths = found.widths(table)
    yield from ("", title, "", "| | " + " | ".join(f"{bits:g}" for bits in widths) + " |")
    yield "|---" * (len(widths) + 1) + "|"
    for name in found.names(table):
        cells = [cell(name, bits) if found.seeds(table, name, bits) else "" for bits in widths]
        yield f"| {name} | {' | '.join(cells)} |"


def _beside_the_paper(found: Found) -> Iterator[str]:
    exact, exact_score = PAPER_EXACT
    yield from (
        "",
        "Beside what the paper printed for Mixtral 8x7B (perplexity of WikiText-2, mean",
    )
    yield from (f"of eight zero-shot tasks; 16-bit: {exact}, {exact_score}):", "")
    yield "| | bits | the paper's bits | perplexity, demo, ratio | paper | paper, ratio " + (
        "| skills, demo, share of 16-bit | paper | paper, share of 16-bit |"
    )
    yield "|---" * 9 + "|"
    for row in PAPER:
        widths = [
            bits
            for bits in found.widths("allocators")
            if abs(bits - row.bits) <= _NEAR and found.seeds("allocators", row.name, bits)
        ]
        for bits in widths:
            yield _paper_row(found, row, bits)


def _paper_row(found: Found, row: Printed, bits: float) -> str:
    exact, exact_score = PAPER_EXACT
    ours = f"{found.ratio('allocators', row.name, bits):.3f}"
    kept = percent(found.skills("allocators", row.name, bits) / found.exact.skills)
    printed = "" if row.perplexity is None else f"{row.perplexity:.2f}"
    ratio = "" if row.perplexity is None else f"{row.perplexity / exact:.3f}"
    zero_shot = "" if row.score is None else f"{row.score:.2f}"
    share = percent(None if row.score is None else row.score / exact_score)
    label = f"{row.label:g}" if row.name == "uniform" else f"{row.label:.2f}"
    return (
        f"| {row.name} | {bits:g} | {label} | {ours} | {printed} | {ratio} | {kept} "
        f"| {zero_shot} | {share} |"
    )


def _exponents(found: Found) -> Iterator[str]:
    yield from ("", "alpha, beta and gamma (perplexity, ratio to 16-bit; the first of each program")
    yield "is its default, 0, 0, 2 is eps alone):"
    yield from _listed(found, "exponents")


def _kinds_of_error(found: Found) -> Iterator[str]:
    yield from ("", "eps on the block's output, and on the model's (logits):")
    widths = found.widths("errors")
    heads = [f"{bits:g}, {kind}" for bits in widths for kind in ("block", "model")]
    yield from ("", f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|")
    for name in found.names("errors"):
        cells = [
            spread(found.ratios(table, name, bits))
            for bits in widths
            for table in ("allocators", "errors")
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def _listed(found: Found, table: str) -> Iterator[str]:
    widths = found.widths(table)
    yield from ("", f"| | {' | '.join(f'{bits:g}' for bits in widths)} |")
    yield "|---" * (len(widths) + 1) + "|"
    for name in found.names(table):
        cells = [spread(found.ratios(table, name, bits)) for bits in widths]
        yield f"| {name} | {' | '.join(cells)} |"


def claims(found: Found) -> Iterator[str]:
    """What the tables were made to show, by median perplexity, with the widths that say no."""
    table = "allocators"
    pairs = [("pmq", "random"), ("pmq", "hessian"), ("pmq-free", "pmq"), ("global", "pmq-free")]
    for better, worse in pairs:
        widths = [
            bits
            for bits in found.widths(table)
            if found.seeds(table, better, bits) and found.seeds(table, worse, bits)
        ]
        broken = [
            f"{bits:g}"
            for bits in widths
            if found.ratio(table, better, bits) > found.ratio(table, worse, bits)
        ]
        if widths:
            verdict = f"NO at {', '.join(broken)} bits" if broken else "yes"
            yield f"{better} is not above {worse}: {verdict}"


def draw(points: Sequence[Point], path: Path) -> None:
    """Perplexity and skills by width, and what the paper printed, as a PNG.

    Needs matplotlib, which the extra `bench` brings.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = Found(points)
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    for name in _SHOWN:
        widths = [
            bits for bits in found.widths("allocators") if found.seeds("allocators", name, bits)
        ]
        style = {"marker": "o", "markersize": 4, "label": name}
        if len(widths) < 3:
            style["linestyle"] = "none"
        ratios = [found.ratios("allocators", name, bits) for bits in widths]
        (line,) = left.plot(widths, [statistics.median(several) for several in ratios], **style)
        left.fill_between(
            widths, [min(s) for s in ratios], [max(s) for s in ratios],
            color=line.get_color(), alpha=0.15, linewidth=0,
        )  # fmt: skip
        shares = [100 * found.skills("allocators", name, bits) for bits in widths]
        middle.plot(widths, shares, color=line.get_color(), **style)
        printed = sorted(
            (row.bits, row.perplexity / PAPER_EXACT[0])
            for row in PAPER
            if row.name == name and row.perplexity is not None
        )
        if printed:
            right.plot(*zip(*printed, strict=True), color=line.get_color(), **style)
    for axes in (left, right):
        axes.axhline(1.0, color="grey", linewidth=0.8, linestyle=":")
        axes.set_yscale("log")
        for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            ticks("{x:g}")
        axes.set_ylabel("perplexity / perplexity in 16 bits")
    middle.axhline(100 * found.exact.skills, color="grey", linewidth=0.8, linestyle=":")
    middle.set_ylabel("exact answers, mean over skills, %")
    left.set_title("the demo: perplexity")
    middle.set_title("the demo: skills")
    right.set_title("the paper: Mixtral 8x7B, WikiText-2")
    for axes in (left, middle, right):
        axes.set_xlabel("mean code bits of the experts")
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
