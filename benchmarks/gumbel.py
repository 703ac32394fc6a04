"""OTP's routers as MC# trains them, layer by layer: Gumbel-Softmax samples, a falling temperature,
distillation towards the unpruned block, a price for each expert kept. To compare with."""

import torch
from torch import Tensor

from compress.pruning.damage import LayerDamage
from engine.otp import features

STEPS = 400
_BATCH = 2048
_RATE = 0.02
_LAST_RATE = 0.02
"""Of the first."""
_HOTTEST, _COLDEST = 2.0, 0.2


def train_router(layer: LayerDamage, price: float, seed: int) -> Tensor:
    """A router [1, H + 2] of a top-2 layer, trained from nothing; see `engine.otp`.

    The mixture g y_2 + (1 - g) y_1 is (1 - g)^2 of the damage away from y_2. The logit of keeping
    two is what the router says less the logarithm of ``price``, so that its price is ``price``.
    """
    generator = torch.Generator().manual_seed(seed)
    seen = features(layer.tokens, layer.weights)  # [T, H + 2]
    scale = seen[:, :-1].std(dim=0).clamp(min=1e-6)
    seen = torch.cat([seen[:, :-1] / scale, seen[:, -1:]], dim=1)
    cost = layer.damages[:, 0] / price
    router = torch.zeros(seen.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([router], lr=_RATE)
    for step in range(STEPS):
        done = step / STEPS
        temperature = _HOTTEST * (_COLDEST / _HOTTEST) ** done
        optimizer.param_groups[0]["lr"] = _RATE * _LAST_RATE**done
        some = torch.randint(len(seen), (_BATCH,), generator=generator)
        logits = seen[some] @ router
        noise = torch.rand(_BATCH, generator=generator).clamp(1e-6, 1 - 1e-6).logit()
        kept = ((logits + noise) / temperature).sigmoid()
        loss = ((1 - kept).square() * cost[some] + logits.sigmoid()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = router.detach().clone()
    found[:-1] /= scale
    found[-1] += torch.tensor(price).log()
    return found[None]
