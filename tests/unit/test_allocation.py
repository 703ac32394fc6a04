"""The integer program against every allocation of a small layer."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest

from compress.allocation import (
    WIDEST_WIDTHS,
    WIDTHS,
    Budget,
    Exponents,
    LayerScores,
    allocate,
    costs,
    plan_budget,
    random_widths,
    solve,
    widths_for,
)
from compress.allocator_names import (
    ALLOCATOR_NAMES,
    allocator_words,
    default_allocator,
    needs_all_layers,
)
from engine.errors import AllocationError, UsageError

PER_LAYER = [name for name in ALLOCATOR_NAMES if not needs_all_layers(name)]


def random_scores(seed: int, experts: int) -> LayerScores:
    rng = random.Random(seed)

    def shares() -> tuple[float, ...]:
        # Orders of magnitude apart, as real experts are.
        raw = [10 ** rng.uniform(-2, 0) for _ in range(experts)]
        return tuple(value / sum(raw) for value in raw)

    def errors() -> tuple[tuple[float, ...], ...]:
        bases = [10 ** rng.uniform(-3, 1) for _ in range(experts)]
        return tuple(
            tuple(base * rng.uniform(4**-bits, 2 * 4**-bits) for bits in WIDEST_WIDTHS)
            for base in bases
        )

    return LayerScores(shares(), shares(), errors(), errors(), widths=WIDEST_WIDTHS)


def brute_force(table: list[list[float]], budget: Budget) -> float:
    """Least cost over all allocations."""
    return min(
        sum(row[bits - 1] for row, bits in zip(table, widths, strict=True))
        for widths in itertools.product(budget.widths, repeat=len(table))
        if sum(widths) == budget.total and set(budget.forced) <= set(widths)
    )


@pytest.mark.parametrize("allocator", sorted(set(PER_LAYER) - {"uniform", "random"}))
@pytest.mark.parametrize("bits", [1.5, 2.0, 2.5, 3.5])
def test_program_finds_the_optimum_of_all_allocations(allocator: str, bits: float) -> None:
    for seed in range(2):
        scores = random_scores(seed, experts=6)
        budget = plan_budget(allocator, bits, 6)
        assert budget.widths == widths_for(allocator, bits)
        widths = allocate(allocator, scores, budget)
        table = costs(allocator, scores, Exponents(), budget.widths)
        cost = sum(row[b - 1] for row, b in zip(table, widths, strict=True))
        assert sum(widths) == budget.total
        assert set(budget.forced) <= set(widths)
        assert cost == pytest.approx(brute_force(table, budget), rel=1e-9)


def test_tiny_costs_are_told_apart() -> None:
    """Every cost lies below the solver's tolerance of 1e-7 as it comes."""
    table = [[row * 1e-15 for row in line] for line in ([9, 3, 1], [8, 4, 1], [30, 2, 1])]
    budget = Budget(total=6, forced=(), notes=())
    widths = solve(table, budget)
    cost = sum(row[b - 1] for row, b in zip(table, widths, strict=True))
    assert cost == pytest.approx(brute_force(table, budget), rel=1e-9)


def test_equal_experts_get_their_bits_in_order() -> None:
    budget = Budget(total=9, forced=(), notes=())
    widths = solve([[4.0, 1.0, 0.0]] * 4, budget)
    assert widths == tuple(sorted(widths, reverse=True))
    dead = [[0.0, 0.0, 0.0]] * 4
    assert solve(dead, budget) == tuple(sorted(solve(dead, budget), reverse=True))


def test_single_signals_ignore_the_others() -> None:
    one, other = random_scores(1, 8), random_scores(2, 8)
    budget = plan_budget("frequency", 2.0, 8)
    mixed = replace(one, routing_weight=other.routing_weight)
    assert allocate("frequency", mixed, budget) == allocate("frequency", one, budget)
    ranked = allocate("frequency", one, budget)
    by_share = sorted(range(8), key=lambda i: one.frequency[i])
    assert [ranked[i] for i in by_share] == sorted(ranked)


@pytest.mark.parametrize(
    ("bits", "total", "forced"),
    [
        (1.0, 8, ()), (1.25, 10, ()), (1.375, 11, (3, 2)), (2.0, 16, (3, 2)),
        (2.875, 23, (3, 2)), (3.0, 24, ()), (2.3, 18, (3, 2)), (2.0625, 16, (3, 2)),
        (3.25, 26, ()), (4.0, 32, ()),
    ],
)  # fmt: skip
def test_budget_rounds_and_drops_what_cannot_hold(
    bits: float, total: int, forced: tuple[int, ...]
) -> None:
    budget = plan_budget("pmq", bits, 8)
    assert (budget.total, budget.forced) == (total, forced)
    assert bool(budget.notes) == (total != bits * 8 or not forced)
    assert plan_budget("pmq-free", bits, 8).forced == ()
    assert plan_budget("fnorm-free", bits, 8).forced == ()


def test_impossible_requests_say_what_to_choose() -> None:
    with pytest.raises(UsageError, match="between 1 and 4"):
        plan_budget("pmq", 7, 8)
    with pytest.raises(UsageError, match="pmq-free"):
        plan_budget("hawq", 2, 8)
    with pytest.raises(AllocationError, match="uniform"):
        plan_budget("uniform", 2.5, 8)
    with pytest.raises(AllocationError, match="choose another --bits"):
        allocate("pmq", random_scores(0, 4), Budget(total=20, forced=(), notes=()))
    with pytest.raises(AllocationError, match="measure them again"):
        allocate("hessian", replace(random_scores(0, 8), trace_errors=()), plan_budget("pmq", 2, 8))
    with pytest.raises(AllocationError, match="not finite"):
        solve([[float("nan"), 1.0, 0.0]] * 2, Budget(total=4, forced=(), notes=()))


def test_random_allocations_are_equally_likely() -> None:
    budget = plan_budget("random", 2.0, 4)
    rng = random.Random(0)
    drawn = Counter(random_widths(4, budget, rng) for _ in range(4000))
    possible = [
        widths
        for widths in itertools.product(WIDTHS, repeat=4)
        if sum(widths) == budget.total and set(budget.forced) <= set(widths)
    ]
    assert set(drawn) == set(possible)
    expected = 4000 / len(possible)
    assert all(abs(count - expected) < 6 * expected**0.5 for count in drawn.values())


def test_what_is_the_default_is_known_and_is_named_in_words() -> None:
    for reads_no_text in (False, True):
        name = default_allocator(reads_no_text)
        assert needs_all_layers(name) == (not reads_no_text)
        assert allocator_words(name).startswith("PMQ, one program")
    assert {allocator_words(name) for name in ("uniform", "of a later version")} == {
        "uniform", "of a later version",
    }  # fmt: skip


def test_every_allocator_is_deterministic_and_meets_the_budget() -> None:
    scores = random_scores(3, 8)
    for allocator in PER_LAYER:
        budget = plan_budget(allocator, 2.0, 8)
        first = allocate(allocator, scores, budget, seed=5)
        assert first == allocate(allocator, scores, budget, seed=5)
        assert sum(first) == 16


def test_uniform_needs_no_errors_and_goes_up_to_four_bits() -> None:
    scores = LayerScores((0.25,) * 4, (0.25,) * 4, ((),) * 4, widths=widths_for("uniform", 2))
    assert allocate("uniform", scores, plan_budget("uniform", 4, 4)) == (4,) * 4


def test_hessian_goes_by_the_trace_alone() -> None:
    one, other = random_scores(1, 8), random_scores(2, 8)
    budget = plan_budget("hessian", 2.0, 8)
    mixed = replace(other, trace_errors=one.trace_errors)
    assert allocate("hessian", mixed, budget) == allocate("hessian", one, budget)
