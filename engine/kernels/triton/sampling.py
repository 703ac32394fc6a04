"""Drawing the next token on the device, by `engine.sampling`'s rules, and closing a decode step.

One program holds the whole vocabulary in registers. Nothing is sorted: the k-th largest score, and
the least share that top-p keeps, are found bit by bit from the highest. What an option switches off
costs nothing, although the same launch serves all of them.
"""

import triton
import triton.language as tl

from engine.decoding.state import DecodeState
from engine.random_numbers import STEP
from engine.sampling import COLDEST

_STEP: tl.constexpr = tl.constexpr(STEP)
_COLDEST: tl.constexpr = tl.constexpr(COLDEST)
_PER_THREAD = 32
"""Scores that a thread holds, where the GPU's 1024 threads a program are enough for that."""


@triton.jit
def _ordered(x: tl.tensor) -> tl.tensor:
    """Integers in the order of float32 x: bits 0 to 30 of negative numbers are turned around."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _kth_largest(keys: tl.tensor, k: tl.tensor) -> tl.tensor:
    """The k-th largest of int32 ``keys``: the largest number that k of them reach."""
    found = tl.full((), -(2**31), tl.int32)
    # The sign first: is the k-th largest 0 or above?
    if tl.sum((keys >= 0).to(tl.int32), axis=0) >= k:
        found = tl.full((), 0, tl.int32)
    for place in range(31):
        tried = found | (1 << (30 - place))
        if tl.sum((keys >= tried).to(tl.int32), axis=0) >= k:
            found = tried
    return found


@triton.jit
def _least_kept(shares: tl.tensor, target: tl.tensor) -> tl.tensor:
    """The bits of the largest share such that all those of its size or above reach ``target``."""
    bits = shares.to(tl.int32, bitcast=True)  # of numbers that are not negative: in their order
    found = tl.full((), 0, tl.int32)
    for place in range(31):
        tried = found | (1 << (30 - place))
        if tl.sum(tl.where(bits >= tried, shares, 0.0), axis=0) >= target:
            found = tried
    return found


@triton.jit
def _draw(
    logits: tl.tensor,
    settings: tl.tensor,
    key: tl.tensor,
    drawn: tl.tensor,
    seen: tl.tensor,
    token: tl.tensor,
    picked: tl.tensor,
    vocabulary: tl.tensor,
    block: tl.constexpr,
) -> None:
    place = tl.arange(0, block)
    real = place < vocabulary
    index = tl.load(drawn)
    temperature, top_k = tl.load(settings), tl.load(settings + 1)
    top_p, min_p, penalty = tl.load(settings + 2), tl.load(settings + 3), tl.load(settings + 4)
    score = tl.load(logits + place, mask=real, other=-float("inf"))
    if penalty != 1.0:
        marked = tl.load(seen + place, mask=real, other=0) != 0
        score = tl.where(marked, tl.where(score > 0, score / penalty, score * penalty), score)
    highest = tl.max(score, axis=0)
    chosen = tl.min(tl.where(score == highest, place, block), axis=0)
    numbers = (tl.sum((score != score).to(tl.int32), axis=0) == 0) & (
        tl.abs(highest) < float("inf")
    )
    if temperature > 0:
        share = tl.exp((score - highest) / tl.maximum(temperature, _COLDEST))
        if top_k > 0:
            order = _ordered(score)
            count = tl.minimum(top_k.to(tl.int32), vocabulary)
            share = tl.where(order >= _kth_largest(order, count), share, 0.0)
        if top_p < 1:
            target = top_p * tl.sum(share, axis=0)
            bits = share.to(tl.int32, bitcast=True)
            least = _least_kept(share, target)
            above = tl.sum(tl.where(bits > least, share, 0.0), axis=0)
            equal = tl.where(bits == least, share, 0.0)
            before = above + tl.cumsum(equal, axis=0) - equal
            kept = (bits > least) | ((bits == least) & (before < target))
            share = tl.where(kept, share, 0.0)
        share = tl.where(share >= min_p, share, 0.0)
        sums = tl.cumsum(share, axis=0)
        seed = (tl.load(key + 1) << 32) | tl.load(key)
        word = tl.randint(seed, index.to(tl.int32)).to(tl.uint32, bitcast=True)
        target = (word >> 8).to(tl.float32) * _STEP * tl.sum(share, axis=0)
        reached = (share > 0) & (sums - share <= target)
        chosen = tl.max(tl.where(reached, place, 0), axis=0)
    chosen = tl.minimum(chosen, vocabulary - 1)
    tl.store(token, chosen)
    tl.store(picked, tl.where(numbers, chosen, -1))
    tl.store(seen + chosen, 1)
    tl.store(drawn, index + 1)


def draw(state: DecodeState) -> None:
    """Draw ``state.token`` from the logits; see `engine.decoding.operations.Operations.draw`."""
    logits, drawing = state.activations.logits, state.drawing
    block = triton.next_power_of_2(logits.numel())
    _draw[(1,)](
        logits,
        drawing.options,
        drawing.key,
        drawing.drawn,
        drawing.seen,
        state.token,
        drawing.picked,
        logits.numel(),
        block=block,
        num_warps=min(32, max(4, block // (32 * _PER_THREAD))),
    )


@triton.jit
def _leave(
    picked: tl.tensor,
    counts: tl.tensor,
    slot: tl.tensor,
    ring: tl.tensor,
    size: tl.tensor,
    block: tl.constexpr,
) -> None:
    place = tl.arange(0, block)
    inside = place < size
    at = tl.load(slot)
    row = ring + at * (size + 1)
    tl.store(row, tl.load(picked))
    tl.store(row + 1 + place, tl.load(counts + place, mask=inside), mask=inside)
    tl.debug_barrier()  # every thread has read them
    tl.store(counts + place, tl.zeros((block,), tl.int64), mask=inside)
    tl.store(slot, at + 1)


def leave(state: DecodeState) -> None:
    """Put the token and the step's counts into the ring; the next slot, counts from 0."""
    size = state.counts.numel()
    _leave[(1,)](
        state.drawing.picked,
        state.counts,
        state.slot,
        state.ring,
        size,
        block=triton.next_power_of_2(size),
        num_warps=4,
    )
