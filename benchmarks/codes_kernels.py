"""Products of one token with rows in a better code than integers, for a CPU with AVX-512.

All read the tile layout of `engine.layout`, 32 rows side by side and 16 weights of 2 bits in a
word, and ask for the next tile's words as the program's own kernel does; a group of 128 is one ring
of 8 words. None of this is wired into the program: these are the inner loops and no more.

- bytes: a window of up to 8 bits of each of four neighbouring inputs is cut out by one
  `vpmultishiftqb`, looked up in a table of 128 bytes by one `vpermi2b` (twice, and a blend, for 8
  bits), and `vpdpbusd` multiplies with inputs of 8 bits: 64 weights in 3 instructions.
- floats: shift, `vpermps` or `vpermi2ps` in a table of 16 or 32, multiply and add: 16 in 3.
- scrambled: QTIP's 1MAD, a window of 16 bits times a constant, its bytes added up.
- lattice: E8P, 8 weights from a table of 256 times 8 bytes, by gathers.
- integers by bytes: as "bytes" with a mask in place of the lookup, to know what the inputs of 8
  bits bring by themselves.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from engine.kernels.step_memory import I8, I32, I64, element, emitted
from engine.kernels.step_products import _Words
from engine.kernels.step_vectors import (
    FLOATS,
    LANES,
    WORDS,
    accumulator,
    add_to,
    fused,
    half_floats,
    integer,
    load,
    splat_at,
    store,
    word_lanes,
)
from engine.layout import TILE_ROWS, WORD_BITS

GROUP = 128
OCTETS = ir.VectorType(I8, 64)
_QUADS = ir.VectorType(I64, 8)
_FRESH = 2
_PER_WORD = WORD_BITS // _FRESH
_GROUP_WORDS = GROUP // _PER_WORD
MIDDLE = 128
"""Bytes of tables are this much higher than what they stand for."""

Product = Callable[[int, int, int, int, int, int, int, int], None]
Steps = Callable[[Any, Any, Any, list[list[Any]], Any], None]


def _product(prepare: Callable[[Any, Any], Any], group_sums: Callable[..., list[Any]]) -> Product:
    """Make `add(codes, columns, start, groups, inputs, factors, scales, out)`.

    Adds the product of a tile's 32 rows with ``groups`` groups of inputs, from word ``start`` of
    the codes on, to ``out``. ``inputs`` are of this block; ``factors`` float32 [groups, 2]: what a
    group's sum is multiplied by, and what it begins with; behind them is the code's table.
    """

    def add(
        builder: Any, codes: Any, columns: Any, start: Any, groups: Any, inputs: Any, factors: Any,
        scales: Any, out: Any,
    ) -> None:  # fmt: skip
        places = [integer(0), integer(LANES)]
        results = [cgutils.alloca_once(builder, FLOATS) for _ in places]
        for result, place in zip(results, places, strict=True):
            builder.store(load(builder, out, place), result)
        table = prepare(builder, builder.add(factors, builder.mul(groups, integer(8))))
        with cgutils.for_range(builder, groups) as loop:
            first = builder.mul(loop.index, integer(GROUP))
            begin = builder.add(start, builder.mul(first, integer(_FRESH)))
            words = _Words(codes, begin, builder.mul(columns, integer(_FRESH * 4)))
            pair = builder.mul(loop.index, integer(2))
            sums = group_sums(builder, table, words, inputs, first, factors, pair)
            factor = splat_at(builder, factors, pair)
            of_group = builder.mul(loop.index, integer(TILE_ROWS))
            for total, result, place in zip(sums, results, places, strict=True):
                scale = half_floats(builder, scales, builder.add(of_group, place))
                add_to(builder, result, builder.fmul(scale, factor), total)
        for result, place in zip(results, places, strict=True):
            store(builder, builder.load(result), out, place)

    made: Product = emitted(types.void, *(types.int64,) * 8)(add)
    return made


def _ring(builder: Any, words: _Words) -> list[list[Any]]:
    """The group's words, [8][2], and the first once more."""
    found = [words.load(builder, integer(n)) for n in range(_GROUP_WORDS)]
    return [*found, found[0]]


def _call(builder: Any, name: str, kind: Any, *args: Any) -> Any:
    function = ir.FunctionType(kind, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), args)


def _octets(builder: Any, address: Any, start: int) -> Any:
    place = element(builder, address, integer(start), I8)
    return builder.load(builder.bitcast(place, OCTETS.as_pointer()), align=1)


def _fields(places: list[int]) -> ir.Constant:
    """Where the eight fields of a pair of words begin: four in each."""
    return ir.Constant(OCTETS, [p + side * WORD_BITS for side in (0, 1) for p in places] * 8)


def byte_windows(window: int) -> Product:
    """Trellis windows of up to 8 bits; ``window`` 0: integers, masked. Inputs are int8."""

    def prepare(builder: Any, address: Any) -> Any:
        count = {0: 0, 7: 2, 8: 4}[window]
        return [_octets(builder, address, 64 * n) for n in range(count)]

    def lookup(builder: Any, table: Any, index: Any) -> Any:
        permute = "llvm.x86.avx512.vpermi2var.qi.512"
        if window == 0:
            return builder.and_(index, ir.Constant(OCTETS, [3] * 64))
        low = _call(builder, permute, OCTETS, table[0], index, table[1])
        if window == 7:
            return low
        high = _call(builder, permute, OCTETS, table[2], index, table[3])
        upper = builder.icmp_signed("<", index, ir.Constant(OCTETS, [0] * 64))
        return builder.select(upper, high, low)

    def sums(
        builder: Any, table: Any, words: _Words, inputs: Any, first: Any, factors: Any, pair: Any
    ) -> list[Any]:
        middle = splat_at(builder, factors, builder.add(pair, integer(1)))
        totals = [[accumulator_words(builder) for _ in range(2)] for _ in range(2)]
        ring = _ring(builder, words)
        for n in range(_GROUP_WORDS):
            for quarter in range(4):
                four = builder.load(
                    element(
                        builder,
                        builder.add(inputs, first),
                        integer(4 * n + quarter),
                        I32,
                    )
                )
                x = builder.bitcast(_splat_word(builder, four), OCTETS)
                for half in range(2):
                    word, start = ring[n][half], 8 * quarter
                    if quarter == 3 and window:
                        following = ring[n + 1][half]
                        word = _call(
                            builder, "llvm.fshr.v16i32", WORDS, following, word, word_lanes(24)
                        )
                        start = 0
                    control = _fields([start + 2 * place for place in range(4)])
                    index = _call(
                        builder, "llvm.x86.avx512.pmultishift.qb.512", OCTETS,
                        control, builder.bitcast(word, OCTETS),
                    )  # fmt: skip
                    value = lookup(builder, table, index)
                    place = totals[half][quarter % 2]
                    total = _call(
                        builder, "llvm.x86.avx512.vpdpbusd.512", WORDS,
                        builder.load(place), value, x,
                    )  # fmt: skip
                    builder.store(total, place)
        found = []
        for pairs in totals:
            whole = builder.add(*map(builder.load, pairs))
            found.append(builder.fadd(builder.sitofp(whole, FLOATS), middle))
        return found

    return _product(prepare, sums)


def float_windows(window: int) -> Product:
    """Trellis windows of 4 or 5 bits; inputs and table are float32."""

    def prepare(builder: Any, address: Any) -> Any:
        return [load(builder, address, integer(LANES * n)) for n in range(window - 3)]

    def lookup(builder: Any, table: Any, index: Any) -> Any:
        if window == 4:
            return _call(builder, "llvm.x86.avx512.permvar.sf.512", FLOATS, table[0], index)
        name = "llvm.x86.avx512.vpermi2var.ps.512"
        return _call(builder, name, FLOATS, table[0], index, table[1])

    return _product(prepare, _by_weight(window, lookup))


def scrambled() -> Product:
    """QTIP's 1MAD in windows of 16 bits; inputs are float32."""

    def lookup(builder: Any, table: Any, index: Any) -> Any:
        state = builder.and_(index, word_lanes(0xFFFF))
        state = builder.mul(state, word_lanes(34038481))
        state = builder.bitcast(builder.add(state, word_lanes(76625530)), OCTETS)
        ones = ir.Constant(OCTETS, [1] * 64)
        name = "llvm.x86.avx512.vpdpbusd.512"
        total = _call(builder, name, WORDS, word_lanes(-510), state, ones)
        return builder.sitofp(total, FLOATS)

    return _product(lambda builder, address: None, _by_weight(16, lookup))


def _by_weight(window: int, lookup: Callable[..., Any]) -> Callable[..., list[Any]]:
    def sums(
        builder: Any, table: Any, words: _Words, inputs: Any, first: Any, factors: Any, pair: Any
    ) -> list[Any]:
        totals = [[accumulator(builder) for _ in range(2)] for _ in range(2)]
        ring = _ring(builder, words)
        for n in range(_GROUP_WORDS):
            for place in range(_PER_WORD):
                at = builder.add(first, integer(n * _PER_WORD + place))
                x = splat_at(builder, inputs, at)
                shift = word_lanes(_FRESH * place)
                for half in range(2):
                    word, following = ring[n][half], ring[n + 1][half]
                    if _FRESH * place + window <= WORD_BITS:
                        index = builder.lshr(word, shift)
                    else:
                        index = _call(builder, "llvm.fshr.v16i32", WORDS, following, word, shift)
                    value = lookup(builder, table, index)
                    total = totals[half][place % 2]
                    builder.store(fused(builder, value, x, builder.load(total)), total)
        return [builder.fadd(*map(builder.load, pairs)) for pairs in totals]

    return sums


def lattice() -> Product:
    """E8P: half a word is 8 weights. The table's bytes are 4 times the sizes; inputs are int8.

    Behind the 256 sizes lies for every eight inputs twice their sum, int32: the side that a point
    is moved to is one more product, with these.
    """

    def prepare(builder: Any, address: Any) -> Any:
        return address

    def sums(
        builder: Any, table: Any, words: _Words, inputs: Any, first: Any, factors: Any, pair: Any
    ) -> list[Any]:
        # Two accumulators of 8 rows each for a half: each row has two dwords of products.
        totals = [[accumulator_words(builder) for _ in range(2)] for _ in range(2)]
        moved = [accumulator_words(builder) for _ in range(2)]
        eights = builder.add(table, integer(256 * 8))
        one = word_lanes(1)
        for n in range(_GROUP_WORDS):
            both = words.load(builder, integer(n))
            for part in range(2):
                at = builder.add(first, integer(n * _PER_WORD + 8 * part))
                quad = builder.load(element(builder, builder.add(inputs, at), integer(0), I64))
                x = builder.bitcast(_splat_quad(builder, quad), OCTETS)
                number = builder.udiv(at, integer(8))
                eight = _splat_word(builder, builder.load(element(builder, eights, number, I32)))
                for half in range(2):
                    code = builder.lshr(both[half], word_lanes(16)) if part else both[half]
                    side = builder.and_(builder.lshr(code, word_lanes(15)), one)
                    moved_now = builder.sub(builder.load(moved[half]), builder.mul(side, eight))
                    builder.store(moved_now, moved[half])
                    for quarter in range(2):
                        rows = ir.Constant(
                            ir.VectorType(I32, 8), list(range(8 * quarter, 8 * quarter + 8))
                        )
                        undefined = ir.Constant(WORDS, ir.Undefined)
                        own = builder.zext(
                            builder.shuffle_vector(code, undefined, rows), _QUADS
                        )  # [8 rows]
                        sizes = _gather(builder, table, builder.and_(own, _quads(0xFF)))
                        turned = _signed(builder, own, sizes, x)
                        place = totals[half][quarter]
                        total = _call(
                            builder, "llvm.x86.avx512.vpdpbusd.512", WORDS,
                            builder.load(place), builder.bitcast(sizes, OCTETS), turned,
                        )  # fmt: skip
                        builder.store(total, place)
        found = []
        for half in range(2):
            low, high = map(builder.load, totals[half])
            even = ir.Constant(WORDS, list(range(0, 32, 2)))
            odd = ir.Constant(WORDS, list(range(1, 32, 2)))
            whole = builder.add(
                builder.shuffle_vector(low, high, even), builder.shuffle_vector(low, high, odd)
            )
            whole = builder.add(whole, builder.load(moved[half]))
            offset = splat_at(builder, factors, builder.add(pair, integer(1)))
            found.append(builder.fadd(builder.sitofp(whole, FLOATS), offset))
        return found

    return _product(prepare, sums)


def _signed(builder: Any, codes: Any, sizes: Any, x: Any) -> Any:
    """Inputs with the signs of their weights: 7 are bits of the code, the eighth makes the sum of
    all weights even. Only sizes of 1.5, bytes of 6, are odd, and have their third bit set."""
    odd = builder.and_(sizes, _quads(0x0404040404040404))
    odd = builder.xor(odd, builder.and_(codes, _quads(0x7F00)))
    count = _call(builder, "llvm.ctpop.v8i64", _QUADS, odd)
    signs = builder.and_(builder.lshr(codes, _quads(8)), _quads(0x7F))
    signs = builder.or_(signs, builder.shl(count, _quads(7)))
    octets = builder.trunc(signs, ir.VectorType(I8, 8))
    mask = builder.bitcast(octets, ir.VectorType(ir.IntType(1), 64))
    return builder.select(mask, builder.sub(ir.Constant(OCTETS, [0] * 64), x), x)


def _gather(builder: Any, table: Any, places: Any) -> Any:
    base = builder.inttoptr(table, I8.as_pointer())
    zero, mask = ir.Constant(_QUADS, [0] * 8), ir.Constant(ir.VectorType(ir.IntType(1), 8), [1] * 8)
    return _call(
        builder, "llvm.x86.avx512.mask.gather.qpq.512", _QUADS,
        zero, base, places, mask, I32(8),
    )  # fmt: skip


def accumulator_words(builder: Any) -> Any:
    """A vector of integers to add to."""
    return cgutils.alloca_once_value(builder, word_lanes(0))


def _quads(value: int) -> ir.Constant:
    return ir.Constant(_QUADS, [value] * 8)


def _splat_word(builder: Any, word: Any) -> Any:
    first = builder.insert_element(ir.Constant(WORDS, ir.Undefined), word, I32(0))
    return builder.shuffle_vector(first, ir.Constant(WORDS, ir.Undefined), word_lanes(0))


def _splat_quad(builder: Any, quad: Any) -> Any:
    undefined = ir.Constant(_QUADS, ir.Undefined)
    first = builder.insert_element(undefined, quad, I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, 8), [0] * 8))
