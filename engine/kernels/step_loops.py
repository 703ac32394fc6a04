"""One token through the whole model: every thread calls `run` and does its share of each phase.

A phase is a number of items (row tiles; a key head's part of the keys) that threads take from a
shared counter, and is over when all are done. A thread that comes late, or sleeps between two
items, holds nobody up: it finds nothing to take and goes on. What a phase needs beforehand (a norm,
say) each thread works out for itself; a late one may do that from memory which already holds
something newer, but then nothing is left to take. An item is computed by one thread in one order,
so that results do not depend on who took it.

`step_table` says what lies in ``model``, ``layer`` and ``call``; ``mine`` is the address of what
the thread has for itself.
"""

import time
from math import exp, inf, sqrt
from typing import Any

from numba import float32, int64, njit, void
from numpy.typing import NDArray

from engine.kernels import step_memory as memory
from engine.kernels import step_products as products
from engine.kernels import step_table as at
from engine.kernels import step_vectors as vectors
from engine.layout import TILE_ROWS

_OPTIONS: dict[str, Any] = {
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
"""Of what only compiled functions call: without doors of its own it compiles sooner."""

Table = NDArray[Any]

_PATIENCE = 2000
"""Looks at a counter before the core is offered to others: some tens of microseconds."""

_FLOAT, _HALF, _INT = 4, 2, 8  # bytes

_MONOTONIC = getattr(time, "CLOCK_MONOTONIC", 0)  # Windows has none, and no stamps

_tables_1, _tables_2 = products.table_maker(1), products.table_maker(2)
_product_1, _product_2, _product_3, _product_4, _product_8 = (
    products.block_product(bits) for bits in (1, 2, 3, 4, 8)
)


@njit(**_OPTIONS)
def _take(progress: int, total: int, threads: int, most: int) -> tuple[int, int]:
    """Some of ``total`` items that nobody else has, from the first to before the last.

    Fewer towards the end, so that threads end together. None are left: the first is ``total``.
    """
    while True:
        first = memory.shared_int(progress)
        if first >= total:
            return total, total
        count = total - first
        if threads > 1:
            count = (count + 2 * threads - 1) // (2 * threads)
        last = first + min(count, most)
        if memory.exchange_if(progress, first, last):
            return first, last


@njit(**_OPTIONS)
def _done(progress: int, count: int) -> None:
    """Say that some items are done."""
    memory.add_shared(progress + at.LINE // 2 * _INT, count)


@njit(**_OPTIONS)
def _wait(model: Table, phase: int, total: int) -> None:
    """Until all items of a phase are done; a busy machine gets the core meanwhile."""
    progress = model[at.PROGRESS] + phase * at.LINE * _INT + at.LINE // 2 * _INT
    looks = 0
    while memory.shared_int(progress) < total:
        looks += 1
        if looks > _PATIENCE:
            memory.call_at(model[at.YIELD])
        else:
            memory.pause()


@njit(**_OPTIONS)
def _add_tiles(
    bits: int,
    codes: int,
    scales: int,
    zeros: int,
    tiles: int,
    columns: int,
    group: int,
    start: int,
    count: int,
    first: int,
    last: int,
    mine: int,
    model: Table,
    out: int,
) -> None:
    """Add to ``out`` what ``count`` inputs from ``start`` on give the rows of some tiles.

    Their tables and sums are in ``mine``.
    """
    sums, pairs, quads = mine + model[at.SUMS], mine + model[at.PAIRS], mine + model[at.QUADS]
    groups = count // group
    for tile in range(first, last):
        place = (tile * columns + start) // group * TILE_ROWS * _HALF
        rows = out + (tile - first) * TILE_ROWS * _FLOAT
        where = codes, tiles, columns, tile, start, groups, group, pairs, quads
        scaling = scales + place, zeros + place, sums, rows
        if bits == 1:
            _product_1(*where, *scaling)
        elif bits == 2:
            _product_2(*where, *scaling)
        elif bits == 3:
            _product_3(*where, *scaling)
        elif bits == 4:
            _product_4(*where, *scaling)
        else:
            _product_8(*where, *scaling)


@njit(**_OPTIONS)
def _prepare(x: int, count: int, group: int, two: bool, one: bool, mine: int, model: Table) -> None:
    """Sums and tables of some inputs: for planes of ``two`` bits, of ``one`` bit."""
    for index in range(count // group):
        total = vectors.sum_of(x + index * group * _FLOAT, group)
        memory.put_float(mine + model[at.SUMS], index, total)
    if two:
        _tables_2(x, count, mine + model[at.PAIRS])
    if one:
        _tables_1(x, count, mine + model[at.QUADS])


@njit(**_OPTIONS)
def _block(group: int) -> int:
    """Inputs whose tables are made at once: whole groups."""
    return max(group, at.COLUMN_BLOCK // group * group)


@njit(**_OPTIONS)
def _tiles(table: Table, place: int) -> int:
    """Row tiles of a dense layer."""
    tiles: int = (table[place + at.ROWS] + TILE_ROWS - 1) // TILE_ROWS
    return tiles


@njit(**_OPTIONS)
def _rows(
    table: Table, place: int, first: int, last: int, x: int, mine: int, model: Table, out: int
) -> None:
    """Row tiles ``first`` to ``last`` of the dense layer at ``place`` of the table, times x."""
    kind, columns = table[place + at.KIND], table[place + at.COLUMNS]
    weights = table[place + at.WEIGHTS]
    if kind == at.PACKED_WEIGHTS:
        bits, group = table[place + at.BITS], table[place + at.GROUP]
        tiles = _tiles(table, place)
        scales, zeros = table[place + at.SCALES], table[place + at.ZEROS]
        vectors.clear(out, (last - first) * TILE_ROWS)
        block = _block(group)
        for start in range(0, columns, block):
            count = min(block, columns - start)
            _prepare(x + start * _FLOAT, count, group, bits > 1, bits % 2 == 1, mine, model)
            _add_tiles(
                bits,
                weights,
                scales,
                zeros,
                tiles,
                columns,
                group,
                start,
                count,
                first,
                last,
                mine,
                model,
                out,
            )
        return
    for row in range(first * TILE_ROWS, min(last * TILE_ROWS, table[place + at.ROWS])):
        begin = row * columns
        if kind == at.FLOAT_WEIGHTS:
            value = vectors.float_product(weights + begin * _FLOAT, x, columns)
        elif kind == at.HALF_WEIGHTS:
            value = vectors.half_product(weights + begin * _HALF, x, columns)
        else:
            value = vectors.brain_product(weights + begin * _HALF, x, columns)
        memory.put_float(out, row - first * TILE_ROWS, value)


@njit(**_OPTIONS)
def _norm(model: Table, x: int, weight: int, number: int, out: int) -> None:
    """RMS norm ``number`` of the residual stream at x."""
    count = model[at.HIDDEN]
    mean = vectors.sum_of_squares(x, count) / float32(count)
    eps = memory.float_at(model[at.EPSILONS], number)
    vectors.scale_by(x, float32(1) / float32(sqrt(mean + eps)), weight, count, out)


@njit(**_OPTIONS)
def _embed(model: Table, call: Table, phase: int) -> None:
    """The token's embedding becomes the residual stream."""
    progress = model[at.PROGRESS] + phase * at.LINE * _INT
    first, last = _take(progress, 1, 1, 1)
    if first < last:
        count = model[at.HIDDEN]
        begin, kind, out = call[at.TOKEN] * count, model[at.EMBED_KIND], model[at.STREAM]
        if kind == at.FLOAT_WEIGHTS:
            vectors.widen_floats(model[at.EMBED] + begin * _FLOAT, count, out)
        elif kind == at.HALF_WEIGHTS:
            vectors.widen_halves(model[at.EMBED] + begin * _HALF, count, out)
        else:
            vectors.widen_brains(model[at.EMBED] + begin * _HALF, count, out)
        _done(progress, 1)
    _wait(model, phase, 1)


@njit(**_OPTIONS)
def _project(model: Table, layer: Table, index: int, phase: int, mine: int) -> None:
    """q, k and v of the normed residual stream, side by side."""
    progress = model[at.PROGRESS] + phase * at.LINE * _INT
    queries, keys = _tiles(layer, at.QUERY), _tiles(layer, at.KEY)
    total = queries + 2 * keys
    if memory.shared_int(progress) < total:
        x = mine + model[at.INPUTS]
        _norm(model, model[at.STREAM], layer[at.INPUT_NORM], 2 * index, x)
        while True:
            first, last = _take(progress, total, model[at.THREADS], at.TILES)
            if first == last:
                break
            out = model[at.PROJECTED]
            for place, begin, tiles in (
                (at.QUERY, 0, queries),
                (at.KEY, queries, keys),
                (at.VALUE, queries + keys, keys),
            ):
                low, high = max(first, begin), min(last, begin + tiles)
                if low < high:
                    _rows(
                        layer,
                        place,
                        low - begin,
                        high - begin,
                        x,
                        mine,
                        model,
                        out + low * TILE_ROWS * _FLOAT,
                    )
            _done(progress, last - first)
    _wait(model, phase, total)


@njit(**_OPTIONS)
def _rotate(x: int, call: Table, dim: int, scale: float, out: int) -> None:
    """Rotate a head to the call's position; see `engine.attention.Rotation`."""
    half = dim // 2
    for place in range(dim):
        other = place + half if place < half else place - half
        cos, sin = memory.float_at(call[at.COSINES], place), memory.float_at(call[at.SINES], place)
        value = memory.float_at(x, place) * cos + memory.float_at(x, other) * sin
        memory.put_float(out, place, value * scale)


@njit(**_OPTIONS)
def _visible(model: Table, call: Table) -> tuple[int, int]:
    """The first key that the token sees, and into how many parts all of them fall."""
    first = max(0, call[at.POSITION] + 1 - model[at.WINDOW])
    count = call[at.POSITION] + 1 - first
    return first, (count + at.SPLIT_KEYS - 1) // at.SPLIT_KEYS


@njit(**_OPTIONS)
def _attend(model: Table, layer: Table, call: Table, phase: int, mine: int) -> None:
    """Attention of all heads, parts of the keys apart; the last part's takers write the cache."""
    progress = model[at.PROGRESS] + phase * at.LINE * _INT
    first_key, parts = _visible(model, call)
    total = model[at.KV_HEADS] * parts
    while True:
        item, after = _take(progress, total, model[at.THREADS], 1)
        if item == after:
            break
        head, part = item // parts, item % parts
        begin = first_key + part * at.SPLIT_KEYS
        end = min(begin + at.SPLIT_KEYS, call[at.POSITION] + 1)
        if part == parts - 1:
            _remember(model, layer, call, head)
        _attend_part(model, layer, call, head, part, begin, end, mine)
        _done(progress, 1)
    _wait(model, phase, total)


@njit(**_OPTIONS)
def _remember(model: Table, layer: Table, call: Table, head: int) -> None:
    """Write the token's key and value of one head into the cache."""
    dim = model[at.HEAD_DIM]
    row = (head * model[at.CAPACITY] + call[at.POSITION]) * dim * _FLOAT
    key = model[at.PROJECTED] + _tiles(layer, at.QUERY) * TILE_ROWS * _FLOAT
    value = key + _tiles(layer, at.KEY) * TILE_ROWS * _FLOAT
    own = head * dim * _FLOAT
    _rotate(key + own, call, dim, float32(1), layer[at.KEYS] + row)
    vectors.widen_floats(value + own, dim, layer[at.VALUES] + row)


@njit(**_OPTIONS)
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
    size, room = dim * _FLOAT, at.KEY_BLOCK
    place = (head * model[at.SPLITS] + part) * sharing
    mixtures, facts = model[at.MIXTURES] + place * size, model[at.FACTS] + place * 3 * _FLOAT
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
            out = scores + r * room * _FLOAT
            if sharing - r >= vectors.QUERIES:
                vectors.score_some(queries + r * size, dim, keys, count, values, room, out)
                r += vectors.QUERIES
            else:
                vectors.score_one(queries + r * size, dim, keys, count, values, room, out)
                r += 1
        for r in range(sharing):
            _weigh(
                scores + r * room * _FLOAT, count, dim, mixtures + r * size, facts + 3 * r * _FLOAT
            )
        r = 0
        while r < sharing:
            weights = scores + r * room * _FLOAT
            if sharing - r >= vectors.QUERIES:
                vectors.mix_some(weights, room, values, count, dim, mixtures + r * size)
                r += vectors.QUERIES
            else:
                vectors.mix_one(weights, room, values, count, dim, mixtures + r * size)
                r += 1


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
def _combine(model: Table, parts: int, out: int) -> None:
    """The parts' mixtures become the attention's output [N * D]."""
    dim, sharing = model[at.HEAD_DIM], model[at.HEADS] // model[at.KV_HEADS]
    vectors.clear(out, model[at.HEADS] * dim)
    for head in range(model[at.HEADS]):
        most, total = _largest_and_sum(model, head, parts)
        first = (head // sharing) * model[at.SPLITS] * sharing + head % sharing
        mixed = out + head * dim * _FLOAT
        for part in range(parts):
            place = first + part * sharing
            share = float32(exp(memory.float_at(model[at.FACTS], 3 * place) - most)) / total
            mixture = model[at.MIXTURES] + place * dim * _FLOAT
            vectors.plus_scaled(mixed, mixture, share, dim, mixed)


@njit(**_OPTIONS)
def _own_attention(model: Table, parts: int) -> float:
    """The token's attention to itself, mean over heads."""
    sharing, heads = model[at.HEADS] // model[at.KV_HEADS], model[at.HEADS]
    shares: float = float32(0)
    for head in range(heads):
        most, total = _largest_and_sum(model, head, parts)
        last = ((head // sharing) * model[at.SPLITS] + parts - 1) * sharing + head % sharing
        shares += float32(exp(memory.float_at(model[at.FACTS], 3 * last + 2) - most)) / total
    return shares / float(heads)


@njit(**_OPTIONS)
def _output(model: Table, layer: Table, call: Table, phase: int, mine: int) -> None:
    """The residual stream after attention."""
    progress = model[at.PROGRESS] + phase * at.LINE * _INT
    total = _tiles(layer, at.OUTPUT)
    if memory.shared_int(progress) < total:
        x, results = mine + model[at.INPUTS], mine + model[at.RESULTS]
        _, parts = _visible(model, call)
        _combine(model, parts, x)
        while True:
            first, last = _take(progress, total, model[at.THREADS], at.TILES)
            if first == last:
                break
            _rows(layer, at.OUTPUT, first, last, x, mine, model, results)
            begin, count = first * TILE_ROWS * _FLOAT, (last - first) * TILE_ROWS
            base, out = model[at.STREAM] + begin, model[at.BETWEEN] + begin
            vectors.plus_scaled(base, results, float32(1), count, out)
            _done(progress, last - first)
    _wait(model, phase, total)


@njit(**_OPTIONS)
def _route(model: Table, layer: Table, call: Table, index: int, phase: int, mine: int) -> None:
    """Choose the experts: one thread does it, the others wait a few microseconds."""
    progress = model[at.PROGRESS] + phase * at.LINE * _INT
    first, last = _take(progress, 1, 1, 1)
    if first < last:
        normed, chances = model[at.NORMED], mine + model[at.RESULTS]
        _norm(model, model[at.BETWEEN], layer[at.POST_NORM], 2 * index + 1, normed)
        _rows(layer, at.ROUTER, 0, _tiles(layer, at.ROUTER), normed, mine, model, chances)
        ids = model[at.IDS] + index * model[at.TOP_K] * _INT
        shares = model[at.SHARES] + index * model[at.TOP_K] * _FLOAT
        _choose(chances, model[at.EXPERTS], model[at.TOP_K], ids, shares)
        if model[at.TOP_K] == 2:
            _prune(model, call, index, ids, shares)
        counts = model[at.COUNTS] + index * (model[at.EXPERTS] + 1) * _INT
        for k in range(model[at.TOP_K]):
            slot = memory.int_at(ids, k) + 1
            memory.put_int(counts, slot, memory.int_at(counts, slot) + 1)
        _done(progress, 1)
    _wait(model, phase, 1)


@njit(**_OPTIONS)
def _choose(chances: int, experts: int, top_k: int, ids: int, shares: int) -> None:
    """The ``top_k`` likeliest experts, the likeliest first, and their renormalised weights.

    ``chances`` are the router's logits.
    """
    most, total = memory.float_at(chances, 0), float32(0)
    for expert in range(1, experts):
        most = max(most, memory.float_at(chances, expert))
    for expert in range(experts):
        chance = float32(exp(memory.float_at(chances, expert) - most))
        memory.put_float(chances, expert, chance)
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
    for k in range(top_k):
        memory.put_float(shares, k, memory.float_at(shares, k) / total)


@njit(**_OPTIONS)
def _prune(model: Table, call: Table, index: int, ids: int, shares: int) -> None:
    """Skip the second slot where the layer's rule says so; see `engine.pruning.DecodeRule`."""
    threshold = memory.float_at(model[at.RULE], 2 * index)
    if memory.float_at(shares, 1) / memory.float_at(shares, 0) >= threshold:
        return
    _, parts = _visible(model, call)
    size = vectors.sum_of_magnitudes(model[at.NORMED], model[at.HIDDEN])
    if size * _own_attention(model, parts) > memory.float_at(model[at.RULE], 2 * index + 1):
        return
    memory.put_int(ids, 1, -1)
    memory.put_float(shares, 0, float32(1))
    memory.put_float(shares, 1, float32(0))


@njit(**_OPTIONS)
def _add_expert(
    model: Table,
    layer: Table,
    expert: int,
    matrix: int,
    start: int,
    count: int,
    first: int,
    last: int,
    mine: int,
    out: int,
) -> None:
    """`_add_tiles` for a matrix (0, 1, 2: gate, up, down) of an expert."""
    table = layer[at.EXPERT_TABLE]
    place = (expert * 3 + matrix) * 4
    rows, columns = model[at.INNER], model[at.HIDDEN]
    if matrix == 2:
        rows, columns = columns, rows
    _add_tiles(
        memory.int_at(table, place),
        layer[at.EXPERT_CODES] + memory.int_at(table, place + 1) * 4,
        layer[at.EXPERT_SCALES] + memory.int_at(table, place + 2) * _HALF,
        layer[at.EXPERT_ZEROS] + memory.int_at(table, place + 3) * _HALF,
        (rows + TILE_ROWS - 1) // TILE_ROWS,
        columns,
        layer[at.EXPERT_GROUP],
        start,
        count,
        first,
        last,
        mine,
        model,
        out,
    )


@njit(**_OPTIONS)
def _bits(layer: Table, expert: int, matrix: int) -> int:
    """The width of a matrix of an expert."""
    bits: int = memory.int_at(layer[at.EXPERT_TABLE], (expert * 3 + matrix) * 4)
    return bits


@njit(**_OPTIONS)
def _gate_up(model: Table, layer: Table, index: int, phase: int, mine: int) -> None:
    """silu(gate x) * (up x) of the experts that run."""
    progress = model[at.PROGRESS] + phase * at.LINE * _INT
    total = (model[at.INNER] + TILE_ROWS - 1) // TILE_ROWS
    top_k, columns, group = model[at.TOP_K], model[at.HIDDEN], layer[at.EXPERT_GROUP]
    ids = model[at.IDS] + index * top_k * _INT
    results, block = mine + model[at.RESULTS], _block(group)
    while True:
        first, last = _take(progress, total, model[at.THREADS], at.TILES)
        if first == last:
            break
        two = one = False
        for k in range(top_k):
            expert = memory.int_at(ids, k)
            if expert >= 0:
                for matrix in range(2):
                    bits = _bits(layer, expert, matrix)
                    two |= bits > 1
                    one |= bits % 2 == 1
        count_rows = (last - first) * TILE_ROWS
        size = count_rows * _FLOAT
        vectors.clear(results, 2 * top_k * count_rows)
        for start in range(0, columns, block):
            count = min(block, columns - start)
            _prepare(model[at.NORMED] + start * _FLOAT, count, group, two, one, mine, model)
            for k in range(top_k):
                expert = memory.int_at(ids, k)
                if expert >= 0:
                    for matrix in range(2):
                        out = results + (2 * k + matrix) * size
                        _add_expert(
                            model, layer, expert, matrix, start, count, first, last, mine, out
                        )
        for k in range(top_k):
            if memory.int_at(ids, k) >= 0:
                gate = results + 2 * k * size
                out = model[at.ACTIVATIONS] + (k * model[at.INNER] + first * TILE_ROWS) * _FLOAT
                vectors.gated(gate, gate + size, count_rows, out)
        _done(progress, last - first)
    _wait(model, phase, total)


@njit(**_OPTIONS)
def _down(model: Table, layer: Table, index: int, phase: int, mine: int) -> None:
    """The residual stream after the experts."""
    progress = model[at.PROGRESS] + phase * at.LINE * _INT
    total = (model[at.HIDDEN] + TILE_ROWS - 1) // TILE_ROWS
    top_k, columns, group = model[at.TOP_K], model[at.INNER], layer[at.EXPERT_GROUP]
    ids, shares = model[at.IDS] + index * top_k * _INT, model[at.SHARES] + index * top_k * _FLOAT
    results, block = mine + model[at.RESULTS], _block(group)
    while True:
        first, last = _take(progress, total, model[at.THREADS], at.TILES)
        if first == last:
            break
        begin, count_rows = first * TILE_ROWS * _FLOAT, (last - first) * TILE_ROWS
        out = model[at.STREAM] + begin
        base = model[at.BETWEEN] + begin
        for k in range(top_k):
            expert = memory.int_at(ids, k)
            if expert < 0:
                continue
            bits = _bits(layer, expert, 2)
            vectors.clear(results, count_rows)
            for start in range(0, columns, block):
                count = min(block, columns - start)
                x = model[at.ACTIVATIONS] + (k * columns + start) * _FLOAT
                _prepare(x, count, group, bits > 1, bits % 2 == 1, mine, model)
                _add_expert(model, layer, expert, 2, start, count, first, last, mine, results)
            vectors.plus_scaled(base, results, memory.float_at(shares, k), count_rows, out)
            base = out
        _done(progress, last - first)
    _wait(model, phase, total)


@njit(**_OPTIONS)
def _head(model: Table, call: Table, phase: int, mine: int) -> None:
    """The logits."""
    progress = model[at.PROGRESS] + phase * at.LINE * _INT
    total, rows = _tiles(model, at.HEAD), model[at.HEAD + at.ROWS]
    if memory.shared_int(progress) < total:
        x, results = mine + model[at.INPUTS], mine + model[at.RESULTS]
        _norm(model, model[at.STREAM], model[at.FINAL_NORM], 2 * model[at.LAYERS], x)
        while True:
            first, last = _take(progress, total, model[at.THREADS], at.TILES)
            if first == last:
                break
            _rows(model, at.HEAD, first, last, x, mine, model, results)
            begin = first * TILE_ROWS
            for row in range(begin, min(last * TILE_ROWS, rows)):
                memory.put_float(call[at.LOGITS], row, memory.float_at(results, row - begin))
            _done(progress, last - first)
    _wait(model, phase, total)


@njit(**_OPTIONS)
def _stamp(model: Table, phase: int, thread: int) -> None:
    """Note the time at the end of a phase, if that was asked for."""
    if thread == 0 and model[at.STAMPS] != 0:
        memory.put_int(model[at.STAMPS], phase, memory.time_now(model[at.CLOCK], _MONOTONIC))


@njit(
    void(int64[::1], int64[:, ::1], int64[::1], int64),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def run(model: Table, layers: Table, call: Table, thread: int) -> None:
    """The logits of a token, and its keys and values into the cache: this thread's share of it."""
    mine = model[at.PRIVATE] + thread * model[at.PRIVATE_BYTES]
    _embed(model, call, 0)
    _stamp(model, 0, thread)
    phase = 1
    for index in range(model[at.LAYERS]):
        layer = layers[index]
        _project(model, layer, index, phase, mine)
        _stamp(model, phase, thread)
        _attend(model, layer, call, phase + 1, mine)
        _stamp(model, phase + 1, thread)
        _output(model, layer, call, phase + 2, mine)
        _stamp(model, phase + 2, thread)
        _route(model, layer, call, index, phase + 3, mine)
        _stamp(model, phase + 3, thread)
        _gate_up(model, layer, index, phase + 4, mine)
        _stamp(model, phase + 4, thread)
        _down(model, layer, index, phase + 5, mine)
        _stamp(model, phase + 5, thread)
        phase += at.PHASES
    _head(model, call, phase, mine)
    _stamp(model, phase, thread)


@njit(
    void(int64[::1], int64[::1], int64, int64, int64, int64, int64),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def multiply(
    linear: Table, places: Table, mine: int, x: int, first: int, last: int, out: int
) -> None:
    """Rows of row tiles ``first`` to ``last`` of the dense layer times x, into ``out`` [rows].

    ``places`` is a row of a model of which only SUMS, PAIRS, QUADS and RESULTS are read.
    """
    results, rows = mine + places[at.RESULTS], linear[at.ROWS]
    for begin in range(first, last, at.TILES):
        end = min(begin + at.TILES, last)
        _rows(linear, 0, begin, end, x, mine, places, results)
        for row in range(begin * TILE_ROWS, min(end * TILE_ROWS, rows)):
            memory.put_float(out, row, memory.float_at(results, row - begin * TILE_ROWS))
