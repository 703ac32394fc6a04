"""Programs over all layers: against every allocation of a small model, a solver for large ones."""

import itertools
import random
from dataclasses import replace

import pulp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.allocation import (
    Exponents,
    LayerScores,
    ModelBudget,
    allocate,
    allocate_model,
    model_costs,
    plan_budget,
    plan_model_budget,
)
from compress.allocation.whole import fill
from engine.budget import expert_bytes
from engine.config import MIXTRAL_8X7B, ModelConfig
from engine.errors import AllocationError, UsageError

MIXTRAL_8X22B = replace(
    MIXTRAL_8X7B, hidden_size=6144, intermediate_size=16_384, num_layers=56, num_heads=48
)
SMALL = replace(
    MIXTRAL_8X7B, hidden_size=256, intermediate_size=384, num_layers=2, num_heads=4, num_experts=4
)
GROUP = 128

Table = list[list[float]]


def model_scores(seed: int, layers: int, experts: int) -> list[LayerScores]:
    """Errors that fall with the width, and are relative to very different streams."""
    rng = random.Random(seed)

    def layer(norm: float) -> LayerScores:
        frequency = [10 ** rng.uniform(-1, 0) for _ in range(experts)]
        weight = [10 ** rng.uniform(-1, 0) for _ in range(experts)]
        errors = []
        for _ in range(experts):
            ratios = [1.0, *(rng.uniform(0.2, 0.7) for _ in range(3))]
            base = norm * 10 ** rng.uniform(-2, -1)
            errors.append(tuple(base * ratio for ratio in itertools.accumulate(ratios, _times)))
        return LayerScores(
            tuple(value / sum(frequency) for value in frequency),
            tuple(value / sum(weight) for value in weight),
            tuple(errors),
            stream_norm=norm,
            widths=(1, 2, 3, 4),
        )

    return [layer(10 ** rng.uniform(-2, 3)) for _ in range(layers)]


def _times(one: float, other: float) -> float:
    return one * other


def whole_table(scores: list[LayerScores], budget: ModelBudget) -> Table:
    return [row for layer in scores for row in model_costs(layer, budget)]


def cost_of(table: Table, budget: ModelBudget, widths: tuple[int, ...]) -> float:
    return sum(row[budget.widths.index(bits)] for row, bits in zip(table, widths, strict=True))


def bytes_of(budget: ModelBudget, widths: tuple[int, ...]) -> int:
    return sum(budget.prices[budget.widths.index(bits)] for bits in widths)


def flat(widths: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    return tuple(bits for layer in widths for bits in layer)


@pytest.mark.parametrize("bits", [1.0, 1.4, 2.0, 2.6, 3.0, 3.3, 4.0])
def test_the_program_finds_the_best_of_all_allocations(bits: float) -> None:
    config = replace(SMALL, num_experts=3)
    budget = plan_model_budget("global", bits, config, GROUP)
    for seed in range(3):
        scores = model_scores(seed, layers=2, experts=3)
        table = whole_table(scores, budget)
        widths = flat(allocate_model("global", scores, budget))
        assert bytes_of(budget, widths) <= budget.bytes
        best = min(
            cost_of(table, budget, every)
            for every in itertools.product(budget.widths, repeat=6)
            if bytes_of(budget, every) <= budget.bytes
        )
        assert cost_of(table, budget, widths) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize(
    ("config", "bits"),
    [(MIXTRAL_8X7B, 1.5), (MIXTRAL_8X7B, 2.5), (MIXTRAL_8X7B, 3.5), (MIXTRAL_8X22B, 2.05)],
)
def test_real_sizes_agree_with_a_solver(config: ModelConfig, bits: float) -> None:
    scores = model_scores(7, config.num_layers, config.num_experts)
    budget = plan_model_budget("global", bits, config, GROUP)
    table = whole_table(scores, budget)
    widths = flat(allocate_model("global", scores, budget))
    assert cost_of(table, budget, widths) == pytest.approx(solver_cost(table, budget), rel=1e-6)
    assert 0 <= budget.bytes - bytes_of(budget, widths) < budget.prices[1] - budget.prices[0]


def solver_cost(table: Table, budget: ModelBudget) -> float:
    """The least cost that pulp's solver finds for the same program."""
    scale = 1e3 / max(max(row) for row in table)
    program = pulp.LpProblem("whole", pulp.LpMinimize)
    picks = [
        [program.add_variable(f"x_{i}_{j}", cat="Binary") for j in range(len(row))]
        for i, row in enumerate(table)
    ]
    pairs = [
        (cost * scale, price, x)
        for row, xs in zip(table, picks, strict=True)
        for cost, price, x in zip(row, budget.prices, xs, strict=True)
    ]
    program += pulp.lpSum(cost * x for cost, _, x in pairs)
    for xs in picks:
        program += pulp.lpSum(xs) == 1
    unit = budget.prices[1] - budget.prices[0]
    program += pulp.lpSum(price / unit * x for _, price, x in pairs) <= budget.bytes / unit
    solver = pulp.PULP_CBC_CMD(msg=False, threads=1, gapRel=1e-7, timeLimit=60)
    assert pulp.LpStatus[program.solve(solver)] == "Optimal"
    return float(pulp.value(program.objective)) / scale


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0, 1),
    more=st.integers(0, 400_000),
    wide=st.booleans(),
)
def test_the_budget_is_filled_and_never_exceeded_and_more_is_never_worse(
    seed: int, share: float, more: int, wide: bool
) -> None:
    scores = model_scores(seed, SMALL.num_layers, SMALL.num_experts)
    cheapest = plan_model_budget("global", 1.0, SMALL, GROUP).bytes
    dearest = plan_model_budget("global", 4.0 if wide else 3.0, SMALL, GROUP).bytes
    costs = []
    for extra in (0, more):
        size = cheapest + round(share * (dearest - cheapest)) + extra
        budget = plan_model_budget("global", 4.0 if wide else 2.0, SMALL, GROUP, size)
        widths = flat(allocate_model("global", scores, budget))
        left = size - bytes_of(budget, widths)
        assert left >= 0
        steps = [b - a for a, b in itertools.pairwise(budget.prices)]
        assert left < max(steps) or set(widths) == {budget.widths[-1]}
        costs.append(cost_of(whole_table(scores, budget), budget, widths))
    assert costs[1] <= costs[0] * (1 + 1e-12)


def test_bytes_are_those_of_the_stored_layout() -> None:
    """1-bit experts have no zero points, so a step from 1 to 2 bits is dearer than the next."""
    budget = plan_model_budget("global", 2.0, SMALL, GROUP)
    for widths in ((1, 2, 3, 1), (3, 3, 2, 1)):
        assert bytes_of(budget, widths) == expert_bytes(SMALL, widths, GROUP)
    one, two, three = budget.prices
    assert two - one > three - two
    assert budget.bytes == 2 * expert_bytes(SMALL, (2,) * 4, GROUP)
    assert plan_model_budget("global", 1.75, SMALL, GROUP).bytes == 2 * one + 6 * two


def test_only_the_ratio_to_the_stream_counts() -> None:
    scores = model_scores(3, 4, 4)
    config = replace(SMALL, num_layers=4)
    budget = plan_model_budget("global", 2.1, config, GROUP)
    louder = [
        replace(
            layer,
            errors=tuple(tuple(8.0 * error for error in row) for row in layer.errors),
            stream_norm=8.0 * layer.stream_norm,
        )
        for layer in scores
    ]
    expected = allocate_model("global", scores, budget)
    assert allocate_model("global", [louder[0], *scores[1:3], louder[3]], budget) == expected
    assert allocate_model("global", scores[::-1], budget) == expected[::-1]


def test_every_layer_has_the_same_significance_to_share_out() -> None:
    """However concentrated its routing is: else alpha and beta would favour some layers."""
    even, skewed = (0.25,) * 4, (0.85, 0.05, 0.05, 0.05)
    errors = ((4.0, 2.0, 1.0),) * 4
    budget = plan_model_budget("global", 2.0, SMALL, GROUP)
    for shares in (even, skewed):
        costs = model_costs(LayerScores(shares, shares, errors, stream_norm=2.0), budget)
        assert [sum(column) for column in zip(*costs, strict=True)] == pytest.approx([4, 1, 0.25])
        plain = model_costs(
            LayerScores(shares, shares, errors, stream_norm=2.0), budget, Exponents(0, 0, 1)
        )
        assert plain == [[0.5, 0.25, 0.125]] * 4


def test_equal_experts_get_their_bits_in_order_and_dead_ones_fill_the_budget() -> None:
    budget = ModelBudget(bytes=4 * 17 + 16, prices=(17, 34, 50), notes=())
    assert fill([[4.0, 1.0, 0.5]] * 4, budget) == (1, 1, 1, 1)
    roomy = replace(budget, bytes=3 * 34 + 17)
    assert fill([[4.0, 1.0, 0.9]] * 4, roomy) == (2, 2, 2, 1)
    # Nothing to gain: as near to the budget as bytes allow, 17 + 34 + 34 + 50 of 135.
    dead = fill([[0.0, 0.0, 0.0]] * 4, replace(budget, bytes=135))
    assert dead == (3, 2, 2, 1)


def test_layers_that_lose_most_get_bsps_four_bits() -> None:
    config = replace(SMALL, num_layers=8)
    budget = plan_model_budget("bsp", 2.5, config, GROUP)
    scores = [
        LayerScores((0.25,) * 4, (0.25,) * 4, ((error,),) * 4, stream_norm=norm, widths=(2,))
        for error, norm in zip((1, 9, 3, 4, 5, 6, 7, 8), (1, 90, 1, 8, 5, 6, 7, 8), strict=True)
    ]
    widths = allocate_model("bsp", scores, budget)
    assert [layer[0] for layer in widths] == [4, 2, 4, 2, 2, 2, 2, 2]
    assert all(len(set(layer)) == 1 for layer in widths)
    assert bytes_of(budget, flat(widths)) == budget.bytes
    assert "2 of 8 layers" in budget.notes[0]
    uneven = plan_model_budget("bsp", 2.5, replace(SMALL, num_layers=5), GROUP)
    assert "2.4 bits" in uneven.notes[0]


def test_impossible_requests_say_what_to_choose() -> None:
    with pytest.raises(UsageError, match=r"--bits 2\.5"):
        plan_model_budget("bsp", 2.0, SMALL, GROUP)
    with pytest.raises(UsageError, match=r"--bits 2\.5"):
        plan_model_budget("bsp", 2.5, SMALL, GROUP, 10**9)
    with pytest.raises(UsageError, match="between 1 and 4"):
        plan_model_budget("global", 4.5, SMALL, GROUP)
    with pytest.raises(AllocationError, match="too few"):
        plan_model_budget("global", 2.0, SMALL, GROUP, 1000)
    roomy = plan_model_budget("global", 2.0, SMALL, GROUP, 10**9)
    assert any("take only" in note for note in roomy.notes)
    scores = model_scores(0, 2, 4)
    budget = plan_model_budget("global", 2.0, SMALL, GROUP)
    assert flat(allocate_model("global", scores, roomy)) == (3,) * 8
    with pytest.raises(AllocationError, match="residual stream"):
        allocate_model("global", [replace(scores[0], stream_norm=0.0), scores[1]], budget)
    with pytest.raises(AllocationError, match="measure them again"):
        allocate_model("global", [replace(layer, widths=(1, 2, 4, 8)) for layer in scores], budget)
    with pytest.raises(AllocationError, match="not finite"):
        fill([[float("inf"), 1.0, 0.0]], budget)
    with pytest.raises(AllocationError, match="too few"):
        fill([[1.0, 1.0, 0.0]] * 40, budget)


def test_each_allocator_is_asked_in_its_own_way() -> None:
    scores = model_scores(0, 2, 4)
    with pytest.raises(ValueError, match="one layer at a time"):
        allocate_model("pmq", scores, plan_model_budget("global", 2.0, SMALL, GROUP))
    with pytest.raises(ValueError, match="one layer at a time"):
        plan_model_budget("pmq", 2.0, SMALL, GROUP)
    with pytest.raises(ValueError, match="all layers"):
        allocate("global", scores[0], plan_budget("pmq", 2.0, 4))


def test_errors_on_the_models_output_compare_as_they_are() -> None:
    """However large the streams of their layers are."""
    scores = model_scores(5, 2, 4)
    errors = [layer.errors for layer in model_scores(6, 2, 4)]
    budget = plan_model_budget("global", 2.0, SMALL, GROUP)
    on_model = [
        layer.on_model(rows, layer.widths) for layer, rows in zip(scores, errors, strict=True)
    ]
    same = [
        replace(layer, stream_norm=7.0).on_model(layer.errors, layer.widths) for layer in on_model
    ]
    assert allocate_model("global", on_model, budget) == allocate_model("global", same, budget)
    plain = model_costs(on_model[0], budget, Exponents(0, 0, 2))
    assert plain == [[error**2 / 4 for error in row[:3]] for row in errors[0]]
