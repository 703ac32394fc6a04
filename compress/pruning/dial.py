"""ODP's thresholds by measured damage: every layer skips as much as costs the same at its margin.

One quantile for all layers, as the paper has it, skips as much where it hurts as where it does not.
Here tokens of a layer lose their second expert in the order of w1 / w0, and layers share one price:
each goes on as long as what it skips next costs less than that. For top-2 models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.pruning.damage import LayerDamage
from compress.pruning.otp import check_share

_NEVER = 2.0
"""A threshold above every ratio: the second expert never runs."""

_HALVINGS = 60


@dataclass(frozen=True)
class _Curve:
    """Of one layer: ``ratios`` [T] from the least on, and ``costs`` [T + 1], the damage when as
    many of them are skipped as the index says, as a mean over all tokens."""

    ratios: Tensor
    costs: Tensor

    @classmethod
    def of(cls, layer: LayerDamage) -> "_Curve":
        ratios, order = (layer.weights[:, 1] / layer.weights[:, 0]).sort()
        damage = layer.damages[order, 0].double().cumsum(0) / len(order)
        return cls(ratios, torch.cat([damage.new_zeros(1), damage]))

    def cut(self, price: float) -> int:
        """How many to skip when each is worth ``price``."""
        count = len(self.ratios)
        worth = price * torch.arange(count + 1, device=self.costs.device) / count
        return int((self.costs - worth).argmin())

    def threshold(self, cut: int) -> float:
        return _NEVER if cut == len(self.ratios) else float(self.ratios[cut])


def damage_thresholds(layers: Sequence[LayerDamage], skipped: float) -> tuple[float, ...]:
    """A threshold for each layer, at which a share ``skipped`` of all slots goes, at the least
    damage. Raises UsageError for a share that two slots cannot have."""
    check_share(skipped, 2)
    curves = [_Curve.of(layer) for layer in layers]
    low, high = 0.0, max(float(curve.costs[-1]) for curve in curves) * len(curves[0].ratios)
    for _ in range(_HALVINGS):
        price = (low + high) / 2
        shares = [curve.cut(price) / len(curve.ratios) / 2 for curve in curves]
        if sum(shares) / len(shares) < skipped:
            low = price
        else:
            high = price
    return tuple(curve.threshold(curve.cut(high)) for curve in curves)
