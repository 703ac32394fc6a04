"""Spreading a layer's bits over its experts: the integer program of PMQ and what it is
compared with.

The program (Eq. 4 of the paper), for one layer with n experts and widths j in {1, 2, 3}:

    minimise    sum_ij  phi_i^alpha * w_i^beta * (eps_ij * x_ij)^gamma
    subject to  one width per expert, sum of bits = n * k,
                at least one expert at 3 bits, at least one at 2 bits.

The baselines that rank experts by one signal solve the same program with that signal alone, so
that only the signal differs. Names that end in "-free" leave the last two constraints out.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite

import pulp

from engine.errors import AllocationError, UsageError
from engine.layout import EXPERT_WIDTHS
from engine.manifest import LayerRecord

FORCED_WIDTHS = (3, 2)
"""Widths that the paper's program gives to at least one expert each."""


@dataclass(frozen=True)
class LayerScores:
    """What calibration found out about the experts of one layer; tuples are per expert.

    ``frequency`` and ``routing_weight`` sum to 1; ``errors[expert]`` is eps at 1, 2 and 3 bits.
    """

    frequency: tuple[float, ...]
    routing_weight: tuple[float, ...]
    errors: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, record: LayerRecord) -> "LayerScores":
        """The scores that a finished checkpoint remembers."""
        return cls(record.frequency, record.routing_weight, record.errors)


@dataclass(frozen=True)
class Exponents:
    """alpha, beta and gamma of the program: the weights of frequency, routing weight and error."""

    alpha: float = 1.0
    beta: float = 1.5
    gamma: float = 2.0


@dataclass(frozen=True)
class Budget:
    """The bits of one layer: ``total`` over all experts; ``notes`` say what was rounded."""

    total: int
    forced: tuple[int, ...]
    notes: tuple[str, ...]


ALLOCATORS = (
    "pmq", "pmq-free", "uniform", "random", "frequency", "weight", "fnorm", "fnorm-free",
)  # fmt: skip


def check_allocator(name: str) -> None:
    """Raise UsageError, naming the choices, for an allocator that does not exist."""
    if name not in ALLOCATORS:
        raise UsageError(f"no allocator {name!r}; available: {', '.join(ALLOCATORS)}")


def plan_budget(allocator: str, bits: float, experts: int) -> Budget:
    """Turn a mean width of ``bits`` into whole bits for ``experts`` experts.

    Mean widths move in steps of 1/experts and are rounded to the nearest. Where the two forced
    widths cannot hold they are dropped. Both are said in the notes.
    Raises UsageError for a width outside 1 .. 3, AllocationError for a program without solution.
    """
    check_allocator(allocator)
    low, high = EXPERT_WIDTHS[0], EXPERT_WIDTHS[-1]
    if not low <= bits <= high:
        raise UsageError(f"--bits {bits:g} is not possible: choose between {low} and {high}")
    if allocator == "uniform":
        if bits != int(bits):
            raise AllocationError(
                f"uniform allocation cannot reach {bits:g} bits: choose 1, 2 or 3, or another "
                "allocator"
            )
        return Budget(int(bits) * experts, (), ())
    total = round(bits * experts)
    notes = []
    if total != bits * experts:
        notes.append(
            f"{bits:g} bits rounded to {total / experts:g}: {experts} experts move in steps of "
            f"1/{experts}"
        )
    forced = () if allocator.endswith("-free") else FORCED_WIDTHS
    if forced and not _feasible(total, experts, forced):
        notes.append(
            f"at {total / experts:g} bits no allocation has both a 3-bit and a 2-bit expert: "
            "the two constraints are dropped"
        )
        forced = ()
    return Budget(total, forced, tuple(notes))


def _feasible(total: int, experts: int, forced: tuple[int, ...]) -> bool:
    """Whether any allocation has this total and one expert of each forced width."""
    rest = experts - len(forced)
    left = total - sum(forced)
    return rest >= 0 and EXPERT_WIDTHS[0] * rest <= left <= EXPERT_WIDTHS[-1] * rest


def allocate(
    allocator: str,
    scores: LayerScores,
    budget: Budget,
    exponents: Exponents | None = None,
    seed: int | str = 0,
) -> tuple[int, ...]:
    """Width of each expert of a layer. ``seed`` matters to the random allocator only.

    Raises AllocationError when the budget cannot be met, UsageError for an unknown allocator.
    """
    check_allocator(allocator)
    experts = len(scores.errors)
    if not _feasible(budget.total, experts, budget.forced):
        raise AllocationError(
            f"{budget.total} bits cannot be spread over {experts} experts of "
            f"{EXPERT_WIDTHS[0]} to {EXPERT_WIDTHS[-1]} bits: choose another --bits"
        )
    if allocator == "uniform":
        return (budget.total // experts,) * experts
    if allocator == "random":
        return random_widths(experts, budget, random.Random(seed))
    return solve(costs(allocator, scores, exponents or Exponents()), budget)


def costs(allocator: str, scores: LayerScores, exponents: Exponents) -> list[list[float]]:
    """Cost of giving expert i the width EXPERT_WIDTHS[j]: rows are experts.

    A single-signal allocator replaces what it ignores by the layer's mean: ``frequency`` and
    ``weight`` see one error curve for all experts, ``fnorm`` sees only the errors.
    """
    gamma = exponents.gamma
    errors = [[error**gamma for error in row] for row in scores.errors]
    mean = [sum(column) / len(errors) for column in zip(*errors, strict=True)]
    frequency = [value**exponents.alpha for value in scores.frequency]
    weight = [value**exponents.beta for value in scores.routing_weight]
    if allocator == "frequency":
        return [[f * error for error in mean] for f in frequency]
    if allocator == "weight":
        return [[w * error for error in mean] for w in weight]
    if allocator.startswith("fnorm"):
        return errors
    return [
        [f * w * error for error in row]
        for f, w, row in zip(frequency, weight, errors, strict=True)
    ]


def solve(table: Sequence[Sequence[float]], budget: Budget) -> tuple[int, ...]:
    """The widths with the least total cost ``table[expert][width]`` under the budget.

    Experts whose costs are equal are interchangeable: the earlier ones get the more bits.
    Raises AllocationError when there is no solution or a cost is not a number.
    """
    scaled = _rescale(table)
    program = pulp.LpProblem("bits", pulp.LpMinimize)
    pick = [
        [program.add_variable(f"x_{i:03d}_{bits}", cat="Binary") for bits in EXPERT_WIDTHS]
        for i in range(len(scaled))
    ]
    program += pulp.lpSum(
        cost * x
        for row, xs in zip(scaled, pick, strict=True)
        for cost, x in zip(row, xs, strict=True)
    )
    for xs in pick:
        program += pulp.lpSum(xs) == 1
    spent = (bits * x for xs in pick for bits, x in zip(EXPERT_WIDTHS, xs, strict=True))
    program += pulp.lpSum(spent) == budget.total
    for bits in budget.forced:
        program += pulp.lpSum(xs[EXPERT_WIDTHS.index(bits)] for xs in pick) >= 1
    # One thread and no gap: the optimum, and the same one every time.
    status = program.solve(pulp.PULP_CBC_CMD(msg=False, threads=1, gapRel=0.0, gapAbs=0.0))
    if pulp.LpStatus[status] != "Optimal":
        raise AllocationError(
            f"the integer program for {budget.total} bits over {len(scaled)} experts has no "
            f"solution ({pulp.LpStatus[status].lower()}): choose another --bits or --allocator"
        )
    widths = [
        EXPERT_WIDTHS[max(range(len(xs)), key=lambda j: float(pulp.value(xs[j])))] for xs in pick
    ]
    return _order_ties(scaled, widths)


def _rescale(table: Sequence[Sequence[float]]) -> list[list[float]]:
    """Costs the solver can tell apart: products of three small powers fall below its tolerance.

    One width per expert is always taken, so a row's minimum is a constant; the rest is scaled so
    that the largest cost is 1000.
    """
    if not all(isfinite(cost) for row in table for cost in row):
        raise AllocationError(
            "the errors of the experts are not finite numbers: the source weights are damaged"
        )
    above = [[cost - min(row) for cost in row] for row in table]
    largest = max(cost for row in above for cost in row)
    return [[1000.0 * cost / largest for cost in row] for row in above] if largest > 0 else above


def _order_ties(table: list[list[float]], widths: list[int]) -> tuple[int, ...]:
    """Among experts with the same costs, sort the widths down by index."""
    ordered = list(widths)
    for row in {tuple(row) for row in table}:
        same = [i for i, other in enumerate(table) if tuple(other) == row]
        for i, bits in zip(same, sorted((widths[i] for i in same), reverse=True), strict=True):
            ordered[i] = bits
    return tuple(ordered)


def random_widths(experts: int, budget: Budget, rng: random.Random) -> tuple[int, ...]:
    """One of all allocations within the budget, each equally likely."""

    @cache
    def count(left: int, total: int, missing: tuple[int, ...]) -> int:
        if left == 0:
            return int(total == 0 and not missing)
        return sum(count(left - 1, total - b, _without(missing, b)) for b in EXPERT_WIDTHS)

    widths: list[int] = []
    total, missing = budget.total, tuple(sorted(budget.forced))
    for left in range(experts - 1, -1, -1):
        ways = [count(left, total - b, _without(missing, b)) for b in EXPERT_WIDTHS]
        (bits,) = rng.choices(EXPERT_WIDTHS, ways)
        widths.append(bits)
        total, missing = total - bits, _without(missing, bits)
    return tuple(widths)


def _without(missing: tuple[int, ...], bits: int) -> tuple[int, ...]:
    return tuple(width for width in missing if width != bits)
