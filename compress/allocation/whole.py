"""Programs over all layers at once.

`global` solves, for layers l with experts i and widths j,

    minimise    sum_lij  s_li * ((eps_lij / n_l) * x_lij)^gamma
    subject to  one width per expert, sum of bytes <= budget,

where s_li = phi_li^alpha * w_li^beta, scaled to sum to 1 within each layer, and n_l is the norm
of the residual stream after the layer: a layer's error counts by its share of what the next
layers are given. Bytes are codes, scales and zero points as they are stored.

Byte prices are whole multiples of the zero points' bytes, a few thousand of them in the largest
model, so dynamic programming over them finds the optimum exactly, in no order that could change:
each layer's program goes to a solver, this one would have to trust its tolerances.

`bsp` gives 4 bits to the quarter of the layers that lose most at 2 bits, and 2 to the rest.
"""

import math
from collections.abc import Sequence

import numpy as np

from compress.allocation.budgets import BSP_WIDTHS, ModelBudget, bsp_layers
from compress.allocation.per_layer import check_finite, order_ties
from compress.allocation.scores import Exponents, LayerScores
from compress.allocator_names import check_allocator, needs_all_layers
from engine.errors import AllocationError

Widths = tuple[tuple[int, ...], ...]
"""``widths[layer][expert]`` in bits."""


def allocate_model(
    allocator: str,
    scores: Sequence[LayerScores],
    budget: ModelBudget,
    exponents: Exponents | None = None,
) -> Widths:
    """Width of each expert of each layer. ``exponents`` matter to the global program only.

    The global program never takes more than ``budget.bytes``, and leaves less than one expert's
    step to the next width free unless more bits would not lower the cost.
    Raises AllocationError when the budget cannot be met or the scores lack something, UsageError
    for an unknown allocator.
    """
    check_allocator(allocator)
    if not needs_all_layers(allocator):
        raise ValueError(f"{allocator} decides on one layer at a time")
    if any(layer.stream_norm <= 0 for layer in scores):
        raise AllocationError(
            "these scores do not say how large the residual stream is, so layers cannot be "
            "compared: measure them again"
        )
    if allocator == "bsp":
        return _bsp(scores)
    table = [row for layer in scores for row in model_costs(layer, budget, exponents)]
    widths = iter(fill(table, budget))
    return tuple(tuple(next(widths) for _ in layer.frequency) for layer in scores)


def model_costs(
    scores: LayerScores, budget: ModelBudget, exponents: Exponents | None = None
) -> list[list[float]]:
    """Cost, comparable between layers, of each expert of one at each of the budget's widths."""
    chosen = exponents or Exponents()
    significance = [
        frequency**chosen.alpha * weight**chosen.beta
        for frequency, weight in zip(scores.frequency, scores.routing_weight, strict=True)
    ]
    total = sum(significance)
    return [
        [share / total * (error / scores.stream_norm) ** chosen.gamma for error in row]
        for share, row in zip(significance, scores.errors_at(budget.widths), strict=True)
    ]


def fill(table: Sequence[Sequence[float]], budget: ModelBudget) -> tuple[int, ...]:
    """The widths with the least total cost ``table[expert][width]`` within the budget's bytes.

    Among allocations of the same cost the one that fills the budget best; experts whose costs are
    equal are interchangeable, and the earlier ones get the more bits. Exact: dynamic programming
    over what is spent above every expert's smallest width.
    Raises AllocationError when not even that fits, or a cost is not a number.
    """
    check_finite(table)
    prices, experts = budget.prices, len(table)
    spare = budget.bytes - experts * prices[0]
    if spare < 0:
        raise AllocationError(
            f"{budget.bytes:,} bytes are too few for {experts} experts of at least {prices[0]:,}: "
            "choose more"
        )
    extra = [price - prices[0] for price in prices]
    unit = math.gcd(*extra) or 1
    steps = [bytes_above // unit for bytes_above in extra]
    room = min(spare // unit, experts * max(steps))
    # best[u]: least cost of the experts so far when exactly u units are spent on them.
    best = np.full(room + 1, np.inf)
    best[0] = 0.0
    choices = np.zeros((experts, room + 1), dtype=np.uint8)
    for expert, row in enumerate(table):
        options = np.full((len(steps), room + 1), np.inf)
        for j, step in enumerate(steps):
            if step <= room:
                options[j, step:] = best[: room + 1 - step] + row[j]
        choices[expert] = options.argmin(axis=0)
        best = options.min(axis=0)
    spent = room - int(best[::-1].argmin())
    picked = []
    for expert in reversed(range(experts)):
        j = int(choices[expert, spent])
        picked.append(budget.widths[j])
        spent -= steps[j]
    return order_ties(table, picked[::-1])


def _bsp(scores: Sequence[LayerScores]) -> Widths:
    """The layers with the largest relative error at the smaller width get the larger one."""
    narrow, wide = BSP_WIDTHS
    relative = [
        math.hypot(*(row[0] for row in layer.errors_at((narrow,)))) / layer.stream_norm
        for layer in scores
    ]
    check_finite([relative])
    ranked = sorted(range(len(scores)), key=lambda index: -relative[index])
    chosen = set(ranked[: bsp_layers(len(scores))])
    return tuple(
        (wide if index in chosen else narrow,) * len(layer.frequency)
        for index, layer in enumerate(scores)
    )
