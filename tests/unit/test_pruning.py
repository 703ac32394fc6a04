import math

import pytest
import torch
from torch import Tensor

from engine.attention import AttentionStatistics
from engine.errors import UsageError
from engine.otp import OtpPruning
from engine.pruning import (
    NO_PRUNING,
    OdpPruning,
    Pruning,
    RatioPruning,
    Routing,
    importance,
    own_importance,
    route,
)
from tests.unit.device_reads import NoDeviceReads


def statistics(batch: int, length: int, *, decoding: bool = False) -> AttentionStatistics:
    return AttentionStatistics(torch.rand(batch, length), torch.rand(batch, length), decoding)


def random_routing(tokens: int) -> Routing:
    return route(torch.randn(tokens, 8), 2)


def protected_by_hand(tokens: Tensor, seen: AttentionStatistics, share: float) -> set[int]:
    """Flat indices of the protected tokens: Eq. 6, token by token."""
    batch, length = seen.received.shape
    chosen = set()
    for b in range(batch):
        scores = {
            b * length + j: float(tokens[b * length + j].abs().sum())
            * float(seen.received[b, j])
            / (length - j)
            for j in range(length)
        }
        count = max(1, int(share * length))
        chosen |= set(sorted(scores, key=scores.__getitem__, reverse=True)[:count])
    return chosen


def test_routing_is_softmax_over_all_then_top_k_renormalised() -> None:
    logits = torch.randn(50, 8)
    routing = route(logits, 3)
    for row in range(50):
        probabilities = logits[row].double().softmax(0)
        best = probabilities.argsort(descending=True)[:3]
        assert routing.ids[row].tolist() == best.tolist()
        expected = probabilities[best] / probabilities[best].sum()
        torch.testing.assert_close(routing.weights[row].double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 20), (1, 150)])
def test_prompt_is_pruned_by_ratio_except_for_the_important(batch: int, length: int) -> None:
    torch.manual_seed(length)
    count = batch * length
    routing, tokens, seen = random_routing(count), torch.randn(count, 16), statistics(batch, length)
    odp = OdpPruning(thresholds=(0.0, 0.6), quantiles=(0.0, 0.0), protected_share=0.02)
    pruned = odp.prune(1, routing, tokens, seen)
    protected = protected_by_hand(tokens, seen, 0.02)
    for row in range(count):
        ratio = float(routing.weights[row, 1] / routing.weights[row, 0])
        if row in protected or ratio >= 0.6:
            assert pruned.ids[row].tolist() == routing.ids[row].tolist()
            assert torch.equal(pruned.weights[row], routing.weights[row])
        else:
            first, second = routing.ids[row].tolist()
            assert pruned.ids[row].tolist() == [first, -1 - second]
            assert pruned.weights[row].tolist() == pytest.approx([1.0, 0.0])
    assert len(protected) == batch * max(1, int(0.02 * length))


def test_without_protection_the_ratio_alone_decides() -> None:
    routing = random_routing(200)
    pruned = RatioPruning((0.0, 0.6)).prune(1, routing, torch.randn(200, 16), None)
    kept = routing.weights[:, 1] / routing.weights[:, 0] >= 0.6
    assert torch.equal(pruned.ids[:, 1] >= 0, kept)
    assert torch.equal(pruned.ids[kept], routing.ids[kept])
    alone = torch.tensor([[1.0, 0.0]]).expand(int((~kept).sum()), 2)
    torch.testing.assert_close(pruned.weights[~kept], alone)


def test_while_decoding_the_tokens_own_statistic_meets_the_layers_quantile() -> None:
    routing = Routing(torch.tensor([[3, 5]]), torch.tensor([[0.9, 0.1]]))
    tokens = torch.tensor([[1.0, -2.0, 3.0]])
    seen = AttentionStatistics(torch.tensor([[0.5]]), torch.tensor([[0.5]]), decoding=True)
    statistic = 6.0 * 0.5
    below = OdpPruning(thresholds=(0.5,), quantiles=(statistic - 0.1,))
    above = OdpPruning(thresholds=(0.5,), quantiles=(statistic + 0.1,))
    assert below.prune(0, routing, tokens, seen).ids.tolist() == [[3, 5]]
    assert above.prune(0, routing, tokens, seen).ids.tolist() == [[3, -6]]


def test_importance_divides_by_the_queries_that_see_a_token() -> None:
    tokens = torch.tensor([[1.0, -1.0], [2.0, 0.0], [0.0, 3.0]])
    seen = AttentionStatistics(
        torch.tensor([[1.5, 1.0, 0.5]]), torch.tensor([[1.0, 0.5, 0.5]]), decoding=False
    )
    assert importance(tokens, seen).tolist() == [[2 * 1.5 / 3, 2 * 1.0 / 2, 3 * 0.5 / 1]]
    assert own_importance(tokens, seen).tolist() == [[2.0, 1.0, 1.5]]


def test_thresholds_at_the_ends_prune_nothing_or_all_but_the_protected() -> None:
    routing, tokens, seen = random_routing(40), torch.randn(40, 4), statistics(1, 40)
    nothing = OdpPruning((0.0,), (0.0,)).prune(0, routing, tokens, seen)
    assert torch.equal(nothing.ids, routing.ids)
    most = OdpPruning((1.1,), (0.0,)).prune(0, routing, tokens, seen)
    assert int((most.ids < 0).sum()) == 39


def test_no_pruning_changes_nothing_and_asks_for_nothing() -> None:
    routing = random_routing(3)
    assert NO_PRUNING.prune(0, routing, torch.randn(3, 4), None) is routing
    assert not NO_PRUNING.needs_statistics


@pytest.mark.parametrize(
    "pruning",
    [NO_PRUNING, OdpPruning((0.3, 0.6), (2.0, 4.0)), RatioPruning((0.3, 0.6))],
    ids=["none", "odp", "ratio"],
)
@pytest.mark.parametrize("layer", [0, 1])
def test_the_rule_of_a_pruning_says_what_it_does_while_decoding(
    pruning: Pruning, layer: int
) -> None:
    torch.manual_seed(layer)
    rule = pruning.decode_rule(2)
    assert rule is not None
    routing, tokens = random_routing(200), torch.randn(200, 8)
    seen = statistics(200, 1, decoding=True)
    heavy = routing.weights[:, 1] / routing.weights[:, 0] >= rule.thresholds[layer]
    kept = heavy | (tokens.abs().sum(1) * seen.own[:, 0] > rule.quantiles[layer])
    pruned = pruning.prune(layer, routing, tokens, seen)
    assert torch.equal(pruned.ids[:, 1] >= 0, kept)
    alone = torch.tensor([1.0, 0.0]).expand(int((~kept).sum()), 2)
    torch.testing.assert_close(pruned.weights[~kept], alone)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_strength_scales_where_the_second_expert_stays(strength: float) -> None:
    torch.manual_seed(3)
    odp = OdpPruning((0.3, 0.6), (math.inf, math.inf)).scaled(strength)
    routing, tokens = random_routing(200), torch.randn(200, 8)
    pruned = odp.prune(1, routing, tokens, statistics(200, 1, decoding=True))
    kept = routing.weights[:, 1] >= strength * 0.6 * routing.weights[:, 0]
    assert torch.equal(pruned.ids[:, 1] >= 0, kept)
    assert strength > 0 or kept.all()


@pytest.mark.parametrize("strength", [-0.1, 2.1, math.nan, math.inf])
def test_an_impossible_strength_is_refused(strength: float) -> None:
    with pytest.raises(UsageError, match="from 0 to 2, not"):
        OdpPruning((0.5,), (0.5,)).scaled(strength)


@pytest.mark.parametrize("renormalised", [True, False])
def test_every_rank_has_its_threshold_and_the_others_share_the_weight(renormalised: bool) -> None:
    torch.manual_seed(7)
    routing = route(torch.randn(300, 8), 4, renormalised)
    tokens, seen = torch.randn(300, 8), statistics(300, 1, decoding=True)
    odp = OdpPruning((0.0, 0.9), (0.0, 6.0), ranks=((0.0, 0.0), (0.5, 0.3)))
    pruned = odp.prune(1, routing, tokens, seen)
    for row in range(300):
        weights = routing.weights[row].double()
        heavy = [weights[r] / weights[0] >= level for r, level in ((1, 0.9), (2, 0.5), (3, 0.3))]
        if float(tokens[row].abs().sum() * seen.own[row, 0]) > 6.0:
            heavy = [True] * 3
        keep = torch.tensor([True, *heavy])
        expected = weights * keep * weights.sum() / (weights * keep).sum()
        torch.testing.assert_close(pruned.weights[row].double(), expected, rtol=1e-5, atol=1e-7)
        assert torch.equal(pruned.ids[row] >= 0, keep)
        assert torch.equal(pruned.ids[row].where(keep, -1 - pruned.ids[row]), routing.ids[row])
    assert odp.prune(0, routing, tokens, seen).ids.min() >= 0
    assert odp.scaled(0.5).ranks == ((0.0, 0.0), (0.25, 0.15))


def test_without_thresholds_for_all_its_slots_a_model_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match="top-2 routing, this model selects 3"):
        OdpPruning((0.5,), (0.5,)).prune(
            0, route(torch.randn(4, 8), 3), torch.randn(4, 4), statistics(1, 4)
        )


@pytest.mark.parametrize("decoding", [False, True])
def test_nobody_waits_for_a_device(decoding: bool) -> None:
    tokens, seen = torch.randn(5, 16), statistics(1, 5, decoding=decoding)
    odp = OdpPruning((0.5,), (1.0,), ranks=((0.4, 0.3),))
    otp = OtpPruning(torch.randn(1, 3, 20), 0.5)
    for pruning in (NO_PRUNING, odp, otp):
        with NoDeviceReads():
            pruning.prune(0, route(torch.randn(5, 8), 4), tokens, seen)
