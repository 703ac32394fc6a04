"""Runs experts on batches: the tokens are sorted by the expert they chose."""

from collections.abc import Callable

import torch
from torch import Tensor


def run_by_expert(
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    num_experts: int,
    run: Callable[[int, Tensor], Tensor],
) -> Tensor:
    """Sum over the slots k of weights[t, k] * run(ids[t, k], x[t]), [T, H].

    x [T, H]; ids [T, K] int64, below 0 for a pruned slot; weights [T, K]. ``run`` gets an expert
    and all its tokens [N, H] at once. The counts are read on the host: not for decoding on a GPU.
    """
    slots = ids.flatten().clamp(min=-1)  # [T * K]
    order = slots.argsort(stable=True)
    counts = torch.bincount(slots + 1, minlength=num_experts + 1).tolist()
    scale = weights.flatten().to(x.dtype)
    out = torch.zeros_like(x)
    parts = torch.split(order, counts)[1:]  # the first part is the pruned slots
    for expert, part in enumerate(parts):
        if len(part):
            token = part // ids.shape[1]
            out.index_add_(0, token, run(expert, x[token]) * scale[part, None])
    return out
