"""The inner loops of the CPU kernels, compiled by numba.

One loop iteration over the 32 rows of a tile is one or two SIMD instructions: the codes of a word
are shifted out in registers, the input is broadcast, and no sum crosses rows. All integers are
kept at 32 bits and indices unsigned on purpose: numba's default int64 arithmetic and its wrapping
of negative indices made LLVM gather single words and ran four times slower.

The zero point is factored out: sum (q - z) s x = s (sum q x - z sum x), with sum x per group
computed once for all rows. Halves are read as uint16, since numba has no float16 on CPUs.
"""

from typing import Any

import numpy as np
from numba import float32, int32, njit, prange, types, uint32, uintp
from numba.extending import intrinsic
from numpy.typing import NDArray

OPTIONS: dict[str, Any] = {"fastmath": True, "nogil": True, "cache": True, "error_model": "numpy"}

TILE = 32
HALF_EXPONENT = np.float32(2.0**112)
"""Moves a half's exponent bias (15) to a float's (127)."""

Words = NDArray[np.uint32]
Halves = NDArray[np.uint16]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@intrinsic
def _float_of_bits(typing_context: Any, word: Any) -> Any:
    """Reinterpret a uint32 as a float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), generate


@njit(**OPTIONS)
def _half(bits: int) -> float:
    """The value of a float16 (infinities and NaNs excepted)."""
    word = uint32(bits)
    magnitude = uint32(uint32(word & uint32(0x7FFF)) << uint32(13))
    sign = uint32(uint32(word & uint32(0x8000)) << uint32(16))
    return _float_of_bits(uint32(magnitude | sign)) * HALF_EXPONENT


@njit(**OPTIONS)
def _add_plane_1(
    x: Floats, codes: Words, start: int, first: int, count: int, factor: float, raw: Floats
) -> None:
    """raw[r] += factor * sum of q x over ``count`` inputs from ``first``, 1-bit codes."""
    for word in range(count // 32):
        at = uintp(start + word * TILE)
        x_at = uintp(first + word * 32)
        for row in range(TILE):
            bits = codes[at + uintp(row)]
            total = float32(0)
            for place in range(32):
                code = int32(uint32(uint32(bits >> uint32(place)) & uint32(1)))
                total += float32(code) * x[x_at + uintp(place)]
            raw[uintp(row)] += factor * total


@njit(**OPTIONS)
def _add_plane_2(
    x: Floats, codes: Words, start: int, first: int, count: int, factor: float, raw: Floats
) -> None:
    """raw[r] += factor * sum of q x over ``count`` inputs from ``first``, 2-bit codes."""
    for word in range(count // 16):
        at = uintp(start + word * TILE)
        x_at = uintp(first + word * 16)
        for row in range(TILE):
            bits = codes[at + uintp(row)]
            total = float32(0)
            for place in range(16):
                code = int32(uint32(uint32(bits >> uint32(2 * place)) & uint32(3)))
                total += float32(code) * x[x_at + uintp(place)]
            raw[uintp(row)] += factor * total


@njit(**OPTIONS)
def _tile_product(
    x: Floats,
    sums: Floats,
    codes: Words,
    scales: Halves,
    zeros: Halves,
    slot: Ints,
    tiles: int,
    columns: int,
    group: int,
    tile: int,
    raw: Floats,
    out: Floats,
) -> None:
    """out[r] = row ``tile * 32 + r`` of a packed matrix times x [columns].

    ``slot``: bits, and the first code, scale and zero point of the matrix; ``sums``: x summed by
    group; ``raw``: scratch [32].
    """
    bits, first_code, first_scale, first_zero = slot[0], slot[1], slot[2], slot[3]
    plane = tiles * columns  # words per bit of a plane
    low_width = 1 if bits == 1 else 2
    groups = columns // group
    for row in range(TILE):
        out[uintp(row)] = float32(0)
    for index in range(groups):
        first = index * group
        for row in range(TILE):
            raw[uintp(row)] = float32(0)
        at = first_code + tile * columns * low_width + first * low_width
        if bits == 1:
            _add_plane_1(x, codes, at, first, group, float32(1), raw)
        else:
            _add_plane_2(x, codes, at, first, group, float32(1), raw)
        if bits == 3:
            at = first_code + 2 * plane + tile * columns + first
            _add_plane_1(x, codes, at, first, group, float32(4), raw)
        elif bits >= 4:
            factor = float32(1)
            for _ in range(bits // 2 - 1):
                at += 2 * plane
                factor *= float32(4)
                _add_plane_2(x, codes, at, first, group, factor, raw)
        at = uintp(first_scale + (tile * groups + index) * TILE)
        zero_at = uintp(first_zero + (tile * groups + index) * TILE)
        total = sums[index]
        if bits == 1:
            for row in range(TILE):
                value = raw[uintp(row)] - float32(0.5) * total
                out[uintp(row)] += _half(scales[at + uintp(row)]) * value
        else:
            for row in range(TILE):
                value = raw[uintp(row)] - _half(zeros[zero_at + uintp(row)]) * total
                out[uintp(row)] += _half(scales[at + uintp(row)]) * value


@njit(**OPTIONS)
def group_sums(x: Floats, group: int) -> Floats:
    """Sums of x [T, columns] by group, [T, G]."""
    tokens, columns = x.shape
    sums = np.empty((tokens, columns // group), np.float32)
    for token in range(tokens):
        for index in range(columns // group):
            total = float32(0)
            for column in range(index * group, (index + 1) * group):
                total += x[token, column]
            sums[token, index] = total
    return sums


@njit(**OPTIONS)
def matmul_tiles(
    first: int,
    last: int,
    x: Floats,
    sums: Floats,
    codes: Words,
    scales: Halves,
    zeros: Halves,
    slot: Ints,
    group: int,
    out: Floats,
) -> None:
    """out[:, rows] of row tiles ``first`` to ``last``: x [T, columns] times a packed matrix."""
    tokens, columns = x.shape
    rows = out.shape[1]
    tiles = (rows + TILE - 1) // TILE
    raw = np.empty(TILE, np.float32)
    product = np.empty(TILE, np.float32)
    for tile in range(first, last):
        for token in range(tokens):
            _tile_product(
                x[token], sums[token], codes, scales, zeros, slot, tiles, columns, group, tile,
                raw, product,
            )  # fmt: skip
            for row in range(min(TILE, rows - tile * TILE)):
                out[token, tile * TILE + row] = product[row]


@njit(**OPTIONS)
def gate_up_tiles(
    first: int,
    last: int,
    x: Floats,
    sums: Floats,
    ids: Ints,
    codes: Words,
    scales: Halves,
    zeros: Halves,
    table: Ints,
    group: int,
    hidden: Floats,
) -> None:
    """hidden[slot, rows] = silu(gate x) * (up x) for items ``first`` to ``last``.

    An item is a slot (token and rank) and a row tile, the tiles of a slot being consecutive.
    hidden [T * K, I]; ids [T * K]; ``table`` [E, 3, 4] holds a ``slot`` for each matrix.
    """
    slots, rows = hidden.shape
    columns = x.shape[1]
    rank = slots // x.shape[0]
    tiles = rows // TILE
    raw = np.empty(TILE, np.float32)
    gate = np.empty(TILE, np.float32)
    up = np.empty(TILE, np.float32)
    for item in range(first, last):
        slot = item // tiles
        tile = item % tiles
        expert = ids[slot]
        if expert < 0:
            continue
        token = slot // rank
        _tile_product(
            x[token], sums[token], codes, scales, zeros, table[expert, 0], tiles, columns, group,
            tile, raw, gate,
        )  # fmt: skip
        _tile_product(
            x[token], sums[token], codes, scales, zeros, table[expert, 1], tiles, columns, group,
            tile, raw, up,
        )  # fmt: skip
        for row in range(TILE):
            value = gate[row]
            hidden[slot, tile * TILE + row] = value / (float32(1) + np.exp(-value)) * up[row]


@njit(**OPTIONS)
def hidden_sums(hidden: Floats, ids: Ints, group: int) -> Floats:
    """Sums of hidden [T * K, I] by group; those of skipped slots, never written, are left out."""
    sums = np.empty((hidden.shape[0], hidden.shape[1] // group), np.float32)
    for slot in range(hidden.shape[0]):
        if ids[slot] >= 0:
            sums[slot] = group_sums(hidden[slot : slot + 1], group)[0]
    return sums


@njit(**OPTIONS)
def down_tiles(
    first: int,
    last: int,
    hidden: Floats,
    sums: Floats,
    ids: Ints,
    weights: Floats,
    codes: Words,
    scales: Halves,
    zeros: Halves,
    table: Ints,
    group: int,
    out: Floats,
) -> None:
    """out[t, rows] = sum over t's slots of weight * (down hidden), row tiles first to last."""
    tokens, rows = out.shape
    columns = hidden.shape[1]
    rank = hidden.shape[0] // tokens
    tiles = rows // TILE
    raw = np.empty(TILE, np.float32)
    product = np.empty(TILE, np.float32)
    for tile in range(first, last):
        for token in range(tokens):
            at = tile * TILE
            for row in range(TILE):
                out[token, at + row] = float32(0)
            for slot in range(token * rank, (token + 1) * rank):
                expert = ids[slot]
                if expert < 0:
                    continue
                _tile_product(
                    hidden[slot], sums[slot], codes, scales, zeros, table[expert, 2], tiles,
                    columns, group, tile, raw, product,
                )  # fmt: skip
                for row in range(TILE):
                    out[token, at + row] += weights[slot] * product[row]


@njit(**OPTIONS)
def unpack_tiles(
    first: int,
    last: int,
    first_tile: int,
    codes: Words,
    scales: Halves,
    zeros: Halves,
    slot: Ints,
    tiles: int,
    group: int,
    out: Floats,
) -> None:
    """Dequantize row tiles into the columns of out [columns, rows of a block].

    Tiles ``first_tile + first`` to ``first_tile + last`` go to block columns 32 * first and on.
    """
    columns = out.shape[0]
    bits, first_code, first_scale, first_zero = slot[0], slot[1], slot[2], slot[3]
    groups = columns // group
    scale = np.empty(TILE, np.float32)
    offset = np.empty(TILE, np.float32)
    for block_tile in range(first, last):
        tile = first_tile + block_tile
        place = uintp(block_tile * TILE)
        for index in range(groups):
            at = uintp(first_scale + (tile * groups + index) * TILE)
            zero_at = uintp(first_zero + (tile * groups + index) * TILE)
            for row in range(TILE):
                value = _half(scales[at + uintp(row)])
                zero = float32(0.5) if bits == 1 else _half(zeros[zero_at + uintp(row)])
                scale[row] = value
                offset[row] = -value * zero
            for column in range(index * group, (index + 1) * group):
                line = out[column]
                for row in range(TILE):
                    line[place + uintp(row)] = offset[row]
            factor = float32(1)
            done = 0
            while done < bits:
                width = 1 if bits - done == 1 else 2
                per_word = 32 // width
                mask = uint32((1 << width) - 1)
                start = first_code + tiles * columns * done + tile * columns * width
                for column in range(index * group, (index + 1) * group):
                    at = uintp(start + column // per_word * TILE)
                    shift = uint32(column % per_word * width)
                    line = out[column]
                    for row in range(TILE):
                        word = codes[at + uintp(row)]
                        code = int32(uint32(uint32(word >> shift) & mask))
                        line[place + uintp(row)] += factor * scale[uintp(row)] * float32(code)
                factor *= float32(1 << width)
                done += width


@njit(parallel=True, **OPTIONS)
def parallel_matmul(
    chunks: int,
    x: Floats,
    sums: Floats,
    codes: Words,
    scales: Halves,
    zeros: Halves,
    slot: Ints,
    group: int,
    out: Floats,
) -> None:
    """`matmul_tiles` over all tiles, in ``chunks`` parts at once."""
    tiles = (out.shape[1] + TILE - 1) // TILE
    for chunk in prange(chunks):
        first, last = chunk * tiles // chunks, (chunk + 1) * tiles // chunks
        matmul_tiles(first, last, x, sums, codes, scales, zeros, slot, group, out)


@njit(parallel=True, **OPTIONS)
def parallel_gate_up(
    chunks: int,
    x: Floats,
    sums: Floats,
    ids: Ints,
    codes: Words,
    scales: Halves,
    zeros: Halves,
    table: Ints,
    group: int,
    hidden: Floats,
) -> None:
    """`gate_up_tiles` over all items, in ``chunks`` parts at once."""
    items = hidden.shape[0] * (hidden.shape[1] // TILE)
    for chunk in prange(chunks):
        first, last = chunk * items // chunks, (chunk + 1) * items // chunks
        gate_up_tiles(first, last, x, sums, ids, codes, scales, zeros, table, group, hidden)


@njit(parallel=True, **OPTIONS)
def parallel_down(
    chunks: int,
    hidden: Floats,
    sums: Floats,
    ids: Ints,
    weights: Floats,
    codes: Words,
    scales: Halves,
    zeros: Halves,
    table: Ints,
    group: int,
    out: Floats,
) -> None:
    """`down_tiles` over all tiles, in ``chunks`` parts at once."""
    tiles = out.shape[1] // TILE
    for chunk in prange(chunks):
        first, last = chunk * tiles // chunks, (chunk + 1) * tiles // chunks
        down_tiles(first, last, hidden, sums, ids, weights, codes, scales, zeros, table, group, out)


@njit(parallel=True, **OPTIONS)
def parallel_unpack(
    chunks: int,
    first_tile: int,
    count: int,
    codes: Words,
    scales: Halves,
    zeros: Halves,
    slot: Ints,
    tiles: int,
    group: int,
    out: Floats,
) -> None:
    """`unpack_tiles` over ``count`` tiles, in ``chunks`` parts at once."""
    for chunk in prange(chunks):
        first, last = chunk * count // chunks, (chunk + 1) * count // chunks
        unpack_tiles(first, last, first_tile, codes, scales, zeros, slot, tiles, group, out)
