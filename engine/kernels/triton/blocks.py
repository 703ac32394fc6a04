"""Slots of many tokens sorted by expert, in blocks, without a word to the host."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Blocks:
    """Slots sorted by expert, and the blocks of them that programs take.

    ``order`` int64 [S]: slots, those that are skipped first. For each of the blocks, int32:
    ``expert``, -1 for none, and ``first`` and ``last`` of its slots in ``order``. ``first[0]`` is
    the number of skipped slots, of all if no block has an expert.
    """

    order: Tensor
    expert: Tensor
    first: Tensor
    last: Tensor


def group_slots(ids: Tensor, num_experts: int, size: int) -> Blocks:
    """Blocks of at most ``size`` slots with one expert; ids [T, K], below 0 for a slot to skip.

    Nothing is read on the host: there are as many blocks as there could be.
    """
    slots = ids.flatten()
    order = slots.argsort(stable=True)
    experts = torch.arange(num_experts, device=ids.device)
    chosen = slots[:, None] == experts  # [S, E]
    counts = chosen.sum(dim=0)  # [E]
    ends = counts.cumsum(0) + (len(slots) - counts.sum())  # in order
    blocks = (counts + size - 1) // size
    last_block = blocks.cumsum(0)  # [E]
    index = torch.arange(len(slots) // size + num_experts, device=ids.device)  # [B]
    expert = torch.searchsorted(last_block, index, right=True)  # num_experts: none
    own = expert.clamp(max=num_experts - 1)
    first = (ends - counts)[own] + (index - (last_block - blocks)[own]) * size
    last = torch.minimum(first + size, ends[own])
    none = expert == num_experts
    return Blocks(
        order=order,
        expert=torch.where(none, -1, expert).int(),
        first=first.int(),
        last=last.int(),
    )
