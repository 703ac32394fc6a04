"""Drawing the next token on the device, by `engine.sampling`'s rules, and closing a decode step.

One program goes over the vocabulary twice, a block at a time, whatever its size: for the highest
score, and for the candidates, those that the cuts may keep. All else looks at the candidates alone,
a few tokens mostly. Nothing is sorted: the k-th largest score, and the least share that top-p
keeps, are found two bits at a time from the highest. What an option switches off costs nothing,
although the same launch serves all of them.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.decoding.state import DecodeState
from engine.random_numbers import STEP
from engine.sampling import COLDEST

_STEP: tl.constexpr = tl.constexpr(STEP)
_COLDEST: tl.constexpr = tl.constexpr(COLDEST)
_BLOCK = 4096
"""Scores in registers at once, and the most tokens of top-k for which a bound is known before."""
_PER_THREAD = 8
_COUNTS = 2048
"""Counts in registers at once: 8 of each of 256 threads, whatever the number of layers."""


@dataclass(frozen=True)
class Candidates:
    """The tokens that may be drawn, ascending: ``orders`` int32, their scores' places among all
    numbers; ``shares`` float32; ``tokens`` int32; each with room for the vocabulary [V]."""

    orders: Tensor
    shares: Tensor
    tokens: Tensor

    @classmethod
    def allocate(cls, vocabulary: int, device: torch.device | str) -> "Candidates":
        """For one vocabulary."""
        integers = [torch.zeros(vocabulary, dtype=torch.int32, device=device) for _ in range(2)]
        return cls(integers[0], torch.zeros(vocabulary, device=device), integers[1])


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
def _lowest_kept(
    orders: tl.tensor,
    shares: tl.tensor,
    count: tl.tensor,
    target: tl.tensor,
    by_share: tl.constexpr,
    block: tl.constexpr,
) -> tl.tensor:
    """The largest key such that the candidates of its size or above weigh ``target``, int64.

    ``by_share``: keys are the bits of the shares, which are never negative and so in order, and
    weights the shares; else keys are ``orders`` and every candidate weighs 1. Where all together
    weigh less, the least key that there is.
    """
    found = tl.full((), -(2**31), tl.int64)
    for place in range(16):
        shift = 30 - 2 * place
        tried = found + (tl.arange(0, 4).to(tl.int64) << shift)  # [4]
        weights = tl.zeros((4,), tl.float32)
        for start in range(0, count, block):
            at = start + tl.arange(0, block)
            if by_share:
                weight = tl.load(shares + at, mask=at < count, other=0.0)
                key = weight.to(tl.int32, bitcast=True)
            else:
                weight = (at < count).to(tl.float32)
                key = tl.load(orders + at, mask=at < count, other=0)
            reached = key.to(tl.int64)[:, None] >= tried[None, :]
            weights += tl.sum(tl.where(reached, weight[:, None], 0.0), axis=0)
        # What reaches a number reaches those below: so many of the four are reached.
        enough = tl.sum((weights >= target).to(tl.int64), axis=0)
        found += tl.maximum(enough - 1, 0) << shift
    return found


@triton.jit
def _scores(
    logits: tl.tensor, seen: tl.tensor, penalty: tl.tensor, place: tl.tensor, vocabulary: tl.tensor
) -> tl.tensor:
    """The logits at ``place`` behind the penalty, -inf where there are none."""
    real = place < vocabulary
    score = tl.load(logits + place, mask=real, other=-float("inf"))
    if penalty != 1.0:
        marked = tl.load(seen + place, mask=real, other=0) != 0
        score = tl.where(marked, tl.where(score > 0, score / penalty, score * penalty), score)
    return score


@triton.jit
def _gather(
    logits: tl.tensor,
    seen: tl.tensor,
    penalty: tl.tensor,
    highest: tl.tensor,
    temperature: tl.tensor,
    floor: tl.tensor,
    least: tl.tensor,
    orders: tl.tensor,
    shares: tl.tensor,
    tokens: tl.tensor,
    vocabulary: tl.tensor,
    block: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Store as candidates whose order is ``floor`` and whose share is ``least``, or more.

    How many there are, and the sum of all shares. The likeliest's share is 1.
    """
    lane = tl.arange(0, block)
    count = tl.zeros((), tl.int32)
    total = tl.zeros((), tl.float32)
    for start in range(0, vocabulary, block):
        score = _scores(logits, seen, penalty, start + lane, vocabulary)
        share = tl.exp((score - highest) / tl.maximum(temperature, _COLDEST))
        order = _ordered(score)
        kept = (start + lane < vocabulary) & (order >= floor) & (share >= least)
        place = count + tl.cumsum(kept.to(tl.int32), axis=0) - 1
        tl.store(orders + place, order, mask=kept)
        tl.store(shares + place, share, mask=kept)
        tl.store(tokens + place, start + lane, mask=kept)
        count += tl.sum(kept.to(tl.int32), axis=0)
        total += tl.sum(share, axis=0)
    tl.debug_barrier()  # what a thread reads from here on another may have stored
    return count, total


@triton.jit
def _keep_top_k(
    orders: tl.tensor, shares: tl.tensor, count: tl.tensor, k: tl.tensor, block: tl.constexpr
) -> tl.tensor:
    """Take the shares of those behind the k-th largest away; the sum of the others."""
    lowest = _lowest_kept(orders, shares, count, k, False, block)
    total = tl.zeros((), tl.float32)
    for start in range(0, count, block):
        at = start + tl.arange(0, block)
        order = tl.load(orders + at, mask=at < count, other=0)
        share = tl.load(shares + at, mask=at < count, other=0.0)
        share = tl.where(order >= lowest, share, 0.0)
        tl.store(shares + at, share, mask=at < count)
        total += tl.sum(share, axis=0)
    tl.debug_barrier()
    return total


@triton.jit
def _keep_top_p(
    orders: tl.tensor,
    shares: tl.tensor,
    count: tl.tensor,
    target: tl.tensor,
    block: tl.constexpr,
) -> None:
    """Leave the fewest of the largest shares that reach ``target``; of equal ones, the first."""
    cut = _lowest_kept(orders, shares, count, target, True, block)
    above = tl.zeros((), tl.float32)
    for start in range(0, count, block):
        at = start + tl.arange(0, block)
        share = tl.load(shares + at, mask=at < count, other=0.0)
        above += tl.sum(tl.where(share.to(tl.int32, bitcast=True) > cut, share, 0.0), axis=0)
    before = tl.zeros((), tl.int32)
    for start in range(0, count, block):
        at = start + tl.arange(0, block)
        share = tl.load(shares + at, mask=at < count, other=0.0)
        bits = share.to(tl.int32, bitcast=True)
        equal = (bits == cut).to(tl.int32)
        rank = before + tl.cumsum(equal, axis=0) - equal
        kept = (bits > cut) | ((bits == cut) & (above + rank * share < target))
        tl.store(shares + at, tl.where(kept, share, 0.0), mask=at < count)
        before += tl.sum(equal, axis=0)
    tl.debug_barrier()


@triton.jit
def _pick(
    shares: tl.tensor,
    tokens: tl.tensor,
    count: tl.tensor,
    min_p: tl.tensor,
    number: tl.tensor,
    otherwise: tl.tensor,
    block: tl.constexpr,
) -> tl.tensor:
    """The candidate at whose share ``number``, of the sum of those of ``min_p`` or more, falls."""
    total = tl.zeros((), tl.float32)
    for start in range(0, count, block):
        at = start + tl.arange(0, block)
        share = tl.load(shares + at, mask=at < count, other=0.0)
        total += tl.sum(tl.where(share >= min_p, share, 0.0), axis=0)
    passed = tl.zeros((), tl.float32)
    chosen = otherwise
    for start in range(0, count, block):
        at = start + tl.arange(0, block)
        share = tl.load(shares + at, mask=at < count, other=0.0)
        share = tl.where(share >= min_p, share, 0.0)
        token = tl.load(tokens + at, mask=at < count, other=0)
        until = passed + tl.cumsum(share, axis=0) - share
        reached = (share > 0) & (until <= number * total)
        last = tl.max(tl.where(reached, token, -1), axis=0)
        chosen = tl.where(last >= 0, last, chosen)
        passed += tl.sum(share, axis=0)
    return chosen


@triton.jit
def _draw(
    logits: tl.tensor,
    settings: tl.tensor,
    key: tl.tensor,
    drawn: tl.tensor,
    seen: tl.tensor,
    token: tl.tensor,
    picked: tl.tensor,
    orders: tl.tensor,
    shares: tl.tensor,
    tokens: tl.tensor,
    vocabulary: tl.tensor,
    block: tl.constexpr,
) -> None:
    lane = tl.arange(0, block)
    index = tl.load(drawn)
    temperature, top_k = tl.load(settings), tl.load(settings + 1)
    top_p, min_p, penalty = tl.load(settings + 2), tl.load(settings + 3), tl.load(settings + 4)
    best = tl.full((block,), -float("inf"), tl.float32)  # of each lane's scores
    first = tl.zeros((block,), tl.int32)  # where it is
    strange = tl.zeros((block,), tl.int32)
    for start in range(0, vocabulary, block):
        score = _scores(logits, seen, penalty, start + lane, vocabulary)
        first = tl.where(score > best, start + lane, first)
        best = tl.where(score > best, score, best)
        strange += (score != score).to(tl.int32)
    highest = tl.max(best, axis=0)
    chosen = tl.min(tl.where(best == highest, first, vocabulary - 1), axis=0)
    numbers = (tl.sum(strange, axis=0) == 0) & (tl.abs(highest) < float("inf"))
    if temperature > 0:
        wanted = tl.minimum(top_k.to(tl.int32), vocabulary)
        floor = tl.full((), -(2**31), tl.int32)
        least = min_p
        if top_k > 0:
            least = 0.0  # a share's part of the sum is not known yet
            if wanted <= block:
                # So many lanes' best reach it: so many scores.
                floor = _kth_largest(_ordered(best), wanted)
        elif top_p < 1:
            # All below are less than 1 - p together, and all shares together 1 or more.
            least = (1 - top_p) / vocabulary
        count, total = _gather(
            logits, seen, penalty, highest, temperature, floor, least,
            orders, shares, tokens, vocabulary, block,
        )  # fmt: skip
        if top_k > 0:
            total = _keep_top_k(orders, shares, count, wanted, block)
        if top_p < 1:
            _keep_top_p(orders, shares, count, top_p * total, block)
        seed = (tl.load(key + 1) << 32) | tl.load(key)
        word = tl.randint(seed, index.to(tl.int32)).to(tl.uint32, bitcast=True)
        number = (word >> 8).to(tl.float32) * _STEP
        chosen = _pick(shares, tokens, count, min_p, number, chosen, block)
    tl.store(token, chosen)
    tl.store(picked, tl.where(numbers, chosen, -1))
    tl.store(seen + chosen, 1)
    tl.store(drawn, index + 1)


def draw(state: DecodeState, candidates: Candidates) -> None:
    """Draw ``state.token`` from the logits; see `engine.decoding.operations.Operations.draw`.

    ``candidates`` are overwritten.
    """
    logits, drawing = state.activations.logits, state.drawing
    block = min(_BLOCK, triton.next_power_of_2(logits.numel()))
    _draw[(1,)](
        logits,
        drawing.options,
        drawing.key,
        drawing.drawn,
        drawing.seen,
        state.token,
        drawing.picked,
        candidates.orders,
        candidates.shares,
        candidates.tokens,
        logits.numel(),
        block=block,
        num_warps=max(4, block // (32 * _PER_THREAD)),
        enable_fp_fusion=False,
    )


@triton.jit(do_not_specialize=["size"])
def _leave(
    picked: tl.tensor,
    counts: tl.tensor,
    slot: tl.tensor,
    ring: tl.tensor,
    size: tl.tensor,
    block: tl.constexpr,
) -> None:
    at = tl.load(slot)
    row = ring + at * (size + 1)
    tl.store(row, tl.load(picked))
    for first in range(0, size, block):
        place = first + tl.arange(0, block)
        inside = place < size
        # A thread has places of its own: it reads before it writes.
        tl.store(row + 1 + place, tl.load(counts + place, mask=inside), mask=inside)
        tl.store(counts + place, tl.zeros((block,), tl.int64), mask=inside)
    tl.debug_barrier()  # every thread has read the slot
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
        block=_COUNTS,
        num_warps=8,
    )
