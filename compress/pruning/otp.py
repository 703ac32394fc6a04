"""OTP's routers, learned on the compressed model from calibration text alone.

MC# trains such routers by Gumbel-Softmax samples and gradients through the model. Here a router
foretells the logarithm of the damage that keeping fewer experts does, and that is a ridge
regression: seconds, no gradient, no memory beyond one layer's inputs, the same result every time.
On the demo it is better at equal savings than the trained ones (benchmarks/results/pruning.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.pruning.damage import LayerDamage
from engine.errors import UsageError
from engine.otp import choose_count, features

_LEAST = 1e-9
"""Less damage is none: its logarithm would only mislead the regression."""

_RIDGE = 1e-3
"""Of the hidden inputs' mean square."""

_CHUNK = 8192
"""Tokens whose features are in memory at once, in float64."""

_EXTREME = 70.0
"""Of a price's logarithm: beyond every damage that can be foretold."""

_HALVINGS = 60


@dataclass(frozen=True)
class FittedLayer:
    """``router`` float32 [K - 1, H + K], and what it foretells of the tokens that it was fitted to:
    logarithms of their damages, float32 [T, K - 1]."""

    router: Tensor
    foretold: Tensor


def fit_router(layer: LayerDamage) -> FittedLayer:
    """The least squares of the logarithms of a layer's damages, shrunk a little."""
    count, hidden = layer.tokens.shape
    wanted = layer.damages.clamp(min=_LEAST).log().double()  # [T, K - 1]
    size = hidden + layer.weights.shape[1]
    gram = torch.zeros(size, size, dtype=torch.float64, device=wanted.device)
    moments = torch.zeros(size, wanted.shape[1], dtype=torch.float64, device=wanted.device)
    parts = [slice(start, start + _CHUNK) for start in range(0, count, _CHUNK)]
    for part in parts:
        seen = features(layer.tokens[part], layer.weights[part]).double()
        gram.addmm_(seen.T, seen)
        moments.addmm_(seen.T, wanted[part])
    shrinkage = torch.zeros(size, dtype=torch.float64, device=wanted.device)
    shrinkage[:hidden] = _RIDGE * gram.diagonal()[:hidden].mean()
    router = torch.linalg.solve(gram + shrinkage.diag(), moments).T.float()
    foretold = [features(layer.tokens[part], layer.weights[part]) @ router.T for part in parts]
    return FittedLayer(router, torch.cat(foretold))


def check_share(skipped: float, slots: int) -> None:
    """Raise UsageError for a share of all slots that cannot be skipped where each token has so
    many: the first always runs."""
    most = (slots - 1) / slots
    if not 0 < skipped < most:
        raise UsageError(
            f"{skipped:.3g} of the expert slots cannot be skipped: take more than 0 and less than "
            f"{most:.3g}"
        )


def price_for(foretold: Sequence[Tensor], skipped: float) -> float:
    """The price of a slot at which a share ``skipped`` of all slots goes, on the tokens whose
    damages were ``foretold`` [T, K - 1] in each layer. Raises UsageError as `check_share`.
    """
    check_share(skipped, foretold[0].shape[1] + 1)
    low, high = -_EXTREME, _EXTREME
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if skipped_share(foretold, math.exp(middle)) < skipped:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def skipped_share(foretold: Sequence[Tensor], price: float) -> float:
    """The share of all slots that are skipped at a price, 0 to 1."""
    slots = foretold[0].shape[1] + 1
    kept = [choose_count(layer, price).float().mean().item() / slots for layer in foretold]
    return 1 - sum(kept) / len(kept)
