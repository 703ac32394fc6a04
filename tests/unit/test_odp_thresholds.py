"""What compression learns for pruning."""

import pytest
import torch

from compress.pruning import protection_quantile, ratio_threshold
from engine.pruning import Routing


def routing(second: torch.Tensor) -> Routing:
    """Top-2 routing whose second expert has these weights."""
    weights = torch.stack([1 - second, second], dim=1)
    return Routing(torch.zeros(len(second), 2, dtype=torch.int64), weights)


def test_threshold_is_the_median_ratio() -> None:
    generator = torch.Generator().manual_seed(0)
    second = torch.rand(1001, generator=generator) * 0.5
    ratios = second / (1 - second)
    assert ratio_threshold(routing(second)) == pytest.approx(float(ratios.quantile(0.5)), rel=1e-5)
    # Half of the second slots, a quarter of all, lie below it.
    assert int((ratios < ratio_threshold(routing(second))).sum()) == 500


def test_single_expert_models_have_nothing_to_skip() -> None:
    alone = Routing(torch.zeros(5, 1, dtype=torch.int64), torch.ones(5, 1))
    assert ratio_threshold(alone) == 0.0


@pytest.mark.parametrize("tokens", [1, 10, 5000])
def test_two_percent_lie_at_or_above_the_quantile(tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    values = torch.rand(tokens, generator=generator)
    level = protection_quantile(torch.split(values.view(1, -1), 7, dim=1))
    assert int((values >= level).sum()) == max(1, round(0.02 * tokens))
