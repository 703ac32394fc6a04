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

import hashlib
import time
from collections.abc import Callable
from math import exp, sqrt
from pathlib import Path
from typing import Any

from numba import float32, int64, njit, void

from engine.kernels import step_memory as memory
from engine.kernels import step_table as at
from engine.kernels import step_vectors as vectors
from engine.kernels.step_attention import attend, combine, visible
from engine.kernels.step_rotation import rotate
from engine.kernels.step_routing import choose, keep_worth, prune
from engine.kernels.step_work import (
    FLOAT,
    HALF,
    INT,
    OPTIONS,
    Table,
    add_tiles,
    block_of,
    dense_rows,
    done,
    prepare,
    take,
    tiles_of,
    wait,
)
from engine.layout import TILE_ROWS

_MONOTONIC = getattr(time, "CLOCK_MONOTONIC", 0)  # Windows has none, and no stamps


@njit(**OPTIONS)
def _norm(model: Table, x: int, weight: int, number: int, out: int) -> None:
    """RMS norm ``number`` of the residual stream at x."""
    count = model[at.HIDDEN]
    mean = vectors.sum_of_squares(x, count) / float32(count)
    eps = memory.float_at(model[at.EPSILONS], number)
    vectors.scale_by(x, float32(1) / float32(sqrt(mean + eps)), weight, count, out)


@njit(**OPTIONS)
def _embed(model: Table, call: Table, phase: int) -> None:
    """The token's embedding becomes the residual stream."""
    progress = model[at.PROGRESS] + phase * at.LINE * INT
    first, last = take(progress, 1, 1, 1)
    if first < last:
        count = model[at.HIDDEN]
        begin, kind, out = call[at.TOKEN] * count, model[at.EMBED_KIND], model[at.STREAM]
        if kind == at.FLOAT_WEIGHTS:
            vectors.widen_floats(model[at.EMBED] + begin * FLOAT, count, out)
        elif kind == at.HALF_WEIGHTS:
            vectors.widen_halves(model[at.EMBED] + begin * HALF, count, out)
        else:
            vectors.widen_brains(model[at.EMBED] + begin * HALF, count, out)
        done(progress, 1)
    wait(model, phase, 1)


@njit(**OPTIONS)
def _project(model: Table, layer: Table, index: int, phase: int, mine: int) -> None:
    """q, k and v of the normed residual stream, side by side."""
    progress = model[at.PROGRESS] + phase * at.LINE * INT
    queries, keys = tiles_of(layer, at.QUERY), tiles_of(layer, at.KEY)
    total = queries + 2 * keys
    if memory.shared_int(progress) < total:
        x = mine + model[at.INPUTS]
        _norm(model, model[at.STREAM], layer[at.INPUT_NORM], 2 * index, x)
        while True:
            first, last = take(progress, total, model[at.THREADS], at.TILES)
            if first == last:
                break
            out = model[at.PROJECTED]
            for place, bias, begin, tiles in (
                (at.QUERY, at.QUERY_BIAS, 0, queries),
                (at.KEY, at.KEY_BIAS, queries, keys),
                (at.VALUE, at.VALUE_BIAS, queries + keys, keys),
            ):
                low, high = max(first, begin), min(last, begin + tiles)
                if low < high:
                    rows = out + low * TILE_ROWS * FLOAT
                    low, high = low - begin, high - begin
                    dense_rows(layer, place, low, high, x, mine, model, rows)
                    if layer[bias] != 0:
                        row = low * TILE_ROWS
                        count = min(high * TILE_ROWS, layer[place + at.ROWS]) - row
                        added = layer[bias] + row * FLOAT
                        vectors.plus_scaled(rows, added, float32(1), count, rows)
            done(progress, last - first)
    wait(model, phase, total)


@njit(**OPTIONS)
def _output(model: Table, layer: Table, call: Table, phase: int, mine: int) -> None:
    """The residual stream after attention."""
    progress = model[at.PROGRESS] + phase * at.LINE * INT
    total = tiles_of(layer, at.OUTPUT)
    if memory.shared_int(progress) < total:
        x, results = mine + model[at.INPUTS], mine + model[at.RESULTS]
        _, parts = visible(model, call)
        combine(model, parts, x)
        while True:
            first, last = take(progress, total, model[at.THREADS], at.TILES)
            if first == last:
                break
            dense_rows(layer, at.OUTPUT, first, last, x, mine, model, results)
            begin, count = first * TILE_ROWS * FLOAT, (last - first) * TILE_ROWS
            base, out = model[at.STREAM] + begin, model[at.BETWEEN] + begin
            vectors.plus_scaled(base, results, float32(1), count, out)
            done(progress, last - first)
    wait(model, phase, total)


@njit(**OPTIONS)
def _route(model: Table, layer: Table, call: Table, index: int, phase: int, mine: int) -> None:
    """Choose the experts: one thread does it, the others wait a few microseconds."""
    progress = model[at.PROGRESS] + phase * at.LINE * INT
    first, last = take(progress, 1, 1, 1)
    if first < last:
        normed, chances = model[at.NORMED], mine + model[at.RESULTS]
        _norm(model, model[at.BETWEEN], layer[at.POST_NORM], 2 * index + 1, normed)
        dense_rows(layer, at.ROUTER, 0, tiles_of(layer, at.ROUTER), normed, mine, model, chances)
        ids = model[at.IDS] + index * model[at.TOP_K] * INT
        shares = model[at.SHARES] + index * model[at.TOP_K] * FLOAT
        choose(chances, model, ids, shares)
        if model[at.OTP] != 0:
            keep_worth(model, index, ids, shares)
        elif model[at.TOP_K] > 1:
            prune(model, call, index, ids, shares)
        if _has_shared(layer):
            vectors.widen_floats(normed, model[at.HIDDEN], model[at.SHARED_INPUT])
            share = vectors.float_product(layer[at.SHARE], normed, model[at.HIDDEN])
            factor = float32(1) / (float32(1) + float32(exp(-share)))
            memory.put_float(model[at.SHARED_FACTOR], 0, factor)
        if layer[at.ROTATED]:
            rotate(normed, model[at.HIDDEN], layer[at.EXPERT_GROUP])
        counts = model[at.COUNTS] + index * 2 * model[at.EXPERTS] * INT
        for k in range(model[at.TOP_K]):
            slot = memory.int_at(ids, k)
            if slot < 0:
                slot = model[at.EXPERTS] - 1 - slot
            memory.put_int(counts, slot, memory.int_at(counts, slot) + 1)
        done(progress, 1)
    wait(model, phase, 1)


@njit(**OPTIONS)
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
    add_tiles(
        memory.int_at(table, place),
        layer[at.EXPERT_CODES] + memory.int_at(table, place + 1) * 4,
        layer[at.EXPERT_SCALES] + memory.int_at(table, place + 2) * HALF,
        0 if layer[at.ROTATED] else layer[at.EXPERT_ZEROS] + memory.int_at(table, place + 3) * HALF,
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


@njit(**OPTIONS)
def _bits(layer: Table, expert: int, matrix: int) -> int:
    """The width of a matrix of an expert."""
    bits: int = memory.int_at(layer[at.EXPERT_TABLE], (expert * 3 + matrix) * 4)
    return bits


@njit(**OPTIONS)
def _has_shared(layer: Table) -> bool:
    """Whether the layer has an expert that every token passes."""
    found: bool = layer[at.SHARED_GATE + at.ROWS] != 0
    return found


@njit(**OPTIONS)
def _shared_gate_up(model: Table, layer: Table, phase: int, mine: int) -> None:
    """silu(gate x) * (up x) of the shared expert; `_down` waits for it."""
    progress = model[at.PROGRESS] + phase * at.LINE * INT
    total, gate = tiles_of(layer, at.SHARED_GATE), mine + model[at.RESULTS]
    while True:
        first, last = take(progress, total, model[at.THREADS], at.TILES)
        if first == last:
            break
        count, x = (last - first) * TILE_ROWS, model[at.SHARED_INPUT]
        up = gate + count * FLOAT
        dense_rows(layer, at.SHARED_GATE, first, last, x, mine, model, gate)
        dense_rows(layer, at.SHARED_UP, first, last, x, mine, model, up)
        out = model[at.SHARED_ACTIVATIONS] + first * TILE_ROWS * FLOAT
        vectors.gated(gate, up, count, out)
        done(progress, last - first)


@njit(**OPTIONS)
def _gate_up(model: Table, layer: Table, index: int, phase: int, mine: int) -> None:
    """silu(gate x) * (up x) of the experts that run, rotated where ``down`` is."""
    progress = model[at.PROGRESS] + phase * at.LINE * INT
    # Tiles that are taken together: the rows that are rotated together.
    unit = layer[at.EXPERT_GROUP] // TILE_ROWS if layer[at.ROTATED] else 1
    total = (model[at.INNER] + unit * TILE_ROWS - 1) // (unit * TILE_ROWS)
    top_k, columns, group = model[at.TOP_K], model[at.HIDDEN], layer[at.EXPERT_GROUP]
    ids = model[at.IDS] + index * top_k * INT
    results, block = mine + model[at.RESULTS], block_of(group)
    while True:
        first, last = take(progress, total, model[at.THREADS], at.TILES // unit)
        if first == last:
            break
        taken = last - first
        first, last = first * unit, last * unit
        two = one = False
        for k in range(top_k):
            expert = memory.int_at(ids, k)
            if expert >= 0:
                for matrix in range(2):
                    bits = _bits(layer, expert, matrix)
                    two |= bits > 1
                    one |= bits % 2 == 1
        count_rows = (last - first) * TILE_ROWS
        size = count_rows * FLOAT
        vectors.clear(results, 2 * top_k * count_rows)
        for start in range(0, columns, block):
            count = min(block, columns - start)
            prepare(model[at.NORMED] + start * FLOAT, count, group, two, one, mine, model)
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
                out = model[at.ACTIVATIONS] + (k * model[at.INNER] + first * TILE_ROWS) * FLOAT
                vectors.gated(gate, gate + size, count_rows, out)
                if layer[at.ROTATED]:
                    rotate(out, count_rows, group)
        done(progress, taken)
    wait(model, phase, total)


@njit(**OPTIONS)
def _down(model: Table, layer: Table, index: int, phase: int, shared_phase: int, mine: int) -> None:
    """The residual stream after the experts."""
    if _has_shared(layer):
        wait(model, shared_phase, tiles_of(layer, at.SHARED_GATE))
    progress = model[at.PROGRESS] + phase * at.LINE * INT
    total = (model[at.HIDDEN] + TILE_ROWS - 1) // TILE_ROWS
    top_k, columns, group = model[at.TOP_K], model[at.INNER], layer[at.EXPERT_GROUP]
    ids, shares = model[at.IDS] + index * top_k * INT, model[at.SHARES] + index * top_k * FLOAT
    results, block = mine + model[at.RESULTS], block_of(group)
    while True:
        first, last = take(progress, total, model[at.THREADS], at.TILES)
        if first == last:
            break
        begin, count_rows = first * TILE_ROWS * FLOAT, (last - first) * TILE_ROWS
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
                x = model[at.ACTIVATIONS] + (k * columns + start) * FLOAT
                prepare(x, count, group, bits > 1, bits % 2 == 1, mine, model)
                _add_expert(model, layer, expert, 2, start, count, first, last, mine, results)
            vectors.plus_scaled(base, results, memory.float_at(shares, k), count_rows, out)
            base = out
        if _has_shared(layer):
            x, factor = model[at.SHARED_ACTIVATIONS], memory.float_at(model[at.SHARED_FACTOR], 0)
            dense_rows(layer, at.SHARED_DOWN, first, last, x, mine, model, results)
            vectors.plus_scaled(base, results, factor, count_rows, out)
        done(progress, last - first)
    wait(model, phase, total)


@njit(**OPTIONS)
def _head(model: Table, call: Table, phase: int, mine: int) -> None:
    """The logits."""
    progress = model[at.PROGRESS] + phase * at.LINE * INT
    total, rows = tiles_of(model, at.HEAD), model[at.HEAD + at.ROWS]
    if memory.shared_int(progress) < total:
        x, results = mine + model[at.INPUTS], mine + model[at.RESULTS]
        _norm(model, model[at.STREAM], model[at.FINAL_NORM], 2 * model[at.LAYERS], x)
        while True:
            first, last = take(progress, total, model[at.THREADS], at.TILES)
            if first == last:
                break
            dense_rows(model, at.HEAD, first, last, x, mine, model, results)
            begin = first * TILE_ROWS
            for row in range(begin, min(last * TILE_ROWS, rows)):
                memory.put_float(call[at.LOGITS], row, memory.float_at(results, row - begin))
            done(progress, last - first)
    wait(model, phase, total)


@njit(**OPTIONS)
def _stamp(model: Table, phase: int, thread: int) -> None:
    """Note the time at the end of a phase, if that was asked for."""
    if thread == 0 and model[at.STAMPS] != 0:
        memory.put_int(model[at.STAMPS], phase, memory.time_now(model[at.CLOCK], _MONOTONIC))


def _sources() -> int:
    """A number that changes with the code of the step."""
    folder = Path(__file__).parent
    others = (folder.parent / name for name in ("cache.py", "layout.py", "otp.py"))
    files = [*sorted(folder.glob("step_*.py")), *others]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()
    return int.from_bytes(digest[:7], "little")


def _entrances(sources: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """`run` and `multiply`.

    Numba's cache on disk looks at this file alone, but also at the values of enclosing scopes:
    ``sources`` stands for the other files.
    """
    options: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}

    @njit(void(int64[::1], int64[:, ::1], int64[::1], int64), **options)
    def run(model: Table, layers: Table, call: Table, thread: int) -> None:
        """Logits of a token, its keys and values into the cache: this thread's share of it."""
        _ = sources
        mine = model[at.PRIVATE] + thread * model[at.PRIVATE_BYTES]
        _embed(model, call, 0)
        _stamp(model, 0, thread)
        phase = 1
        for index in range(model[at.LAYERS]):
            layer = layers[index]
            _project(model, layer, index, phase, mine)
            _stamp(model, phase, thread)
            attend(model, layer, call, phase + 1, mine)
            _stamp(model, phase + 1, thread)
            _output(model, layer, call, phase + 2, mine)
            _stamp(model, phase + 2, thread)
            _route(model, layer, call, index, phase + 3, mine)
            _stamp(model, phase + 3, thread)
            shared_phase = 2 + at.PHASES * model[at.LAYERS] + index
            if _has_shared(layer):
                _shared_gate_up(model, layer, shared_phase, mine)
            _gate_up(model, layer, index, phase + 4, mine)
            _stamp(model, phase + 4, thread)
            _down(model, layer, index, phase + 5, shared_phase, mine)
            _stamp(model, phase + 5, thread)
            phase += at.PHASES
        _head(model, call, phase, mine)
        _stamp(model, phase, thread)

    @njit(void(int64[::1], int64[::1], *(int64,) * 5), **options)
    def multiply(
        linear: Table, places: Table, mine: int, x: int, first: int, last: int, out: int
    ) -> None:
        """Rows of row tiles ``first`` to ``last`` of a dense layer times x, into ``out`` [rows].

        ``places`` is a row of a model of which only SUMS, PAIRS, QUADS and RESULTS are read.
        """
        _ = sources
        results, rows = mine + places[at.RESULTS], linear[at.ROWS]
        for begin in range(first, last, at.TILES):
            end = min(begin + at.TILES, last)
            dense_rows(linear, 0, begin, end, x, mine, places, results)
            for row in range(begin * TILE_ROWS, min(end * TILE_ROWS, rows)):
                memory.put_float(out, row, memory.float_at(results, row - begin * TILE_ROWS))

    return run, multiply


run, multiply = _entrances(_sources())
