"""Products of one token with tiles of packed rows, at addresses.

With AVX-512 a lookup does two multiplications of a 2-bit plane at once, or four of a 1-bit plane:
`vpermps` takes 16 rows' next four bits as places in a table of the 16 sums that two (or four)
inputs can contribute. The tables depend on the inputs alone and are made once for many rows. A
lookup costs a shift, a permutation and an addition, so a weight of 2 bits 3/32 instructions of 16
rows' lanes, where shifting, masking, converting and multiplying took 4/16.

The words of one tile lie far from those of the next, which no processor guesses: while a tile is
read, the same inputs' words, scales and zero points of the next one are asked for. That doubled the
speed from main memory.

Other machines mask a code where it stands in its word: x is divided by the power of two that its
place makes of the code, which is exact, and no shift is left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target

from engine.kernels.step_memory import emitted
from engine.kernels.step_vectors import (
    FLOATS,
    LANES,
    WORDS,
    accumulator,
    add_to,
    blocks,
    fetch,
    fused,
    half_floats,
    integer,
    lanes,
    load,
    splat_at,
    store,
    word_lanes,
)
from engine.layout import SCALE_BYTES, TILE_ROWS, WORD_BITS, planes
from engine.packing import centre

PERMUTING = "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2]
"""Whether numba compiles for a machine with `vpermps` on 16 floats."""

TABLE_FLOATS = {1: 4, 2: 8}
"""At most, floats of the tables for one input, by the width of the plane."""

WORD_BYTES = WORD_BITS // 8
_INDEX_BITS = 4
_LINE_BYTES = 64
_HALF_TILES = TILE_ROWS // LANES

Tables = Callable[[int, int, int], None]
Product = Callable[..., None]


def table_maker(width: int, permuting: bool = PERMUTING) -> Tables:
    """Make `tables(x, count, out)`: what a ``width``-bit plane needs of ``count`` inputs.

    The count is a multiple of 32. ``out`` has TABLE_FLOATS[width] floats for each.
    """
    per_lookup = _INDEX_BITS // width
    digits = [
        [place >> (width * n) & ((1 << width) - 1) for place in range(LANES)]
        for n in range(per_lookup)
    ]

    def sums(builder: Any, x: Any, count: Any, out: Any) -> None:
        with blocks(builder, count, per_lookup) as loop:
            first = builder.mul(loop.index, integer(per_lookup))
            table = lanes(0.0)
            for n, digit in enumerate(digits):
                value = splat_at(builder, x, builder.add(first, integer(n)))
                table = fused(builder, value, ir.Constant(FLOATS, list(map(float, digit))), table)
            store(builder, table, out, builder.mul(loop.index, integer(LANES)))

    def shifted(builder: Any, x: Any, count: Any, out: Any) -> None:
        per_word = WORD_BITS // width
        with blocks(builder, count, per_word) as loop:
            for part in range(0, per_word, LANES):
                at = builder.add(builder.mul(loop.index, integer(per_word)), integer(part))
                powers = [2.0 ** -_shift(place, width) for place in range(part, part + LANES)]
                value = builder.fmul(load(builder, x, at), ir.Constant(FLOATS, powers))
                store(builder, value, out, at)

    made: Tables = emitted(types.void, *(types.int64,) * 3)(sums if permuting else shifted)
    return made


def block_product(bits: int, permuting: bool = PERMUTING) -> Product:
    """Make `add(codes, tiles, columns, tile, start, groups, group, pairs, quads, ...)`.

    Its last arguments are ``scales``, ``zeros``, ``sums`` and ``out``, to whose 32 floats it adds
    the product of the rows of a tile with ``groups`` groups of inputs, from input ``start`` on. The
    matrix begins at ``codes`` and has ``tiles`` row tiles and ``columns`` inputs. ``pairs`` and
    ``quads`` are the tables of these inputs for planes of 2 bits and of 1 bit (those that this
    width needs), ``sums`` their sums by group; ``scales`` and ``zeros`` are of these rows and
    groups. At 1 bit, and where ``zeros`` is 0, zero points are the middle of the codes.
    """

    def add(
        builder: Any,
        codes: Any,
        tiles: Any,
        columns: Any,
        tile: Any,
        start: Any,
        groups: Any,
        group: Any,
        pairs: Any,
        quads: Any,
        scales: Any,
        zeros: Any,
        sums: Any,
        out: Any,
    ) -> None:
        plane = builder.mul(tiles, columns)
        word = builder.add(builder.mul(tile, columns), start)
        # In bytes, from a group's scales to those of the next tile.
        next_scales = builder.mul(builder.udiv(columns, group), integer(TILE_ROWS * SCALE_BYTES))
        stored = builder.icmp_unsigned("!=", zeros, integer(0))
        # Always something that can be read.
        zeros = builder.select(stored, zeros, scales)
        places = [integer(half * LANES) for half in range(_HALF_TILES)]
        results = [cgutils.alloca_once(builder, FLOATS) for _ in places]
        for result, place in zip(results, places, strict=True):
            builder.store(load(builder, out, place), result)
        with cgutils.for_range(builder, groups) as loop:
            first = builder.mul(loop.index, group)
            raws, done = [lanes(0.0)] * _HALF_TILES, 0
            for width in planes(bits):
                inputs = builder.mul(builder.add(word, first), integer(width))
                begin = builder.add(builder.mul(plane, integer(done)), inputs)
                tables = pairs if width == 2 else quads
                words = _Words(codes, begin, builder.mul(columns, integer(width * WORD_BYTES)))
                parts = lookups(builder, width, words, group, tables, first)
                factor = lanes(float(1 << done))
                raws = [
                    fused(builder, part, factor, raw) for part, raw in zip(parts, raws, strict=True)
                ]
                done += width
            of_group = builder.mul(loop.index, integer(TILE_ROWS))
            ahead = builder.add(next_scales, builder.mul(of_group, integer(SCALE_BYTES)))
            for address in (scales,) if bits == 1 else (scales, zeros):
                fetch(builder, builder.add(address, ahead))
            total = splat_at(builder, sums, loop.index)
            for raw, result, place in zip(raws, results, places, strict=True):
                at = builder.add(of_group, place)
                zero = lanes(centre(bits))
                if bits > 1:
                    zero = builder.select(stored, half_floats(builder, zeros, at), zero)
                value = fused(builder, builder.fneg(zero), total, raw)
                add_to(builder, result, half_floats(builder, scales, at), value)
        for result, place in zip(results, places, strict=True):
            store(builder, builder.load(result), out, place)

    lookups = _permuted if permuting else _masked
    made: Product = emitted(types.void, *(types.int64,) * 13)(add)
    return made


@dataclass(frozen=True)
class _Words:
    """Words of a tile and plane, from ``begin`` on; those of the next are ``stride`` bytes away."""

    codes: Any
    begin: Any
    stride: Any

    def load(self, builder: Any, index: Any) -> list[Any]:
        """Word ``index`` of all rows, in vectors; asks for those of the next tile."""
        at = builder.add(self.begin, builder.mul(index, integer(TILE_ROWS)))
        ahead = builder.add(
            builder.add(self.codes, self.stride), builder.mul(at, integer(WORD_BYTES))
        )
        for line in range(0, TILE_ROWS * WORD_BYTES, _LINE_BYTES):
            fetch(builder, builder.add(ahead, integer(line)))
        return [
            load(builder, self.codes, builder.add(at, integer(half * LANES)), WORDS)
            for half in range(_HALF_TILES)
        ]


def _permuted(
    builder: Any, width: int, words: _Words, group: Any, tables: Any, first: Any
) -> list[Any]:
    """Sums of code times input over one plane of a group, 16 rows each."""
    kind = ir.FunctionType(FLOATS, [FLOATS, WORDS])
    permute = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.permvar.sf.512")
    per_input = TABLE_FLOATS[width]
    per_word = WORD_BITS // _INDEX_BITS
    # Two sums for 16 rows: an addition does not wait for the one before it.
    sums = [[accumulator(builder) for _ in range(2)] for _ in range(_HALF_TILES)]
    with blocks(builder, group, WORD_BITS // width) as loop:
        halves = words.load(builder, loop.index)
        table_at = builder.add(
            builder.mul(first, integer(per_input)),
            builder.mul(loop.index, integer(per_word * LANES)),
        )
        for n in range(per_word):
            table = load(builder, tables, builder.add(table_at, integer(n * LANES)))
            for half, places in zip(halves, sums, strict=True):
                index = builder.lshr(half, word_lanes(n * _INDEX_BITS))
                value = builder.call(permute, [table, index])
                place = places[n % 2]
                builder.store(builder.fadd(builder.load(place), value), place)
    return [builder.fadd(*map(builder.load, places)) for places in sums]


def _masked(
    builder: Any, width: int, words: _Words, group: Any, tables: Any, first: Any
) -> list[Any]:
    """Like `_permuted`, with the tables of `shifted`."""
    per_word = WORD_BITS // width
    sums = [[accumulator(builder) for _ in range(2)] for _ in range(_HALF_TILES)]
    with blocks(builder, group, per_word) as loop:
        x_at = builder.add(first, builder.mul(loop.index, integer(per_word)))
        halves = words.load(builder, loop.index)
        for n in range(per_word):
            value = splat_at(builder, tables, builder.add(x_at, integer(n)))
            for half, places in zip(halves, sums, strict=True):
                shift = _shift(n, width)
                mask = word_lanes(((1 << width) - 1) << shift)
                code = (
                    builder.and_(half, mask)
                    if shift == n * width
                    else builder.lshr(half, word_lanes(n * width))
                )
                add_to(builder, places[n % 2], builder.sitofp(code, FLOATS), value)
    return [builder.fadd(*map(builder.load, places)) for places in sums]


def _shift(place: int, width: int) -> int:
    """By how many bits a masked code is too high; the last one is shifted, for its sign's sake."""
    return 0 if (place + 1) * width == WORD_BITS else place * width
