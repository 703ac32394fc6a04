"""Choosing a token's experts on the device: logits, softmax, top k, pruning, counts."""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

_TILE = 8192
"""Elements of the router's weight in registers at once: 32 of each of 256 threads."""


@triton.jit
def _route(
    x: tl.tensor,
    router: tl.tensor,
    threshold: tl.tensor,
    quantile: tl.tensor,
    own: tl.tensor,
    ids: tl.tensor,
    weights: tl.tensor,
    counts: tl.tensor,
    size: tl.tensor,
    experts: tl.constexpr,
    top_k: tl.constexpr,
    expert_block: tl.constexpr,
    count_block: tl.constexpr,
    slot_block: tl.constexpr,
    block: tl.constexpr,
) -> None:
    expert = tl.arange(0, expert_block)
    real = expert < experts
    column = tl.arange(0, block)
    products = tl.zeros((expert_block, block), tl.float32)
    magnitudes = tl.zeros((block,), tl.float32)
    for start in range(0, size, block):
        inside = start + column < size
        value = tl.load(x + start + column, mask=inside, other=0.0).to(tl.float32)
        magnitudes += tl.abs(value)
        rows = router + expert[:, None] * size + (start + column)[None, :]
        weight = tl.load(rows, mask=real[:, None] & inside[None, :], other=0.0)
        products += weight.to(tl.float32) * value[None, :]
    logits = tl.sum(products, axis=1)
    logits = tl.where(real, logits, -float("inf"))
    exponentials = tl.exp(logits - tl.max(logits, axis=0))
    left = exponentials / tl.sum(exponentials, axis=0)

    slot = tl.arange(0, slot_block)
    chosen = tl.full((slot_block,), -1, tl.int32)
    share = tl.zeros((slot_block,), tl.float32)
    for rank in tl.static_range(top_k):
        most = tl.max(left, axis=0)
        # What is no number equals nothing; still it has to be an expert that there is.
        best = tl.min(tl.where(left == most, expert, experts - 1), axis=0)
        left = tl.where(expert == best, -1.0, left)
        chosen = tl.where(slot == rank, best, chosen)
        share = tl.where(slot == rank, most, share)
    share = share / tl.sum(share, axis=0)
    if top_k == 2:
        heavy = tl.sum(tl.where(slot == 0, share, 0.0), axis=0)
        light = tl.sum(tl.where(slot == 1, share, 0.0), axis=0)
        importance = tl.sum(magnitudes, axis=0) * tl.load(own)
        keep = (light / heavy >= tl.load(threshold)) | (importance > tl.load(quantile))
        chosen = tl.where((slot == 1) & (keep == 0), -1 - chosen, chosen)
        alone = tl.where(slot == 0, 1.0, 0.0)
        share = tl.where(keep, share, alone)
    tl.store(ids + slot, chosen, mask=slot < top_k)
    tl.store(weights + slot, share, mask=slot < top_k)

    place = tl.arange(0, count_block)
    count = tl.load(counts + place, mask=place < 2 * experts, other=0)
    column = tl.where(chosen < 0, experts - 1 - chosen, chosen)
    for rank in tl.static_range(top_k):
        count += place == tl.sum(tl.where(slot == rank, column, 0), axis=0)
    tl.store(counts + place, count, mask=place < 2 * experts)


@dataclass(frozen=True)
class Choice:
    """Where a token's experts are written: ``ids`` [1, K] int32 or int64, -1 - id for a skipped
    slot, ``weights`` [1, K] float32; ``counts`` [2 * E] int64 of the layer grows, in its first half
    by the slots that run, in its second by the skipped ones."""

    ids: Tensor
    weights: Tensor
    counts: Tensor


def route(
    x: Tensor,
    router_weight: Tensor,
    threshold: Tensor,
    quantile: Tensor,
    own: Tensor,
    choice: Choice,
) -> None:
    """Choose the experts of a token, prune by `engine.pruning.DecodeRule`, and count.

    x [1, H] is the normed input of the MoE block; ``router_weight`` [E, H]; ``threshold``,
    ``quantile`` and ``own`` [1] float32 (0 and inf prune nothing). All contiguous. Of equal logits
    the lower expert comes first. A model that is not top-2 is never pruned here.
    """
    size, top_k = x.shape[1], choice.ids.shape[1]
    experts = len(choice.counts) // 2
    expert_block = max(2, triton.next_power_of_2(experts))
    _route[(1,)](
        x,
        router_weight,
        threshold,
        quantile,
        own,
        choice.ids,
        choice.weights,
        choice.counts,
        size,
        experts=experts,
        top_k=top_k,
        expert_block=expert_block,
        count_block=triton.next_power_of_2(2 * experts),
        slot_block=max(2, triton.next_power_of_2(top_k)),
        block=min(triton.next_power_of_2(size), max(32, _TILE // expert_block)),
        num_warps=8,
        enable_fp_fusion=True,
    )
