"""Spreading a layer's bits over its experts: the integer program of PMQ and what it is
compared with.

The program (Eq. 4 of the paper), for one layer with n experts and widths j in {1, 2, 3}:

    minimise    sum_ij  phi_i^alpha * w_i^beta * (eps_ij * x_ij)^gamma
    subject to  one width per expert, sum of bits = n * k,
                at least one expert at 3 bits, at least one at 2 bits.

The baselines that rank experts by one signal solve the same program with that signal alone, so
that only the signal differs; `hessian` (HAWQ-v2) goes by the mean trace of each matrix's Hessian
times its squared rounding error. Names that end in "-free" leave the last two constraints out.
"""

import random
from collections.abc import Sequence
from functools import cache
from math import isfinite

import pulp

from compress.allocation.budgets import WIDTHS, Budget
from compress.allocation.scores import Exponents, LayerScores
from compress.allocator_names import check_allocator, needs_all_layers
from engine.errors import AllocationError


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
    if needs_all_layers(allocator):
        raise ValueError(f"{allocator} decides on all layers at once")
    experts = len(scores.frequency)
    if not budget.is_feasible(experts):
        raise AllocationError(
            f"{budget.total} bits cannot be spread over {experts} experts of "
            f"{budget.widths[0]} to {budget.widths[-1]} bits: choose another --bits"
        )
    if allocator == "uniform":
        return (budget.total // experts,) * experts
    if allocator == "random":
        return random_widths(experts, budget, random.Random(seed))
    table = costs(allocator, scores, exponents or Exponents(), budget.widths)
    return solve(table, budget)


def costs(
    allocator: str, scores: LayerScores, exponents: Exponents, widths: Sequence[int] = WIDTHS
) -> list[list[float]]:
    """Cost of giving expert i the width ``widths[j]``: rows are experts.

    A single-signal allocator replaces what it ignores by the layer's mean: ``frequency`` and
    ``weight`` see one error curve for all experts, ``fnorm`` sees only the errors. ``hessian``'s
    are squares already and take no exponent.
    """
    if allocator == "hessian":
        return scores.trace_errors_at(widths)
    gamma = exponents.gamma
    errors = [[error**gamma for error in row] for row in scores.errors_at(widths)]
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
        [program.add_variable(f"x_{i:03d}_{bits}", cat="Binary") for bits in budget.widths]
        for i in range(len(scaled))
    ]
    program += pulp.lpSum(
        cost * x
        for row, xs in zip(scaled, pick, strict=True)
        for cost, x in zip(row, xs, strict=True)
    )
    for xs in pick:
        program += pulp.lpSum(xs) == 1
    spent = (bits * x for xs in pick for bits, x in zip(budget.widths, xs, strict=True))
    program += pulp.lpSum(spent) == budget.total
    for bits in budget.forced:
        program += pulp.lpSum(xs[budget.widths.index(bits)] for xs in pick) >= 1
    # One thread and no gap: the optimum, and the same one every time.
    status = program.solve(pulp.PULP_CBC_CMD(msg=False, threads=1, gapRel=0.0, gapAbs=0.0))
    if pulp.LpStatus[status] != "Optimal":
        raise AllocationError(
            f"the integer program for {budget.total} bits over {len(scaled)} experts has no "
            f"solution ({pulp.LpStatus[status].lower()}): choose another --bits or --allocator"
        )
    widths = [
        budget.widths[max(range(len(xs)), key=lambda j: float(pulp.value(xs[j])))] for xs in pick
    ]
    return order_ties(scaled, widths)


def check_finite(table: Sequence[Sequence[float]]) -> None:
    """Raise AllocationError when a cost is not a number."""
    if not all(isfinite(cost) for row in table for cost in row):
        raise AllocationError(
            "the errors of the experts are not finite numbers: the source weights are damaged"
        )


def _rescale(table: Sequence[Sequence[float]]) -> list[list[float]]:
    """Costs the solver can tell apart: products of three small powers fall below its tolerance.

    One width per expert is always taken, so a row's minimum is a constant; the rest is scaled so
    that the largest cost is 1000.
    """
    check_finite(table)
    above = [[cost - min(row) for cost in row] for row in table]
    largest = max(cost for row in above for cost in row)
    return [[1000.0 * cost / largest for cost in row] for row in above] if largest > 0 else above


def order_ties(table: Sequence[Sequence[float]], widths: Sequence[int]) -> tuple[int, ...]:
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
        return sum(count(left - 1, total - b, _without(missing, b)) for b in budget.widths)

    widths: list[int] = []
    total, missing = budget.total, tuple(sorted(budget.forced))
    for left in range(experts - 1, -1, -1):
        ways = [count(left, total - b, _without(missing, b)) for b in budget.widths]
        (bits,) = rng.choices(budget.widths, ways)
        widths.append(bits)
        total, missing = total - bits, _without(missing, bits)
    return tuple(widths)


def _without(missing: tuple[int, ...], bits: int) -> tuple[int, ...]:
    return tuple(width for width in missing if width != bits)
