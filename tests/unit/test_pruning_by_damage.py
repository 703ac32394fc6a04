"""Thresholds by measured damage, and the criteria that pruning is compared with."""

import itertools

import pytest
import torch

from compress.pruning import criteria
from compress.pruning.criteria import RandomlyProtected, ScorePruning, TokenDropping
from compress.pruning.damage import LayerDamage
from compress.pruning.dial import damage_thresholds
from engine.attention import AttentionStatistics
from engine.errors import UsageError
from engine.pruning import RatioPruning, importance, route


def layer(seed: int, scale: float, tokens: int = 12) -> LayerDamage:
    """Tokens whose damage grows with w1 / w0."""
    torch.manual_seed(seed)
    weights = route(torch.randn(tokens, 8), 2).weights
    ratios = weights[:, 1] / weights[:, 0]
    return LayerDamage(torch.randn(tokens, 16), weights, (scale * ratios**2)[:, None])


def skipped(layers: list[LayerDamage], thresholds: tuple[float, ...]) -> tuple[int, float]:
    """Slots skipped, and the damage of it."""
    count, damage = 0, 0.0
    for each, threshold in zip(layers, thresholds, strict=True):
        light = each.weights[:, 1] / each.weights[:, 0] < threshold
        count += int(light.sum())
        damage += float(each.damages[light].double().sum())
    return count, damage


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
def test_no_other_cut_of_the_layers_does_less_damage(share: float) -> None:
    layers = [layer(1, 1.0), layer(2, 0.1), layer(3, 3.0)]
    count, damage = skipped(layers, damage_thresholds(layers, share))
    assert count >= round(share * 2 * 36)
    assert count <= share * 2 * 36 + 1
    ordered = [each.damages[:, 0].double().sort().values.cumsum(0).tolist() for each in layers]
    sums = [[0.0, *each] for each in ordered]
    cuts = itertools.product(range(13), repeat=3)
    best = min(
        sum(each[cut] for each, cut in zip(sums, cut3, strict=True))
        for cut3 in cuts
        if sum(cut3) == count
    )
    assert damage == pytest.approx(best)


def test_a_layer_that_costs_nothing_loses_every_second_expert() -> None:
    layers = [layer(1, 1.0, 400), layer(2, 0.0, 400)]
    thresholds = damage_thresholds(layers, 0.3)
    assert thresholds[1] > 1
    assert 0 < thresholds[0] < 1


@pytest.mark.parametrize("share", [0.0, 0.5, -0.1])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="cannot be skipped"):
        damage_thresholds([layer(1, 1.0)], share)


def test_scores_are_what_they_are_called() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(50, 64) ** 3 + 0.2
    weights = route(torch.randn(50, 8), 2).weights
    for row in range(50):
        x = tokens[row].double()
        centred = x - x.mean()
        expected = {
            criteria.mean: x.abs().mean(),
            criteria.variance: centred.square().sum() / 63,
            criteria.kurtosis: (centred**4).mean() / centred.square().mean() ** 2,
            criteria.ratio: weights[row, 1].double() / weights[row, 0].double(),
        }
        for score, value in expected.items():
            assert float(score(tokens, weights)[row]) == pytest.approx(float(value), rel=1e-4)


@pytest.mark.parametrize("score", [criteria.ratio, criteria.mean, criteria.kurtosis])
def test_a_quantile_of_the_tokens_loses_the_second_expert(score: criteria.Score) -> None:
    layers = [layer(seed, 1.0, 500) for seed in (1, 2)]
    for share in (0.3, 1.0):
        pruning = ScorePruning.at_quantile(score, layers, share)
        torch.manual_seed(1)
        routing = route(torch.randn(500, 8), 2)  # the first layer's
        found = pruning.prune(0, routing, layers[0].tokens, None)
        assert int((found.ids < 0).sum()) == 500 * share
    by_ratio = ScorePruning.at_quantile(criteria.ratio, layers, 0.3)
    same = RatioPruning(by_ratio.thresholds).prune(0, routing, layers[0].tokens, None)
    assert torch.equal(same.ids, by_ratio.prune(0, routing, layers[0].tokens, None).ids)


def test_the_least_important_tokens_lose_both() -> None:
    torch.manual_seed(3)
    tokens, routing = torch.randn(40, 16), route(torch.randn(40, 8), 2)
    seen = AttentionStatistics(torch.rand(2, 20), torch.rand(2, 20), decoding=False)
    found = TokenDropping(0.25).prune(0, routing, tokens, seen)
    scores = importance(tokens, seen)
    for sequence in range(2):
        least = set(scores[sequence].argsort()[:5].tolist())
        for place in range(20):
            row = 20 * sequence + place
            assert bool((found.ids[row] < 0).all()) == (place in least)
            assert bool((found.weights[row] == 0).all()) == (place in least)


def test_chance_protects_as_many_and_others() -> None:
    torch.manual_seed(4)
    tokens, routing = torch.randn(4000, 8), route(torch.randn(4000, 8), 2)
    seen = AttentionStatistics(torch.rand(1, 4000), torch.rand(1, 4000), decoding=False)
    drawn = RandomlyProtected((2.0,), (0.0,), protected_share=0.1)
    found = drawn.prune(0, routing, tokens, seen)
    kept = (found.ids[:, 1] >= 0).double()
    assert float(kept.mean()) == pytest.approx(0.1, abs=0.02)
    assert torch.equal(drawn.prune(0, routing, tokens, seen).ids, found.ids)
    important = importance(tokens, seen)[0].topk(400).indices
    assert float(kept[important].mean()) < 0.2
