"""What compression learns for pruning."""

import pytest
import torch

from compress.pruning import protection_quantile, rank_thresholds
from engine.pruning import Routing, route


def routing(second: torch.Tensor) -> Routing:
    """Top-2 routing whose second expert has these weights."""
    weights = torch.stack([1 - second, second], dim=1)
    return Routing(torch.zeros(len(second), 2, dtype=torch.int64), weights)


def test_threshold_is_the_median_ratio() -> None:
    generator = torch.Generator().manual_seed(0)
    second = torch.rand(1001, generator=generator) * 0.5
    ratios = second / (1 - second)
    (threshold,) = rank_thresholds(routing(second))
    assert threshold == pytest.approx(float(ratios.quantile(0.5)), rel=1e-5)
    # Half of the second slots, a quarter of all, lie below it.
    assert int((ratios < threshold).sum()) == 500
    even = second[:1000]
    (lower,) = rank_thresholds(routing(even))
    assert lower == pytest.approx(float((even / (1 - even)).median()), rel=1e-6)


@pytest.mark.parametrize("top_k", [3, 8])
def test_of_more_experts_each_rank_loses_the_same_share(top_k: int) -> None:
    torch.manual_seed(top_k)
    found = route(torch.randn(4000, 16), top_k)
    thresholds = torch.tensor(rank_thresholds(found))
    skipped = found.weights[:, 1:] / found.weights[:, :1] < thresholds
    shares = skipped.double().mean(dim=0)
    assert shares.tolist() == pytest.approx([0.25 * top_k / (top_k - 1)] * (top_k - 1), abs=1e-3)


def test_single_expert_models_have_nothing_to_skip() -> None:
    alone = Routing(torch.zeros(5, 1, dtype=torch.int64), torch.ones(5, 1))
    assert rank_thresholds(alone) == ()


@pytest.mark.parametrize("tokens", [1, 10, 5000])
def test_two_percent_lie_at_or_above_the_quantile(tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    values = torch.rand(tokens, generator=generator)
    level = protection_quantile(torch.split(values.view(1, -1), 7, dim=1))
    assert int((values >= level).sum()) == max(1, round(0.02 * tokens))
