"""The loops of the CPU kernels, compiled by numba around the vector code of `simd`.

The zero point is factored out: sum (q - z) s x = s (sum q x - z sum x), with sum x per group
computed once for all rows. The loops release the GIL, so that plain threads can share the tiles.
"""

from typing import Any

import numpy as np
from numba import float32, njit
from numpy.typing import NDArray

from engine.kernels.simd import TOKEN_BLOCKS, add_group, half_product, sum_of
from engine.packing import PackedArrays

OPTIONS: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
}

TILE = 32
CHUNK_BYTES = 1 << 19
"""Codes that are multiplied by all tokens before the next: half of a second-level cache, more or
less."""

Words = NDArray[np.uint32]
Halves = NDArray[np.uint16]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_half_product, _brain_product = half_product(False), half_product(True)


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
    out: Floats,
) -> None:
    """out[n, r] = row ``tile * 32 + r`` of a packed matrix times x[token + n], n < ``count``.

    ``slot``: bits, and the first code, scale and zero point (-1: none are stored) of the matrix,
    which has ``tiles`` row tiles; ``sums``: x summed by group; ``count``: one of TOKEN_BLOCKS.
    """
    bits, first_code, first_scale, first_zero = slot[0], slot[1], slot[2], slot[3]
    codes, scales, zeros = packed
    columns = x.shape[1]
    groups = columns // group
    out[:count] = float32(0)
    for index in range(groups):
        position = tile * columns + index * group
        at = (tile * groups + index) * TILE
        zero_at = first_zero + at if first_zero >= 0 else first_zero
        add_group(
            bits,
            count,
            codes,
            first_code,
            tiles * columns,
            position,
            group,
            x,
            token * columns + index * group,
            columns,
            scales,
            first_scale + at,
            zeros,
            zero_at,
            sums,
            token * groups + index,
            groups,
            out,
        )


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
    tokens, columns = x.shape
    rows = out.shape[1]
    tiles = (rows + TILE - 1) // TILE
    product = np.empty((TOKEN_BLOCKS[0], TILE), np.float32)
    # As many tiles as stay in the cache while all tokens go by.
    chunk = max(1, CHUNK_BYTES // (columns * TILE * slot[0] // 8))
    for begin in range(first, last, chunk):
        end = min(begin + chunk, last)
        token = np.int64(0)  # a plain 0 is a type of its own: everything would compile twice
        for count in TOKEN_BLOCKS:
            while tokens - token >= count:
                for tile in range(begin, end):
                    _tile_product(x, sums, token, count, packed, slot, tiles, group, tile, product)
                    for n in range(count):
                        for row in range(min(TILE, rows - tile * TILE)):
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

    hidden [T * K, I]; ids [T * K], below 0 for a slot to skip; ``table`` [E, 3, 4] holds the
    ``slot`` of each matrix.
    """
    slots, rows = hidden.shape
    rank = slots // len(x)
    tiles = rows // TILE
    gate = np.empty((1, TILE), np.float32)
    up = np.empty((1, TILE), np.float32)
    for tile in range(first, last):
        for slot in range(slots):
            expert = ids[slot]
            if expert < 0:
                continue
            matrices = table[expert]
            token = slot // rank
            _tile_product(x, sums, token, 1, packed, matrices[0], tiles, group, tile, gate)
            _tile_product(x, sums, token, 1, packed, matrices[1], tiles, group, tile, up)
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
                _tile_product(hidden, sums, slot, 1, packed, matrix, tiles, group, tile, product)
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
