"""What online dynamic pruning (ODP) learns from calibration: one threshold and one quantile."""

from collections.abc import Iterable

import torch
from torch import Tensor

from engine.pruning import PROTECTED_SHARE, Routing


def ratio_threshold(routing: Routing) -> float:
    """mu: the median over tokens of w1 / w0, below which a token keeps only its first expert.

    0 for a model that routes to one expert: nothing can be skipped.
    """
    if routing.weights.shape[1] < 2:
        return 0.0
    return float((routing.weights[:, 1] / routing.weights[:, 0]).median())


def protection_quantile(statistics: Iterable[Tensor]) -> float:
    """The level above which the top 2 % of all tokens lie; statistics are pieces of any shape."""
    values = torch.cat([piece.flatten() for piece in statistics]).sort().values
    kept = max(1, round(PROTECTED_SHARE * len(values)))
    return float(values[-kept])
