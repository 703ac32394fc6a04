"""Choosing a token's experts on the device, interpreted, against float64; and compiled."""

import math
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import Tensor

from engine.decoding.plain import PlainOperations
from engine.decoding.state import LayerRule
from engine.otp import FARTHEST
from tests.triton_compile import run_compiler

pytest.importorskip("triton", reason="no build of triton for this platform")

from engine.kernels.triton import routing

SIZE = 70


@dataclass(frozen=True)
class Kind:
    """How a model routes, and what is pruned; ``price`` 0: by no routers."""

    experts: int = 8
    top_k: int = 2
    levels: tuple[float, ...] = ()
    quantile: float = math.inf
    price: float = 0.0
    renormalised: bool = True

    def rule(self) -> LayerRule:
        """With random routers."""
        levels = torch.tensor((*self.levels, *(0.0,) * self.top_k)[: self.top_k])
        levels[-1] = self.quantile
        routers = torch.randn(self.top_k - 1, SIZE + self.top_k) * 0.3
        return LayerRule(levels, routers, torch.tensor([self.price]))


KINDS = {
    "unpruned": Kind(),
    "ODP": Kind(levels=(0.7,), quantile=40.0),
    "every second slot": Kind(5, levels=(2.0,)),
    "top 1": Kind(4, 1),
    "one expert": Kind(1, 1),
    "top 3": Kind(6, 3),
    "a level for every rank": Kind(6, 4, (0.8, 0.5, 0.6), 40.0),
    "top 8 of 128": Kind(128, 8, (0.9, 0.9, 0.8, 0.8, 0.7, 0.7, 0.6), 40.0, renormalised=False),
    "top 8 of 60": Kind(60, 8, renormalised=False),
    "OTP": Kind(price=0.6),
    "OTP, top 3": Kind(7, 3, price=0.5),
    "OTP, top 8 of 64": Kind(64, 8, price=0.3, renormalised=False),
}


@dataclass(frozen=True)
class Chosen:
    """``ids`` as they are stored, weights, and by how much the narrowest decision was taken."""

    ids: list[int]
    weights: list[float]
    margin: float


def chosen(kind: Kind, x: Tensor, weight: Tensor, rule: LayerRule, own: float) -> Chosen:
    """Slot by slot, in float64."""
    values = x.double().tolist()
    logits = [math.fsum(a * b for a, b in zip(values, row, strict=True)) for row in weight.tolist()]
    total = math.fsum(map(math.exp, logits))
    order = sorted(range(kind.experts), key=lambda expert: -logits[expert])[: kind.top_k]
    shares = [math.exp(logits[expert]) / total for expert in order]
    if kind.renormalised:
        shares = [share / math.fsum(shares) for share in shares]
    ratios = [share / shares[0] for share in shares]
    levels = rule.levels.tolist()
    importance = own * math.fsum(map(abs, values))
    important = importance > levels[-1]
    margins = [abs(importance - levels[-1])]
    margins += [abs(a - b) for a, b in zip(ratios[1:], levels[:-1], strict=True)]
    runs = [True] + [
        important or ratio >= level for ratio, level in zip(ratios[1:], levels[:-1], strict=True)
    ]
    if kind.price:
        known = [*values, *(max(math.log(ratio), -FARTHEST) for ratio in ratios[1:]), 1.0]
        costs = [
            math.exp(math.fsum(a * b for a, b in zip(known, row, strict=True))) + kind.price * kept
            for kept, row in enumerate(rule.routers.tolist())
        ] + [kind.price * (kind.top_k - 1)]
        runs = [run and rank <= costs.index(min(costs)) for rank, run in enumerate(runs)]
        first, second, *_ = sorted(costs)
        margins.append(second - first)
    kept = math.fsum(share for share, run in zip(shares, runs, strict=True) if run)
    factor = math.fsum(shares) / kept
    return Chosen(
        [expert if run else -1 - expert for expert, run in zip(order, runs, strict=True)],
        [share * factor if run else 0.0 for share, run in zip(shares, runs, strict=True)],
        min(margins),
    )


def routed(
    kind: Kind, x: Tensor, weight: Tensor, rule: LayerRule, own: Tensor, plain: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, weights and counts of one token."""
    ids, weights = torch.empty(1, kind.top_k, dtype=torch.int64), torch.empty(1, kind.top_k)
    counts = torch.ones(2 * kind.experts, dtype=torch.int64)
    given = x, weight, kind.renormalised, rule, own
    if plain:
        PlainOperations().route(*given, ids, weights, counts)
    else:
        routing.route(*given, scratch(kind), routing.Choice(ids, weights, counts))
    return ids[0], weights[0], counts - 1


@cache
def scratch(kind: Kind) -> routing.Scratch:
    """Every token finds what the one before it has left."""
    return routing.Scratch.allocate(kind.experts, kind.top_k, "cpu")


@pytest.mark.parametrize("plain", [False, True], ids=["triton", "plain"])
@pytest.mark.parametrize("name", KINDS)
def test_routing_is_what_float64_says(name: str, plain: bool) -> None:
    torch.manual_seed(3)
    kind = KINDS[name]
    weight, rule = torch.randn(kind.experts, SIZE) * 0.1, kind.rule()
    ran = set()
    for _ in range(6 if kind.experts <= 8 else 2):
        x, own = torch.randn(1, SIZE), torch.rand(1)
        expected = chosen(kind, x[0], weight.double(), rule, float(own))
        assert expected.margin > 1e-5, "nothing hangs on a last bit"
        ids, weights, counts = routed(kind, x, weight, rule, own, plain)
        assert ids.tolist() == expected.ids
        torch.testing.assert_close(weights, torch.tensor(expected.weights), rtol=1e-5, atol=1e-7)
        places = [id if id >= 0 else kind.experts - 1 - id for id in expected.ids]
        assert counts.nonzero().flatten().tolist() == sorted(places)
        assert int(counts.sum()) == kind.top_k
        ran.add(sum(id >= 0 for id in expected.ids))
    if kind.levels or kind.price:
        assert min(ran) < kind.top_k, "some are skipped"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_inputs_and_routers(dtype: torch.dtype) -> None:
    kind = KINDS["OTP, top 3"]
    weight, rule = (torch.randn(kind.experts, SIZE) * 0.1).to(dtype), kind.rule()
    for _ in range(4):
        x, own = torch.randn(1, SIZE).to(dtype), torch.rand(1)
        expected = chosen(kind, x[0], weight.double(), rule, float(own))
        ids, weights, _ = routed(kind, x, weight, rule, own)
        assert ids.tolist() == expected.ids
        torch.testing.assert_close(weights, torch.tensor(expected.weights), rtol=1e-5, atol=1e-7)


def test_at_no_price_the_routers_are_not_read() -> None:
    kind, x = KINDS["unpruned"], torch.randn(1, SIZE)
    rule = replace(kind.rule(), routers=torch.full((1, SIZE + 2), math.nan))
    ids, _, _ = routed(kind, x, torch.randn(8, SIZE), rule, torch.zeros(1))
    assert (ids >= 0).all()


def test_of_equal_logits_the_lower_expert_comes_first() -> None:
    kind = Kind(4)
    x = torch.ones(1, SIZE)
    ids, weights, _ = routed(kind, x, torch.zeros(4, SIZE), kind.rule(), torch.zeros(1))
    assert ids.tolist() == [0, 1]
    assert weights.tolist() == [0.5, 0.5]


@pytest.mark.filterwarnings("ignore:(invalid value|All-NaN):RuntimeWarning")
def test_what_is_no_number_goes_to_an_expert_that_there_is() -> None:
    kind = Kind(3)
    x = torch.full((1, SIZE), torch.nan)
    ids, _, _ = routed(kind, x, torch.ones(3, SIZE), kind.rule(), torch.zeros(1))
    assert all(-3 <= expert < 3 for expert in ids.tolist())


COMPILED = """
import torch
from engine.decoding.state import LayerRule
from engine.kernels.triton import routing
from tests.triton_compile import CAPABILITIES, compiling

def launch(size, experts, top_k, offset):
    state = torch.empty(top_k + offset), torch.empty((top_k - 1) * (size + top_k) + offset)
    rule = LayerRule(*(part[offset:] for part in state), torch.empty(1))
    choice = routing.Choice(
        torch.empty(1, top_k, dtype=torch.int64),
        torch.empty(1, top_k),
        torch.empty(2 * experts, dtype=torch.int64),
    )
    x, router = torch.empty(1, size).bfloat16(), torch.empty(experts, size).bfloat16()
    scratch = routing.Scratch.allocate(experts, top_k, "cpu")
    routing.route(x, router, True, rule, torch.empty(1), scratch, choice)

for capability in CAPABILITIES:
    for shape in ((4096, 8, 2), (2048, 128, 8)):  # Mixtral, Qwen3-MoE
        with compiling(capability) as kernels:
            launch(*shape, 0)
            launch(*shape, 1)  # as other layers' rules lie
        assert len(kernels) == 1, (shape, kernels)
        assert not kernels[0].spilled, shape
        assert kernels[0].registers <= 128, (shape, kernels[0].registers)
"""


def test_routing_compiles_once_for_all_layers() -> None:
    run_compiler(COMPILED)
