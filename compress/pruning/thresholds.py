"""What online dynamic pruning (ODP) learns from calibration: thresholds and a quantile a layer."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from engine.pruning import PROTECTED_SHARE, Routing

SKIPPED = 0.25
"""Share of the expert slots that are to be skipped: what the medians of a top-2 model come to."""


def rank_thresholds(routing: Routing) -> tuple[float, ...]:
    """For each rank r from 1 on the level of w_r / w0 below which a slot is skipped, K - 1 in all.

    It is the same quantile for every rank, that at which `SKIPPED` of all slots go: mu, the median
    of w1 / w0, for a model of two experts a token.
    """
    weights = routing.weights
    slots = weights.shape[1]
    if slots < 2:
        return ()
    share = SKIPPED * slots / (slots - 1)
    ratios = (weights[:, 1:] / weights[:, :1]).sort(dim=0).values  # [T, K - 1]
    place = math.ceil(share * len(ratios)) - 1
    return tuple(ratios[place].tolist())


def protection_quantile(statistics: Iterable[Tensor]) -> float:
    """The level above which the top 2 % of all tokens lie; statistics are pieces of any shape."""
    values = torch.cat([piece.flatten() for piece in statistics]).sort().values
    kept = max(1, round(PROTECTED_SHARE * len(values)))
    return float(values[-kept])
