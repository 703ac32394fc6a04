"""Which experts a token of the compiled step runs: the likeliest, and which of them are skipped.

`step_table` says what lies in ``model`` and ``call``; ``ids`` and ``shares`` are the addresses of
the layer's experts and of their weights.
"""

from math import exp, log

from numba import float32, njit

from engine.kernels import step_memory as memory
from engine.kernels import step_table as at
from engine.kernels import step_vectors as vectors
from engine.kernels.step_attention import own_attention, visible
from engine.kernels.step_work import FLOAT, OPTIONS, Table
from engine.otp import FARTHEST


@njit(**OPTIONS)
def choose(chances: int, model: Table, ids: int, shares: int) -> None:
    """The likeliest experts, the likeliest first, and their weights.

    ``chances`` are the router's logits.
    """
    experts, top_k = model[at.EXPERTS], model[at.TOP_K]
    most, every, total = memory.float_at(chances, 0), float32(0), float32(0)
    for expert in range(1, experts):
        most = max(most, memory.float_at(chances, expert))
    for expert in range(experts):
        chance = float32(exp(memory.float_at(chances, expert) - most))
        memory.put_float(chances, expert, chance)
        every += chance
    for k in range(top_k):
        best = -1
        for expert in range(experts):
            chance = memory.float_at(chances, expert)
            # Those already chosen are below 0; with NaNs some expert runs all the same.
            if not chance < 0 and (best < 0 or chance > memory.float_at(chances, best)):
                best = expert
        chance = memory.float_at(chances, best)
        memory.put_int(ids, k, best)
        memory.put_float(shares, k, chance)
        memory.put_float(chances, best, float32(-1))
        total += chance
    if model[at.RENORMALISED] == 0:
        total = every
    for k in range(top_k):
        memory.put_float(shares, k, memory.float_at(shares, k) / total)


@njit(**OPTIONS)
def prune(model: Table, call: Table, index: int, ids: int, shares: int) -> None:
    """Skip the slots that the layer's rule says are light; see `engine.pruning.DecodeRule`."""
    top_k = model[at.TOP_K]
    rule, heaviest, light = model[at.RULE] + index * top_k * FLOAT, memory.float_at(shares, 0), 0
    for rank in range(1, top_k):
        if not memory.float_at(shares, rank) / heaviest >= memory.float_at(rule, rank - 1):
            light += 1
    if light == 0:
        return
    _, parts = visible(model, call)
    size = vectors.sum_of_magnitudes(model[at.NORMED], model[at.HIDDEN])
    if size * own_attention(model, parts) > memory.float_at(rule, top_k - 1):
        return
    for rank in range(1, top_k):
        if not memory.float_at(shares, rank) / heaviest >= memory.float_at(rule, rank - 1):
            memory.put_int(ids, rank, -1 - memory.int_at(ids, rank))
    _share_out(top_k, ids, shares)


@njit(**OPTIONS)
def keep_worth(model: Table, index: int, ids: int, shares: int) -> None:
    """Keep as many of the slots as are worth their price; see `engine.otp`."""
    top_k, hidden = model[at.TOP_K], model[at.HIDDEN]
    price = memory.float_at(model[at.PRICE], 0)
    count, least = top_k, price * float32(top_k - 1)
    for kept in range(top_k - 1, 0, -1):
        row = model[at.OTP] + ((index * (top_k - 1)) + kept - 1) * (hidden + top_k) * FLOAT
        foretold = vectors.float_product(row, model[at.NORMED], hidden)
        for rank in range(1, top_k):
            ratio = memory.float_at(shares, rank) / memory.float_at(shares, 0)
            logarithm = max(float32(log(ratio)), float32(-FARTHEST))
            foretold += logarithm * memory.float_at(row, hidden + rank - 1)
        foretold += memory.float_at(row, hidden + top_k - 1)
        foretold = min(max(foretold, float32(-FARTHEST)), float32(FARTHEST))
        cost = float32(exp(foretold)) + price * float32(kept - 1)
        if cost <= least:
            count, least = kept, cost
    if count < top_k:
        for rank in range(count, top_k):
            memory.put_int(ids, rank, -1 - memory.int_at(ids, rank))
        _share_out(top_k, ids, shares)


@njit(**OPTIONS)
def _share_out(top_k: int, ids: int, shares: int) -> None:
    """Give the weight of the slots that are skipped to the others."""
    total, kept = float32(0), float32(0)
    for rank in range(top_k):
        total += memory.float_at(shares, rank)
        if memory.int_at(ids, rank) >= 0:
            kept += memory.float_at(shares, rank)
    for rank in range(top_k):
        share = float32(0)
        if memory.int_at(ids, rank) >= 0:
            share = memory.float_at(shares, rank) / kept * total
        memory.put_float(shares, rank, share)
