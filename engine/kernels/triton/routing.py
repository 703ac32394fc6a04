"""Choosing a token's experts on the device: logits, softmax, top k, pruning, counts.

A program multiplies a few rows of the router with the token, or of OTP's routers where there is a
price to pay; the last one to arrive, told by an integer counter, has all products and chooses. So
128 experts' rows are read by 64 multiprocessors instead of one, and nothing more is launched.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.decoding.state import LayerRule
from engine.otp import FARTHEST

_FARTHEST: tl.constexpr = tl.constexpr(FARTHEST)
_LINES = 2
"""Rows of a program."""
_BLOCK = 4096
"""Inputs in registers at once, of each row: 16 of each of 256 threads. For Mixtral that is all, so
that they are waited for once; four rows would spill."""


@triton.jit
def _multiply(
    x: tl.tensor,
    rows: tl.tensor,
    line: tl.tensor,
    real: tl.tensor,
    stride: tl.tensor,
    size: tl.tensor,
    out: tl.tensor,
    lines: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Store the products of x [size] with ``rows``, ``stride`` apart, at ``out``; those ``line``
    [lines] that are ``real``."""
    column = tl.arange(0, block)
    products = tl.zeros((lines, block), tl.float32)
    for start in range(0, size, block):
        inside = start + column < size
        value = tl.load(x + start + column, mask=inside, other=0.0).to(tl.float32)
        at = rows + line[:, None] * stride + (start + column)[None, :]
        weight = tl.load(at, mask=real[:, None] & inside[None, :], other=0.0)
        products += weight.to(tl.float32) * value[None, :]
    tl.store(out + line, tl.sum(products, axis=1), mask=real)


@triton.jit
def _magnitude(x: tl.tensor, size: tl.tensor, block: tl.constexpr) -> tl.tensor:
    """The sum of the sizes of x [size]."""
    column = tl.arange(0, block)
    found = tl.zeros((block,), tl.float32)
    for start in range(0, size, block):
        inside = start + column < size
        found += tl.abs(tl.load(x + start + column, mask=inside, other=0.0).to(tl.float32))
    return tl.sum(found, axis=0)


@triton.jit
def _last_worth(
    ratio: tl.tensor,
    products: tl.tensor,
    rest: tl.tensor,
    stride: tl.tensor,
    price: tl.tensor,
    slot: tl.tensor,
    top_k: tl.constexpr,
) -> tl.tensor:
    """The last slot that is worth its price, as `engine.otp.choose_count` has it.

    ``products`` of the token with OTP's routers; ``rest`` is where the first of those has what is
    for the logarithms of the other slots' ``ratio``, and its constant.
    """
    row = rest + slot * stride  # slot m is for what keeping the first m + 1 does
    fewer = slot < top_k - 1
    later = (slot > 0) & (slot < top_k)
    logarithm = tl.maximum(tl.log(tl.where(later, ratio, 1.0)), -_FARTHEST)
    weight = tl.load(
        row[:, None] + (slot - 1)[None, :], mask=fewer[:, None] & later[None, :], other=0.0
    )
    foretold = tl.sum(weight * logarithm[None, :], axis=1)
    # Past the L1 cache, which does not see other programs' stores.
    foretold += tl.load(products + slot, mask=fewer, other=0.0, cache_modifier=".cg")
    foretold += tl.load(row + top_k - 1, mask=fewer, other=0.0)
    foretold = tl.minimum(tl.maximum(foretold, -_FARTHEST), _FARTHEST)
    cost = tl.where(fewer, tl.exp(foretold), 0.0) + price * slot
    cost = tl.where(slot < top_k, cost, float("inf"))
    least = tl.min(cost, axis=0)
    return tl.min(tl.where(cost == least, slot, top_k - 1), axis=0)


# A layer's part of the rules begins anywhere: compiled once, for all layers.
@triton.jit(do_not_specialize_on_alignment=["levels", "routers"])
def _route(
    x: tl.tensor,
    router: tl.tensor,
    levels: tl.tensor,
    routers: tl.tensor,
    price: tl.tensor,
    own: tl.tensor,
    products: tl.tensor,
    arrived: tl.tensor,
    ids: tl.tensor,
    weights: tl.tensor,
    counts: tl.tensor,
    size: tl.tensor,
    experts: tl.constexpr,
    top_k: tl.constexpr,
    renormalised: tl.constexpr,
    lines: tl.constexpr,
    expert_block: tl.constexpr,
    slot_block: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Program (rows of the router, and behind them rows of OTP's routers)."""
    cost = tl.load(price)
    expert_programs: tl.constexpr = (experts + lines - 1) // lines
    line = tl.program_id(0) * lines + tl.arange(0, lines)
    if tl.program_id(0) < expert_programs:
        _multiply(x, router, line, line < experts, size, size, products, lines, block)
    elif cost != 0:
        line -= expert_programs * lines
        behind = products + experts
        stride = size + top_k
        _multiply(x, routers, line, line < top_k - 1, stride, size, behind, lines, block)
    # All threads' products are written before one of them counts the program as arrived.
    tl.debug_barrier()
    if tl.atomic_add(arrived, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        tl.store(arrived, 0)  # for the next launch
        expert = tl.arange(0, expert_block)
        real = expert < experts
        logits = tl.load(products + expert, mask=real, other=-float("inf"), cache_modifier=".cg")
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
        if renormalised:
            share = share / tl.sum(share, axis=0)

        ratio = share / tl.sum(tl.where(slot == 0, share, 0.0), axis=0)
        later = (slot > 0) & (slot < top_k)
        level = tl.load(levels + slot - 1, mask=later, other=0.0)
        keep = (later == 0) | (ratio >= level)
        if tl.min(keep.to(tl.int32), axis=0) == 0:
            importance = _magnitude(x, size, block) * tl.load(own)
            keep = tl.where(importance > tl.load(levels + top_k - 1), True, keep)
        if cost != 0:
            rest = routers + size
            last = _last_worth(ratio, products + experts, rest, size + top_k, cost, slot, top_k)
            keep = keep & ((slot <= last) | (slot >= top_k))
        kept = tl.where(keep, share, 0.0)
        shared = kept / tl.sum(kept, axis=0) * tl.sum(share, axis=0)
        share = tl.where(tl.min(keep.to(tl.int32), axis=0) == 0, shared, share)
        tl.store(ids + slot, tl.where(keep, chosen, -1 - chosen), mask=slot < top_k)
        tl.store(weights + slot, share, mask=slot < top_k)
        place = counts + tl.where(keep, chosen, experts + chosen)
        count = tl.load(place, mask=slot < top_k, other=0)
        tl.store(place, count + 1, mask=slot < top_k)


@dataclass(frozen=True)
class Scratch:
    """What the programs of a launch leave for the last of them: ``products`` float32
    [E + K - 1]; ``arrived`` [1] int32, 0 between launches. One serves all layers."""

    products: Tensor
    arrived: Tensor

    @classmethod
    def allocate(cls, experts: int, top_k: int, device: torch.device | str = "cuda") -> "Scratch":
        """For layers of so many experts."""
        products = torch.zeros(experts + top_k - 1, device=device)
        return cls(products, torch.zeros(1, dtype=torch.int32, device=device))


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
    renormalised: bool,
    rule: LayerRule,
    own: Tensor,
    scratch: Scratch,
    choice: Choice,
) -> None:
    """Choose the experts of a token, prune by `engine.pruning.DecodeRule`, and count.

    x [1, H] is the normed input of the MoE block, ``router_weight`` [E, H], both of any floating
    type; ``renormalised``: the weights of the chosen are made to sum to 1; ``own`` [1] float32. All
    contiguous. Of equal logits the lower expert comes first.
    """
    size, top_k = x.shape[1], choice.ids.shape[1]
    experts = len(choice.counts) // 2
    programs = triton.cdiv(experts, _LINES) + triton.cdiv(top_k - 1, _LINES)
    _route[(programs,)](
        x,
        router_weight,
        rule.levels,
        rule.routers,
        rule.price,
        own,
        scratch.products,
        scratch.arrived,
        choice.ids,
        choice.weights,
        choice.counts,
        size,
        experts=experts,
        top_k=top_k,
        renormalised=renormalised,
        lines=_LINES,
        expert_block=max(2, triton.next_power_of_2(experts)),
        slot_block=max(2, triton.next_power_of_2(top_k)),
        block=min(_BLOCK, triton.next_power_of_2(size)),
        num_warps=8,
        enable_fp_fusion=True,
    )
