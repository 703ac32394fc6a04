"""Muon: momentum whose matrix updates are made orthogonal.

AdamW keeps the embeddings, the head, the routers and the norms.
"""

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

_NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)
_STEPS: Final = 5


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices, roughly. matrices: [..., rows, columns], any float dtype."""
    a, b, c = _NEWTON_SCHULZ
    x = matrices.to(torch.bfloat16).reshape(-1, *matrices.shape[-2:])
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT.contiguous()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.mT
        inner = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, inner, x, beta=a)
    if tall:
        x = x.mT
    return x.to(matrices.dtype).reshape(matrices.shape)


class Muon(torch.optim.Optimizer):
    """Muon over parameters of shape [..., rows, columns]; leading axes are separate matrices."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step; there is no closure to call."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                average = state["momentum"]
                average.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(average, group["momentum"]))
                rows, columns = parameter.shape[-2:]
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
