"""Attention of one token over the cache, for the compiled step.

`step_table` says what lies in ``model``, ``layer`` and ``call``.
"""

from math import exp, inf, sqrt

from numba import float32, njit

from engine.kernels import step_memory as memory
from engine.kernels import step_table as at
from engine.kernels import step_vectors as vectors
from engine.kernels.step_work import FLOAT, INT, OPTIONS, Table, done, take, tiles_of, wait
from engine.layout import TILE_ROWS


@njit(**OPTIONS)
def _rotate(x: int, call: Table, dim: int, scale: float, out: int) -> None:
    """Rotate a head to the call's position; see `engine.attention.Rotation`."""
    half = dim // 2
    for place in range(dim):
        other = place + half if place < half else place - half
        cos, sin = memory.float_at(call[at.COSINES], place), memory.float_at(call[at.SINES], place)
        value = memory.float_at(x, place) * cos + memory.float_at(x, other) * sin
        memory.put_float(out, place, value * scale)


@njit(**OPTIONS)
def visible(model: Table, call: Table) -> tuple[int, int]:
    """The first key that the token sees, and into how many parts all of them fall."""
    first = max(0, call[at.POSITION] + 1 - model[at.WINDOW])
    count = call[at.POSITION] + 1 - first
    return first, (count + at.SPLIT_KEYS - 1) // at.SPLIT_KEYS


@njit(**OPTIONS)
def attend(model: Table, layer: Table, call: Table, phase: int, mine: int) -> None:
    """Attention of all heads, parts of the keys apart; the last part's takers write the cache."""
    progress = model[at.PROGRESS] + phase * at.LINE * INT
    first_key, parts = visible(model, call)
    total = model[at.KV_HEADS] * parts
    while True:
        item, after = take(progress, total, model[at.THREADS], 1)
        if item == after:
            break
        head, part = item // parts, item % parts
        begin = first_key + part * at.SPLIT_KEYS
        end = min(begin + at.SPLIT_KEYS, call[at.POSITION] + 1)
        if part == parts - 1:
            _remember(model, layer, call, head)
        _attend_part(model, layer, call, head, part, begin, end, mine)
        done(progress, 1)
    wait(model, phase, total)


@njit(**OPTIONS)
def _remember(model: Table, layer: Table, call: Table, head: int) -> None:
    """Write the token's key and value of one head into the cache."""
    dim = model[at.HEAD_DIM]
    row = (head * model[at.CAPACITY] + call[at.POSITION]) * dim * FLOAT
    key = model[at.PROJECTED] + tiles_of(layer, at.QUERY) * TILE_ROWS * FLOAT
    value = key + tiles_of(layer, at.KEY) * TILE_ROWS * FLOAT
    own = head * dim * FLOAT
    _rotate(key + own, call, dim, float32(1), layer[at.KEYS] + row)
    vectors.widen_floats(value + own, dim, layer[at.VALUES] + row)


@njit(**OPTIONS)
def _attend_part(
    model: Table,
    layer: Table,
    call: Table,
    head: int,
    part: int,
    begin: int,
    end: int,
    mine: int,
) -> None:
    """What keys ``begin`` to ``end`` give the queries of a key head.

    Their mixture is not divided by the sum of weights yet. The facts: the largest score, the sum
    of exp(score - largest), the score of the last key.
    """
    dim, sharing = model[at.HEAD_DIM], model[at.HEADS] // model[at.KV_HEADS]
    queries, scores = mine + model[at.QUERIES], mine + model[at.SCORES]
    size, room = dim * FLOAT, at.KEY_BLOCK
    place = (head * model[at.SPLITS] + part) * sharing
    mixtures, facts = model[at.MIXTURES] + place * size, model[at.FACTS] + place * 3 * FLOAT
    scale = float32(1) / float32(sqrt(float32(dim)))
    vectors.clear(mixtures, sharing * dim)
    for r in range(sharing):
        query = model[at.PROJECTED] + (head * sharing + r) * size
        _rotate(query, call, dim, scale, queries + r * size)
        memory.put_float(facts, 3 * r, float32(-inf))
        memory.put_float(facts, 3 * r + 1, float32(0))
    for start in range(begin, end, at.KEY_BLOCK):
        count = min(at.KEY_BLOCK, end - start)
        row = (head * model[at.CAPACITY] + start) * size
        keys, values = layer[at.KEYS] + row, layer[at.VALUES] + row
        r = 0
        while r < sharing:
            out = scores + r * room * FLOAT
            if sharing - r >= vectors.QUERIES:
                vectors.score_some(queries + r * size, dim, keys, count, values, room, out)
                r += vectors.QUERIES
            else:
                vectors.score_one(queries + r * size, dim, keys, count, values, room, out)
                r += 1
        for r in range(sharing):
            _weigh(
                scores + r * room * FLOAT, count, dim, mixtures + r * size, facts + 3 * r * FLOAT
            )
        r = 0
        while r < sharing:
            weights = scores + r * room * FLOAT
            if sharing - r >= vectors.QUERIES:
                vectors.mix_some(weights, room, values, count, dim, mixtures + r * size)
                r += vectors.QUERIES
            else:
                vectors.mix_one(weights, room, values, count, dim, mixtures + r * size)
                r += 1


@njit(**OPTIONS)
def _weigh(scores: int, count: int, dim: int, mixture: int, facts: int) -> None:
    """Scores of one query become weights; what there was before is scaled to them."""
    padded = (count + vectors.LANES - 1) // vectors.LANES * vectors.LANES
    memory.put_float(facts, 2, memory.float_at(scores, count - 1))
    for place in range(count, padded):
        memory.put_float(scores, place, float32(-inf))
    before = memory.float_at(facts, 0)
    most = max(before, vectors.largest(scores, padded))
    total = vectors.exponentials(scores, most, padded)
    if most != before:
        shrink = float32(exp(before - most))
        vectors.multiply(mixture, shrink, dim)
        total += shrink * memory.float_at(facts, 1)
        memory.put_float(facts, 0, most)
    else:
        total += memory.float_at(facts, 1)
    memory.put_float(facts, 1, total)


@njit(**OPTIONS)
def _largest_and_sum(model: Table, head: int, parts: int) -> tuple[float, float]:
    """The largest score of a query head, and the sum of exp(score - largest), over all parts."""
    sharing = model[at.HEADS] // model[at.KV_HEADS]
    first = (head // sharing) * model[at.SPLITS] * sharing + head % sharing
    most, total = float32(-inf), float32(0)
    for part in range(parts):
        most = max(most, memory.float_at(model[at.FACTS], 3 * (first + part * sharing)))
    for part in range(parts):
        fact = 3 * (first + part * sharing)
        shrink = float32(exp(memory.float_at(model[at.FACTS], fact) - most))
        total += shrink * memory.float_at(model[at.FACTS], fact + 1)
    return most, total


@njit(**OPTIONS)
def combine(model: Table, parts: int, out: int) -> None:
    """The parts' mixtures become the attention's output [N * D]."""
    dim, sharing = model[at.HEAD_DIM], model[at.HEADS] // model[at.KV_HEADS]
    vectors.clear(out, model[at.HEADS] * dim)
    for head in range(model[at.HEADS]):
        most, total = _largest_and_sum(model, head, parts)
        first = (head // sharing) * model[at.SPLITS] * sharing + head % sharing
        mixed = out + head * dim * FLOAT
        for part in range(parts):
            place = first + part * sharing
            share = float32(exp(memory.float_at(model[at.FACTS], 3 * place) - most)) / total
            mixture = model[at.MIXTURES] + place * dim * FLOAT
            vectors.plus_scaled(mixed, mixture, share, dim, mixed)


@njit(**OPTIONS)
def own_attention(model: Table, parts: int) -> float:
    """The token's attention to itself, mean over heads."""
    sharing, heads = model[at.HEADS] // model[at.KV_HEADS], model[at.HEADS]
    shares: float = float32(0)
    for head in range(heads):
        most, total = _largest_and_sum(model, head, parts)
        last = ((head // sharing) * model[at.SPLITS] + parts - 1) * sharing + head % sharing
        shares += float32(exp(memory.float_at(model[at.FACTS], 3 * last + 2) - most)) / total
    return shares / float(heads)
