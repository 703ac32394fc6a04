"""Explicit SIMD at addresses, for the compiled step: everything but the packed products.

Vectors have 16 lanes, which LLVM splits into as many registers as the machine needs; every count
is a multiple of 16 unless said otherwise. Nothing is reordered (see `simd`): what is summed in
lanes is summed in the same lanes every time.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from engine.kernels.step_memory import F32, I8, I16, I32, I64, element, emitted, pointer

LANES = 16
FLOATS = ir.VectorType(F32, LANES)
WORDS = ir.VectorType(I32, LANES)
_HALVES = ir.VectorType(I16, LANES)
_BYTES = ir.VectorType(I8, LANES)
FUSED = ("contract",)
"""Multiply and add in one instruction."""

FLOAT_KIND, HALF_KIND, BRAIN_KIND, CODE_KIND = range(4)
"""How a number is stored: float32, float16, bfloat16, int8."""

QUERIES = 4
"""Queries that share a pass over the keys of their head."""

_UNROLLED = 4
"""Independent sums of a long dot product, so that an addition need not wait for the one before."""


def lanes(value: float) -> ir.Constant:
    """The same float in every lane."""
    return ir.Constant(FLOATS, [value] * LANES)


def word_lanes(value: int) -> ir.Constant:
    """The same word in every lane."""
    return ir.Constant(WORDS, [value] * LANES)


def integer(value: int) -> ir.Constant:
    """An int64."""
    return ir.Constant(I64, value)


def load(builder: Any, address: Any, index: Any, kind: ir.VectorType = FLOATS) -> Any:
    """A vector that begins at element ``index`` of an array, aligned like one element."""
    place = element(builder, address, index, kind.element)
    align = {_HALVES: 2, _BYTES: 1}.get(kind, 4)
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=align)


def store(builder: Any, value: Any, address: Any, index: Any) -> None:
    """The inverse of `load`, for floats."""
    place = element(builder, address, index, F32)
    builder.store(value, builder.bitcast(place, FLOATS.as_pointer()), align=4)


def splat(builder: Any, scalar: Any) -> Any:
    """A float in every lane."""
    undefined = ir.Constant(FLOATS, ir.Undefined)
    first = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(first, undefined, word_lanes(0))


def splat_at(builder: Any, address: Any, index: Any) -> Any:
    """Element ``index`` of an array of float32 in every lane."""
    return splat(builder, builder.load(element(builder, address, index, F32)))


def over_lanes(builder: Any, combine: Callable[[Any, Any], Any], vector: Any) -> Any:
    """What ``combine`` makes of a vector's lanes, two by two."""
    width = LANES
    undefined = ir.Constant(vector.type, ir.Undefined)
    while width > 1:
        width //= 2
        places = (list(range(at, at + width)) for at in (0, width))
        low, high = (
            builder.shuffle_vector(vector, undefined, ir.Constant(ir.VectorType(I32, width), at))
            for at in places
        )
        vector, undefined = combine(low, high), ir.Constant(low.type, ir.Undefined)
    return builder.extract_element(vector, I32(0))


def half_floats(builder: Any, address: Any, index: Any) -> Any:
    """16 float16 as floats, infinities and NaNs excepted; with integers, as in `simd`."""
    wide = builder.zext(load(builder, address, index, _HALVES), WORDS)
    magnitude = builder.shl(builder.and_(wide, word_lanes(0x7FFF)), word_lanes(13))
    sign = builder.shl(builder.and_(wide, word_lanes(0x8000)), word_lanes(16))
    value = builder.bitcast(builder.or_(magnitude, sign), FLOATS)
    # From a half's exponent bias, 15, to a float's, 127.
    return builder.fmul(value, lanes(2.0**112))


def _brain_floats(builder: Any, address: Any, index: Any) -> Any:
    wide = builder.zext(load(builder, address, index, _HALVES), WORDS)
    return builder.bitcast(builder.shl(wide, word_lanes(16)), FLOATS)


def _code_floats(builder: Any, address: Any, index: Any) -> Any:
    return builder.sitofp(builder.sext(load(builder, address, index, _BYTES), WORDS), FLOATS)


_LOADERS: tuple[Callable[[Any, Any, Any], Any], ...] = (
    load,
    half_floats,
    _brain_floats,
    _code_floats,
)
"""By kind."""


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c."""
    return builder.fadd(builder.fmul(a, b, flags=FUSED), c, flags=FUSED)


def add_to(builder: Any, place: Any, a: Any, b: Any) -> None:
    """Add a * b to a vector in memory, which LLVM keeps in a register."""
    builder.store(fused(builder, a, b, builder.load(place)), place)


def accumulator(builder: Any) -> Any:
    """A vector of zeros to add to."""
    return cgutils.alloca_once_value(builder, lanes(0.0))


def fetch(builder: Any, address: Any) -> None:
    """Ask for a cache line that will soon be read; any address will do."""
    octet = ir.IntType(8)
    kind = ir.FunctionType(ir.VoidType(), [octet.as_pointer(), I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    # To be read, kept in the nearest cache, data.
    builder.call(function, [pointer(builder, address, octet), I32(0), I32(3), I32(1)])


def blocks(builder: Any, count: Any, size: int) -> Any:
    """A loop over 0, 1, ... count / size - 1; its index times ``size`` is where a block begins."""
    return cgutils.for_range(builder, builder.udiv(count, integer(size)))


def _exponential(builder: Any, x: Any) -> Any:
    """exp in each lane to the last bits; below -87 it stays at 1e-38, above 88 at 2**127."""
    low, high = lanes(-87.33), lanes(88.02)
    x = builder.select(builder.fcmp_ordered("<", x, low), low, x)
    x = builder.select(builder.fcmp_ordered(">", x, high), high, x)
    # 1.5 * 2**23 leaves no room for a fraction: adding it rounds to a whole number.
    magic = lanes(1.5 * 2**23)
    whole = builder.fsub(fused(builder, x, lanes(1.4426950408889634), magic), magic)
    # ln 2 in two parts, the first short enough for an exact product.
    rest = fused(builder, whole, lanes(-0.693145751953125), x)
    rest = fused(builder, whole, lanes(-1.42860682030941723e-6), rest)
    value = lanes(1 / 5040)
    for term in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        value = fused(builder, value, rest, lanes(term))
    # A NaN passes: whatever its power is, NaN times that is NaN.
    power = builder.add(builder.fptosi(whole, WORDS), word_lanes(127))
    return builder.fmul(value, builder.bitcast(builder.shl(power, word_lanes(23)), FLOATS))


def _reduction(name: str, term: Callable[[Any, Any], Any]) -> Callable[[int, int], float]:
    """Make `name(x, count)`: the sum of term(x)."""

    def emit(builder: Any, x: Any, count: Any) -> Any:
        sums = accumulator(builder)
        with blocks(builder, count, LANES) as loop:
            value = load(builder, x, builder.mul(loop.index, integer(LANES)))
            builder.store(builder.fadd(builder.load(sums), term(builder, value)), sums)
        return over_lanes(builder, builder.fadd, builder.load(sums))

    emit.__name__ = name
    made: Callable[[int, int], float] = emitted(types.float32, types.int64, types.int64)(emit)
    return made


def _absolute(builder: Any, value: Any) -> Any:
    bits = builder.and_(builder.bitcast(value, WORDS), word_lanes(0x7FFFFFFF))
    return builder.bitcast(bits, FLOATS)


sum_of = _reduction("sum_of", lambda builder, value: value)
sum_of_squares = _reduction("sum_of_squares", lambda builder, value: builder.fmul(value, value))
sum_of_magnitudes = _reduction("sum_of_magnitudes", _absolute)


@emitted(types.void, types.int64, types.int64)
def clear(builder: Any, out: Any, count: Any) -> None:
    """Write zeros."""
    with blocks(builder, count, LANES) as loop:
        store(builder, lanes(0.0), out, builder.mul(loop.index, integer(LANES)))


@emitted(types.void, types.int64, types.float32, types.int64, types.int64, types.int64)
def scale_by(builder: Any, x: Any, factor: Any, weights: Any, count: Any, out: Any) -> None:
    """out = x * factor * weights."""
    factors = splat(builder, factor)
    with blocks(builder, count, LANES) as loop:
        at = builder.mul(loop.index, integer(LANES))
        value = builder.fmul(load(builder, x, at), factors)
        store(builder, builder.fmul(value, load(builder, weights, at)), out, at)


@emitted(types.void, types.int64, types.int64, types.float32, types.int64, types.int64)
def plus_scaled(builder: Any, base: Any, x: Any, factor: Any, count: Any, out: Any) -> None:
    """out = base + factor * x."""
    factors = splat(builder, factor)
    with blocks(builder, count, LANES) as loop:
        at = builder.mul(loop.index, integer(LANES))
        value = fused(builder, factors, load(builder, x, at), load(builder, base, at))
        store(builder, value, out, at)


@emitted(types.void, types.int64, types.float32, types.int64)
def multiply(builder: Any, x: Any, factor: Any, count: Any) -> None:
    """Multiply x by the factor, in place."""
    factors = splat(builder, factor)
    with blocks(builder, count, LANES) as loop:
        at = builder.mul(loop.index, integer(LANES))
        store(builder, builder.fmul(load(builder, x, at), factors), x, at)


@emitted(types.void, types.int64, types.int64, types.int64, types.int64)
def gated(builder: Any, gate: Any, up: Any, count: Any, out: Any) -> None:
    """out = silu(gate) * up."""
    with blocks(builder, count, LANES) as loop:
        at = builder.mul(loop.index, integer(LANES))
        value = load(builder, gate, at)
        below = builder.fadd(lanes(1.0), _exponential(builder, builder.fneg(value)))
        silu = builder.fdiv(value, below)
        store(builder, builder.fmul(silu, load(builder, up, at)), out, at)


def _row_product(kind: int) -> Callable[[int, int, int], float]:
    """Make `dot(weights, x, count)` for weights of one kind; ``count`` is a multiple of 32."""

    def dot(builder: Any, weights: Any, x: Any, count: Any) -> Any:
        sums = [accumulator(builder) for _ in range(_UNROLLED)]

        def add(at: Any, place: int) -> None:
            at = builder.add(at, integer(place * LANES))
            add_to(builder, sums[place], _LOADERS[kind](builder, weights, at), load(builder, x, at))

        whole = LANES * _UNROLLED
        with blocks(builder, count, whole) as loop:
            at = builder.mul(loop.index, integer(whole))
            for place in range(_UNROLLED):
                add(at, place)
        done = builder.and_(count, integer(-whole))
        with blocks(builder, builder.sub(count, done), 2 * LANES):
            for place in range(2):
                add(done, place)
        first, *others = (builder.load(place) for place in sums)
        for other in others:
            first = builder.fadd(first, other)
        return over_lanes(builder, builder.fadd, first)

    made: Callable[[int, int, int], float] = emitted(types.float32, *(types.int64,) * 3)(dot)
    return made


float_product, half_product, brain_product = (
    _row_product(kind) for kind in (FLOAT_KIND, HALF_KIND, BRAIN_KIND)
)


def _widening(kind: int) -> Callable[[int, int, int], None]:
    """Make `widen(x, count, out)`: numbers of one kind as float32."""

    def widen(builder: Any, x: Any, count: Any, out: Any) -> None:
        with blocks(builder, count, LANES) as loop:
            at = builder.mul(loop.index, integer(LANES))
            store(builder, _LOADERS[kind](builder, x, at), out, at)

    made: Callable[[int, int, int], None] = emitted(types.void, *(types.int64,) * 3)(widen)
    return made


widen_floats, widen_halves, widen_brains = (
    _widening(kind) for kind in (FLOAT_KIND, HALF_KIND, BRAIN_KIND)
)


def _lane_sums(builder: Any, vectors: Sequence[Any]) -> list[Any]:
    """The sum of each vector's lanes; those of four together take a third of the instructions."""
    if len(vectors) != QUERIES:
        return [over_lanes(builder, builder.fadd, vector) for vector in vectors]
    first, second, third, fourth = vectors
    pairs = _folded(builder, first, second, 1), _folded(builder, third, fourth, 1)
    sums = _folded(builder, *pairs, 2)  # one of each vector in every four lanes
    undefined = ir.Constant(FLOATS, ir.Undefined)
    for width in (8, 4):
        moved = [(lane + width) % LANES for lane in range(LANES)]
        others = builder.shuffle_vector(sums, undefined, ir.Constant(WORDS, moved))
        sums = builder.fadd(sums, others)
    return [builder.extract_element(sums, I32(lane)) for lane in range(QUERIES)]


def _folded(builder: Any, a: Any, b: Any, width: int) -> Any:
    """Sums of lanes that are ``width`` apart, ``width`` of a and of b in turn."""
    low = [
        start + place + side * LANES
        for start in range(0, LANES, 2 * width)
        for side in range(2)
        for place in range(width)
    ]
    high = [place + width for place in low]
    return builder.fadd(
        builder.shuffle_vector(a, b, ir.Constant(WORDS, low)),
        builder.shuffle_vector(a, b, ir.Constant(WORDS, high)),
    )


def _scoring(queries: int, kind: int) -> Callable[[int, int, int, int, int, int, int], None]:
    """Make `score(q, dim, keys, count, values, room, out)`: out[r, j] = q[r] times key j.

    q [queries, dim]; keys [count, dim] of a kind; out [queries, room], of which ``count`` are
    written. ``values``, like the keys, are asked for meanwhile.
    """
    size = 4 if kind == FLOAT_KIND else 1

    def score(
        builder: Any,
        q: Any,
        dim: Any,
        keys: Any,
        count: Any,
        values: Any,
        room: Any,
        out: Any,
    ) -> None:
        with cgutils.for_range(builder, count) as key:
            sums = [accumulator(builder) for _ in range(queries)]
            row = builder.mul(key.index, dim)
            with blocks(builder, dim, LANES) as loop:
                at = builder.mul(loop.index, integer(LANES))
                place = builder.add(row, at)
                fetch(builder, builder.add(values, builder.mul(place, integer(size))))
                value = _LOADERS[kind](builder, keys, place)
                for r, total in enumerate(sums):
                    query = load(builder, q, builder.add(builder.mul(dim, integer(r)), at))
                    add_to(builder, total, query, value)
            scores = _lane_sums(builder, [builder.load(total) for total in sums])
            for r, value in enumerate(scores):
                at = builder.add(builder.mul(room, integer(r)), key.index)
                builder.store(value, element(builder, out, at, F32))

    made: Callable[..., None] = emitted(types.void, *(types.int64,) * 7)(score)
    return made


score_one, score_some = (_scoring(queries, FLOAT_KIND) for queries in (1, QUERIES))
score_one_codes, score_some_codes = (_scoring(queries, CODE_KIND) for queries in (1, QUERIES))


def _mixing(queries: int, kind: int) -> Callable[[int, int, int, int, int, int], None]:
    """Make `mix(p, room, values, count, dim, out)`: out[r] += sum over j of p[r, j] * value j.

    p [queries, room], of which ``count`` are read; values [count, dim] of a kind;
    out [queries, dim].
    """

    def mix(builder: Any, p: Any, room: Any, values: Any, count: Any, dim: Any, out: Any) -> None:
        def mix_part(first: Any, vectors: int) -> None:
            """Of elements from ``first`` on, some vectors of them."""
            starts = [builder.add(first, integer(n * LANES)) for n in range(vectors)]
            places = [
                builder.add(builder.mul(dim, integer(r)), start)
                for r in range(queries)
                for start in starts
            ]
            sums = [cgutils.alloca_once(builder, FLOATS) for _ in places]
            for total, at in zip(sums, places, strict=True):
                builder.store(load(builder, out, at), total)
            with cgutils.for_range(builder, count) as key:
                row = builder.mul(key.index, dim)
                parts = [
                    _LOADERS[kind](builder, values, builder.add(row, start)) for start in starts
                ]
                for r in range(queries):
                    at = builder.add(builder.mul(room, integer(r)), key.index)
                    weight = splat_at(builder, p, at)
                    for n, part in enumerate(parts):
                        add_to(builder, sums[r * vectors + n], weight, part)
            for total, at in zip(sums, places, strict=True):
                store(builder, builder.load(total), out, at)

        wide = 2 * LANES
        with blocks(builder, dim, wide) as part:
            mix_part(builder.mul(part.index, integer(wide)), 2)
        done = builder.and_(dim, integer(-wide))
        with blocks(builder, builder.sub(dim, done), LANES):
            mix_part(done, 1)

    made: Callable[..., None] = emitted(types.void, *(types.int64,) * 6)(mix)
    return made


mix_one, mix_some = (_mixing(queries, FLOAT_KIND) for queries in (1, QUERIES))
mix_one_codes, mix_some_codes = (_mixing(queries, CODE_KIND) for queries in (1, QUERIES))


@emitted(types.void, types.int64, types.int64, types.int64)
def multiply_halves(builder: Any, x: Any, halves: Any, count: Any) -> None:
    """Multiply x by float16 numbers, in place."""
    with blocks(builder, count, LANES) as loop:
        at = builder.mul(loop.index, integer(LANES))
        value = builder.fmul(load(builder, x, at), half_floats(builder, halves, at))
        store(builder, value, x, at)


@emitted(types.float32, types.int64, types.int64)
def largest(builder: Any, x: Any, count: Any) -> Any:
    """The largest of ``count`` floats."""
    most = cgutils.alloca_once_value(builder, lanes(float("-inf")))

    def larger(a: Any, b: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", a, b), a, b)

    with blocks(builder, count, LANES) as loop:
        value = load(builder, x, builder.mul(loop.index, integer(LANES)))
        builder.store(larger(value, builder.load(most)), most)
    return over_lanes(builder, larger, builder.load(most))


@emitted(types.float32, types.int64, types.float32, types.int64)
def exponentials(builder: Any, x: Any, less: Any, count: Any) -> Any:
    """Make x exp(x - less), in place; returns their sum."""
    offset, sums = splat(builder, less), accumulator(builder)
    with blocks(builder, count, LANES) as loop:
        at = builder.mul(loop.index, integer(LANES))
        value = _exponential(builder, builder.fsub(load(builder, x, at), offset))
        store(builder, value, x, at)
        builder.store(builder.fadd(builder.load(sums), value), sums)
    return over_lanes(builder, builder.fadd, builder.load(sums))
