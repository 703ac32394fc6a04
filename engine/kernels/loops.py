"""The loops of the CPU kernels, compiled by numba around the vector code of `simd`.

The zero point is factored out: sum (q - z) s x = s (sum q x - z sum x), with sum x per group
computed once for all rows. The loops release the GIL, so that plain threads can share the tiles.
"""

from typing import Any

import numpy as np
from numba import float32, njit
from numpy.typing import NDArray

from engine.kernels.simd import group_scaling, half_product, plane_product, sum_of
from engine.packing import PackedArrays

OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
}

TILE = 32
TOKEN_BLOCK = 8
"""Tokens that share the work of taking a code out of its word."""

Words = NDArray[np.uint32]
Halves = NDArray[np.uint16]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_lone_1, _lone_2 = plane_product(1, 1), plane_product(2, 1)
_block_1, _block_2 = plane_product(1, TOKEN_BLOCK), plane_product(2, TOKEN_BLOCK)
_scale_1, _scale = group_scaling(False), group_scaling(True)
_half_product, _brain_product = half_product(False), half_product(True)


@njit(**OPTIONS)
def _add_plane(
    width: int,
    codes: Words,
    start: int,
    group: int,
    x: Floats,
    first: int,
    count: int,
    factor: float,
    raw: Floats,
) -> None:
    """raw[n, r] += factor * (codes of row r times token n) over one group; n < ``count``.

    ``count`` is 1 or TOKEN_BLOCK; the first token's inputs begin at element ``first`` of x.
    """
    columns = x.shape[1]
    if width == 1:
        if count == 1:
            _lone_1(codes, start, group // 32, x, first, columns, factor, raw)
        else:
            _block_1(codes, start, group // 32, x, first, columns, factor, raw)
    elif count == 1:
        _lone_2(codes, start, group // 16, x, first, columns, factor, raw)
    else:
        _block_2(codes, start, group // 16, x, first, columns, factor, raw)


@njit(**OPTIONS)
def _tile_product(
    x: Floats,
    sums: Floats,
    token: int,
    count: int,
    packed: PackedArrays,
    slot: Ints,
    tiles: int,
    group: int,
    tile: int,
    raw: Floats,
    out: Floats,
) -> None:
    """out[n, r] = row ``tile * 32 + r`` of a packed matrix times x[token + n], n < ``count``.

    ``slot``: bits, and the first code, scale and zero point of the matrix, which has ``tiles`` row
    tiles; ``sums``: x summed by group; ``raw``: scratch like out; ``count``: 1 or TOKEN_BLOCK.
    """
    bits, first_code, first_scale, first_zero = slot[0], slot[1], slot[2], slot[3]
    codes, scales, zeros = packed
    columns = x.shape[1]
    groups = columns // group
    out[:count] = float32(0)
    for index in range(groups):
        raw[:count] = float32(0)
        column = token * columns + index * group
        word = tile * columns + index * group  # in a plane, per bit of its width
        done = 0
        factor = float32(1)
        while done < bits:
            width = 1 if bits - done == 1 else 2
            at = first_code + tiles * columns * done + word * width
            _add_plane(width, codes, at, group, x, column, count, factor, raw)
            factor *= float32(1 << width)
            done += width
        at = (tile * groups + index) * TILE
        for n in range(count):
            total = sums[token + n, index]
            if bits == 1:
                _scale_1(raw, scales, first_scale + at, zeros, 0, total, n * TILE, out)
            else:
                zero_at = first_zero + at
                _scale(raw, scales, first_scale + at, zeros, zero_at, total, n * TILE, out)


@njit(**OPTIONS)
def _sum_groups(x: Floats, row: int, group: int, sums: Floats) -> None:
    for index in range(sums.shape[1]):
        sums[row, index] = sum_of(x, row * x.shape[1] + index * group, group)


@njit(**OPTIONS)
def group_sums(x: Floats, group: int) -> Floats:
    """Sums of x [T, columns] by group, [T, G]."""
    tokens, columns = x.shape
    sums = np.empty((tokens, columns // group), np.float32)
    for token in range(tokens):
        _sum_groups(x, token, group, sums)
    return sums


@njit(**OPTIONS)
def matmul_tiles(
    first: int,
    last: int,
    x: Floats,
    sums: Floats,
    packed: PackedArrays,
    slot: Ints,
    group: int,
    out: Floats,
) -> None:
    """out[:, rows] of row tiles ``first`` to ``last``: x [T, columns] times a packed matrix."""
    tokens = len(x)
    rows = out.shape[1]
    tiles = (rows + TILE - 1) // TILE
    raw = np.empty((TOKEN_BLOCK, TILE), np.float32)
    product = np.empty((TOKEN_BLOCK, TILE), np.float32)
    for tile in range(first, last):
        token = 0
        used = min(TILE, rows - tile * TILE)
        while token < tokens:
            count = TOKEN_BLOCK if tokens - token >= TOKEN_BLOCK else 1
            _tile_product(x, sums, token, count, packed, slot, tiles, group, tile, raw, product)
            for n in range(count):
                for row in range(used):
                    out[token + n, tile * TILE + row] = product[n, row]
            token += count


@njit(**OPTIONS)
def gate_up_tiles(
    first: int,
    last: int,
    x: Floats,
    sums: Floats,
    ids: Ints,
    packed: PackedArrays,
    table: Ints,
    group: int,
    hidden: Floats,
) -> None:
    """hidden[slot, rows] = silu(gate x) * (up x) for row tiles ``first`` to ``last``.

    hidden [T * K, I]; ids [T * K], -1 for a slot to skip; ``table`` [E, 3, 4] holds the ``slot``
    of each matrix.
    """
    slots, rows = hidden.shape
    rank = slots // len(x)
    tiles = rows // TILE
    raw = np.empty((1, TILE), np.float32)
    gate = np.empty((1, TILE), np.float32)
    up = np.empty((1, TILE), np.float32)
    for tile in range(first, last):
        for slot in range(slots):
            expert = ids[slot]
            if expert < 0:
                continue
            matrices = table[expert]
            token = slot // rank
            _tile_product(x, sums, token, 1, packed, matrices[0], tiles, group, tile, raw, gate)
            _tile_product(x, sums, token, 1, packed, matrices[1], tiles, group, tile, raw, up)
            for row in range(TILE):
                value = gate[0, row]
                silu = value / (float32(1) + np.exp(-value))
                hidden[slot, tile * TILE + row] = silu * up[0, row]


@njit(**OPTIONS)
def hidden_sums(hidden: Floats, ids: Ints, group: int) -> Floats:
    """Sums of hidden [T * K, I] by group; those of skipped slots, never written, are left out."""
    slots, columns = hidden.shape
    sums = np.empty((slots, columns // group), np.float32)
    for slot in range(slots):
        if ids[slot] >= 0:
            _sum_groups(hidden, slot, group, sums)
    return sums


@njit(**OPTIONS)
def down_tiles(
    first: int,
    last: int,
    hidden: Floats,
    sums: Floats,
    ids: Ints,
    weights: Floats,
    packed: PackedArrays,
    table: Ints,
    group: int,
    out: Floats,
) -> None:
    """out[t, rows] = sum over t's slots of weight * (down hidden), row tiles first to last."""
    tokens, rows = out.shape
    rank = len(hidden) // tokens
    tiles = rows // TILE
    raw = np.empty((1, TILE), np.float32)
    product = np.empty((1, TILE), np.float32)
    for tile in range(first, last):
        for token in range(tokens):
            place = out[token, tile * TILE : (tile + 1) * TILE]
            place[:] = float32(0)
            for slot in range(token * rank, (token + 1) * rank):
                expert = ids[slot]
                if expert < 0:
                    continue
                matrix = table[expert, 2]
                _tile_product(
                    hidden, sums, slot, 1, packed, matrix, tiles, group, tile, raw, product
                )
                for row in range(TILE):
                    place[row] += weights[slot] * product[0, row]


@njit(**OPTIONS)
def half_rows(first: int, last: int, x: Floats, weights: Halves, brain: bool, out: Floats) -> None:
    """out[:, first:last] of x [T, columns] times rows of 16-bit weights [O * columns].

    ``brain``: bfloat16, otherwise float16. The columns are a multiple of 32.
    """
    tokens, columns = x.shape
    total = np.empty(1, np.float32)
    for row in range(first, last):
        for token in range(tokens):
            if brain:
                _brain_product(weights, row * columns, columns, x, token * columns, total)
            else:
                _half_product(weights, row * columns, columns, x, token * columns, total)
            out[token, row] = total[0]
