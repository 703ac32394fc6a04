"""Attention of one token over the cache, for the compiled step.

`step_table` says what lies in ``model``, ``layer`` and ``call``.
"""

from math import exp, inf, sqrt

from numba import float32, njit
from numpy import rint

from engine.cache import MAX_CODE, MIN_SCALE
from engine.kernels import step_memory as memory
from engine.kernels import step_table as at
from engine.kernels import step_vectors as vectors
from engine.kernels.step_work import FLOAT, HALF, INT, OPTIONS, Table, done, take, tiles_of, wait
from engine.layout import TILE_ROWS


@njit(**OPTIONS)
def _rotate(
    model: Table, call: Table, x: int, head: int, heads: int, norm: int, scale: float, out: int
) -> None:
    """Rotate a head, of ``heads`` at x, to the call's position; see `engine.attention.Rotation`.

    Where there is a ``norm``, the head passes it first, and what there is of a bound.
    """
    dim = model[at.HEAD_DIM]
    half, own = dim // 2, x + head * dim * FLOAT
    if norm != 0:
        whole = model[at.NORM_ALL] != 0
        count = heads * dim if whole else dim
        mean = vectors.sum_of_squares(x if whole else own, count) / float32(count)
        eps = memory.float_at(model[at.EPSILONS], 2 * model[at.LAYERS] + 1)
        factor = float32(1) / float32(sqrt(mean + eps))
        vectors.scale_by(own, factor, norm + head * dim * FLOAT if whole else norm, dim, out)
        own = out
    bound = _bound(model)
    for place in range(half):
        first, second = memory.float_at(own, place), memory.float_at(own, place + half)
        if bound < inf:
            first, second = min(max(first, -bound), bound), min(max(second, -bound), bound)
        turned = _turn(call, place, first, second) * scale
        memory.put_float(out, place + half, _turn(call, place + half, second, first) * scale)
        memory.put_float(out, place, turned)


@njit(**OPTIONS)
def _bound(model: Table) -> float:
    """On the size of queries, keys and values; infinite where there is none."""
    bound: float = memory.float_at(model[at.EPSILONS], 2 * model[at.LAYERS] + 2)
    return bound


@njit(**OPTIONS)
def _turn(call: Table, place: int, value: float, other: float) -> float:
    """An element of a head, given the one that is half of the head away."""
    cos, sin = memory.float_at(call[at.COSINES], place), memory.float_at(call[at.SINES], place)
    turned: float = value * cos + other * sin
    return turned


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
            _remember(model, layer, call, head, mine)
        _attend_part(model, layer, call, head, part, begin, end, mine)
        done(progress, 1)
    wait(model, phase, total)


@njit(**OPTIONS)
def _remember(model: Table, layer: Table, call: Table, head: int, mine: int) -> None:
    """Write the token's key and value of one head into the cache."""
    dim, place = model[at.HEAD_DIM], head * model[at.CAPACITY] + call[at.POSITION]
    keys = model[at.PROJECTED] + tiles_of(layer, at.QUERY) * TILE_ROWS * FLOAT
    heads = model[at.KV_HEADS]
    value = keys + (tiles_of(layer, at.KEY) * TILE_ROWS + head * dim) * FLOAT
    norm, bound = layer[at.KEY_NORM], _bound(model)
    if bound < inf:
        for element in range(dim):
            memory.put_float(
                value, element, min(max(memory.float_at(value, element), -bound), bound)
            )
    if layer[at.KEY_SCALES] == 0:
        row = place * dim * FLOAT
        _rotate(model, call, keys, head, heads, norm, float32(1), layer[at.KEYS] + row)
        vectors.widen_floats(value, dim, layer[at.VALUES] + row)
    else:
        rotated = mine + model[at.QUERIES]
        _rotate(model, call, keys, head, heads, norm, float32(1), rotated)
        _round(rotated, dim, layer[at.KEYS] + place * dim, layer[at.KEY_SCALES], place)
        _round(value, dim, layer[at.VALUES] + place * dim, layer[at.VALUE_SCALES], place)


@njit(**OPTIONS)
def _round(x: int, dim: int, codes: int, scales: int, place: int) -> None:
    """As `engine.cache.round_to_codes` does."""
    most = float32(0)
    for element in range(dim):
        most = max(most, abs(memory.float_at(x, element)))
    memory.put_half(scales, place, max(most / float32(MAX_CODE), float32(MIN_SCALE)))
    scale = memory.half_at(scales, place)
    for element in range(dim):
        code = int(rint(memory.float_at(x, element) / scale))
        memory.put_byte(codes, element, min(max(code, -MAX_CODE), MAX_CODE))


@njit(**OPTIONS)
def _attend_part(
    model: Table, layer: Table, call: Table, head: int, part: int, begin: int, end: int, mine: int
) -> None:
    """What keys ``begin`` to ``end`` give the queries of a key head.

    Their mixture is not divided by the sum of weights yet. The facts: the largest score, the sum
    of exp(score - largest), the score of the last key.
    """
    dim, sharing = model[at.HEAD_DIM], model[at.HEADS] // model[at.KV_HEADS]
    queries, size = mine + model[at.QUERIES], dim * FLOAT
    first = (head * model[at.SPLITS] + part) * sharing
    mixtures, facts = model[at.MIXTURES] + first * size, model[at.FACTS] + first * 3 * FLOAT
    scale = float32(1) / float32(sqrt(float32(dim)))
    vectors.clear(mixtures, sharing * dim)
    for r in range(sharing):
        place, heads, norm = head * sharing + r, model[at.HEADS], layer[at.QUERY_NORM]
        _rotate(model, call, model[at.PROJECTED], place, heads, norm, scale, queries + r * size)
        memory.put_float(facts, 3 * r, float32(-inf))
        memory.put_float(facts, 3 * r + 1, float32(0))
    scores = mine + model[at.SCORES]
    for start in range(begin, end, at.KEY_BLOCK):
        count, place = min(at.KEY_BLOCK, end - start), head * model[at.CAPACITY] + start
        _score(layer, place, count, dim, sharing, queries, scores)
        for r in range(sharing):
            of_query = scores + r * at.KEY_BLOCK * FLOAT
            _scale(of_query, layer[at.KEY_SCALES], place, count)
            _weigh(of_query, count, dim, mixtures + r * size, facts + 3 * r * FLOAT)
            _scale(of_query, layer[at.VALUE_SCALES], place, count)
        _mix(layer, place, count, dim, sharing, scores, mixtures)


@njit(**OPTIONS)
def _score(
    layer: Table, place: int, count: int, dim: int, sharing: int, queries: int, out: int
) -> None:
    """Products of the queries with ``count`` keys from ``place`` on, [R, KEY_BLOCK]."""
    room, codes = at.KEY_BLOCK, layer[at.KEY_SCALES] != 0
    row = place * dim * (1 if codes else FLOAT)
    keys, values = layer[at.KEYS] + row, layer[at.VALUES] + row
    r = 0
    while r < sharing:
        q, scores = queries + r * dim * FLOAT, out + r * room * FLOAT
        some = sharing - r >= vectors.QUERIES
        if some and codes:
            vectors.score_some_codes(q, dim, keys, count, values, room, scores)
        elif some:
            vectors.score_some(q, dim, keys, count, values, room, scores)
        elif codes:
            vectors.score_one_codes(q, dim, keys, count, values, room, scores)
        else:
            vectors.score_one(q, dim, keys, count, values, room, scores)
        r += vectors.QUERIES if some else 1


@njit(**OPTIONS)
def _mix(
    layer: Table, place: int, count: int, dim: int, sharing: int, weights: int, out: int
) -> None:
    """Add ``count`` values from ``place`` on, by their weights [R, KEY_BLOCK], to [R, D]."""
    room, codes = at.KEY_BLOCK, layer[at.VALUE_SCALES] != 0
    values = layer[at.VALUES] + place * dim * (1 if codes else FLOAT)
    r = 0
    while r < sharing:
        of_query, mixture = weights + r * room * FLOAT, out + r * dim * FLOAT
        some = sharing - r >= vectors.QUERIES
        if some and codes:
            vectors.mix_some_codes(of_query, room, values, count, dim, mixture)
        elif some:
            vectors.mix_some(of_query, room, values, count, dim, mixture)
        elif codes:
            vectors.mix_one_codes(of_query, room, values, count, dim, mixture)
        else:
            vectors.mix_one(of_query, room, values, count, dim, mixture)
        r += vectors.QUERIES if some else 1


@njit(**OPTIONS)
def _scale(x: int, scales: int, place: int, count: int) -> None:
    """Multiply x by ``count`` scales from ``place`` on, where the cache has any."""
    if scales == 0:
        return
    whole = count // vectors.LANES * vectors.LANES
    vectors.multiply_halves(x, scales + place * HALF, whole)
    for index in range(whole, count):
        scaled = memory.float_at(x, index) * memory.half_at(scales, place + index)
        memory.put_float(x, index, scaled)


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
