"""Explicit SIMD for the CPU loops: a tile's 32 rows are one LLVM vector.

LLVM splits a vector of 32 into as many registers as the machine needs (two with AVX-512, four
with AVX2, eight with NEON). Left to its auto-vectoriser, plain loops over the rows gathered single
words (four times slower) or checked for aliasing at every word.

After a change here, touch `loops.py` too: numba's cache on disk looks only at the file of the
function that it compiled.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from engine.layout import TILE_ROWS, WORD_BITS

_I32 = ir.IntType(32)
_F32 = ir.FloatType()
_WORDS = ir.VectorType(_I32, TILE_ROWS)
_HALVES = ir.VectorType(ir.IntType(16), TILE_ROWS)
_FLOATS = ir.VectorType(_F32, TILE_ROWS)
_FUSED = ("contract",)
"""Multiply and add in one instruction. Nothing is reordered: sums written here as vectors need it
no more, and a reordered product once met 2**112 (see `_halves`) before its small factor."""

ACCUMULATORS = 2
"""Independent sums of a lone token, so that an addition need not wait for the one before it."""


def plane_product(width: int, tokens: int) -> Callable[..., None]:
    """Make `add(codes, start, words, x, first, columns, factor, raw)` for a ``width``-bit plane.

    It adds to raw[n, r] the ``factor``-fold sum of code * x over ``words`` words of row r, for
    ``tokens`` tokens n at once, so that a code is taken out of its word once for all of them. The
    words of the tile begin at codes[start], their inputs at element first + n * columns of x.
    """

    @intrinsic
    def add(
        typing_context: Any,
        codes: Any,
        start: Any,
        words: Any,
        x: Any,
        first: Any,
        columns: Any,
        factor: Any,
        raw: Any,
    ) -> Any:
        index = types.intp
        signature = types.void(codes, index, index, x, index, index, types.float32, raw)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            codes, x, raw = (_data(context, builder, signature, args, i) for i in (0, 3, 7))
            start, words, first, columns, factor = args[1], args[2], args[4], args[5], args[6]
            copies = ACCUMULATORS if tokens == 1 else 1
            zero = ir.Constant(_FLOATS, [0.0] * TILE_ROWS)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(tokens * copies)]
            per_word = WORD_BITS // width
            with cgutils.for_range(builder, words) as loop:
                at = builder.add(start, builder.mul(loop.index, _intp(TILE_ROWS)))
                bits = _load(builder, codes, at, _WORDS)
                x_at = builder.add(first, builder.mul(loop.index, _intp(per_word)))
                inputs = [
                    builder.gep(x, [builder.add(x_at, builder.mul(columns, _intp(n)))])
                    for n in range(tokens)
                ]
                for place in range(per_word):
                    code = _field(builder, bits, place, width)
                    for n, pointer in enumerate(inputs):
                        value = builder.load(builder.gep(pointer, [_intp(place)]))
                        term = builder.fmul(code, _splat(builder, value), flags=_FUSED)
                        total = sums[n * copies + place % copies]
                        builder.store(builder.fadd(builder.load(total), term, flags=_FUSED), total)
            for n in range(tokens):
                total = builder.load(sums[n * copies])
                for more in sums[n * copies + 1 : (n + 1) * copies]:
                    total = builder.fadd(total, builder.load(more))
                scaled = builder.fmul(total, _splat(builder, factor))
                place = _intp(n * TILE_ROWS)
                before = _load(builder, raw, place, _FLOATS)
                _store(builder, builder.fadd(before, scaled), raw, place)
            return context.get_dummy_value()

        return signature, generate

    product: Callable[..., None] = add
    return product


def group_scaling(stored_zeros: bool) -> Callable[..., None]:
    """Make `add(raw, scales, scale_at, zeros, zero_at, total, place, out)` for one group.

    It adds scale * (raw - zero * total) to the 32 rows of out from element ``place`` on, raw being
    read from there too. ``scales`` and ``zeros`` are float16 seen as uint16; without stored zeros
    every zero point is 1/2 (1 bit) and ``zeros`` is not read.
    """

    @intrinsic
    def add(
        typing_context: Any,
        raw: Any,
        scales: Any,
        scale_at: Any,
        zeros: Any,
        zero_at: Any,
        total: Any,
        place: Any,
        out: Any,
    ) -> Any:
        index = types.intp
        signature = types.void(raw, scales, index, zeros, index, types.float32, index, out)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            raw, scales, zeros, out = (
                _data(context, builder, signature, args, i) for i in (0, 1, 3, 7)
            )
            scale_at, zero_at, total, place = args[2], args[4], args[5], args[6]
            scale = _halves(builder, scales, scale_at)
            half = ir.Constant(_FLOATS, [0.5] * TILE_ROWS)
            zero = _halves(builder, zeros, zero_at) if stored_zeros else half
            offset = builder.fmul(zero, _splat(builder, total), flags=_FUSED)
            value = builder.fsub(_load(builder, raw, place, _FLOATS), offset, flags=_FUSED)
            scaled = builder.fmul(scale, value, flags=_FUSED)
            before = _load(builder, out, place, _FLOATS)
            _store(builder, builder.fadd(before, scaled, flags=_FUSED), out, place)
            return context.get_dummy_value()

        return signature, generate

    scaling: Callable[..., None] = add
    return scaling


def half_product(brain: bool) -> Callable[..., None]:
    """Make `dot(weights, start, count, x, first, out)`: out[0] = sum of weights * x.

    ``count``, a multiple of 32, weights from ``start`` on, bfloat16 or float16 seen as uint16, and
    as many inputs from element ``first`` of x on.
    """

    @intrinsic
    def dot(
        typing_context: Any, weights: Any, start: Any, count: Any, x: Any, first: Any, out: Any
    ) -> Any:
        index = types.intp
        signature = types.void(weights, index, index, x, index, out)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            weights, x, out = (_data(context, builder, signature, args, i) for i in (0, 3, 5))
            start, count, first = args[1], args[2], args[4]
            zero = ir.Constant(_FLOATS, [0.0] * TILE_ROWS)
            total = cgutils.alloca_once_value(builder, zero)
            with cgutils.for_range(builder, builder.sdiv(count, _intp(TILE_ROWS))) as loop:
                offset = builder.mul(loop.index, _intp(TILE_ROWS))
                convert = _brain_halves if brain else _halves
                weight = convert(builder, weights, builder.add(start, offset))
                value = _load(builder, x, builder.add(first, offset), _FLOATS)
                term = builder.fmul(weight, value, flags=_FUSED)
                builder.store(builder.fadd(builder.load(total), term, flags=_FUSED), total)
            builder.store(_sum(builder, builder.load(total)), out)
            return context.get_dummy_value()

        return signature, generate

    product: Callable[..., None] = dot
    return product


@intrinsic
def sum_of(typing_context: Any, x: Any, first: Any, count: Any) -> Any:
    """Sum of ``count`` elements, a multiple of 32, of x from element ``first`` on."""
    signature = types.float32(x, types.intp, types.intp)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, (first, count) = _data(context, builder, signature, args, 0), args[1:]
        zero = ir.Constant(_FLOATS, [0.0] * TILE_ROWS)
        total = cgutils.alloca_once_value(builder, zero)
        with cgutils.for_range(builder, builder.sdiv(count, _intp(TILE_ROWS))) as loop:
            at = builder.add(first, builder.mul(loop.index, _intp(TILE_ROWS)))
            value = _load(builder, x, at, _FLOATS)
            builder.store(builder.fadd(builder.load(total), value), total)
        return _sum(builder, builder.load(total))

    return signature, generate


def _sum(builder: Any, vector: Any) -> Any:
    """Sum of a vector's elements, by halving it."""
    width = TILE_ROWS
    while width > 1:
        width //= 2
        low, high = (
            builder.shuffle_vector(
                vector,
                ir.Constant(vector.type, ir.Undefined),
                ir.Constant(ir.VectorType(_I32, width), list(range(at, at + width))),
            )
            for at in (0, width)
        )
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, _I32(0))


def _brain_halves(builder: Any, data: Any, index: Any) -> Any:
    """32 bfloat16, given as uint16, as floats: the upper halves of their words."""
    wide = builder.zext(_load(builder, data, index, _HALVES, align=2), _WORDS)
    return builder.bitcast(builder.shl(wide, ir.Constant(_WORDS, [16] * TILE_ROWS)), _FLOATS)


def _halves(builder: Any, data: Any, index: Any) -> Any:
    """32 float16, given as uint16, as floats; infinities and NaNs excepted.

    With integers, since not every machine that numba supports converts halves.
    """
    wide = builder.zext(_load(builder, data, index, _HALVES, align=2), _WORDS)

    def constant(value: int) -> ir.Constant:
        return ir.Constant(_WORDS, [value] * TILE_ROWS)

    magnitude = builder.shl(builder.and_(wide, constant(0x7FFF)), constant(13))
    sign = builder.shl(builder.and_(wide, constant(0x8000)), constant(16))
    value = builder.bitcast(builder.or_(magnitude, sign), _FLOATS)
    # From a half's exponent bias, 15, to a float's, 127.
    return builder.fmul(value, ir.Constant(_FLOATS, [2.0**112] * TILE_ROWS))


def _field(builder: Any, words: Any, place: int, width: int) -> Any:
    """Field ``place`` of each word, as floats."""
    shifted = builder.lshr(words, ir.Constant(_WORDS, [place * width] * TILE_ROWS))
    mask = ir.Constant(_WORDS, [(1 << width) - 1] * TILE_ROWS)
    # Signed: a field is never negative, and AVX2 converts only signed integers.
    return builder.sitofp(builder.and_(shifted, mask), _FLOATS)


def _data(context: Any, builder: Any, signature: Any, args: Any, index: int) -> Any:
    """Pointer to the first element of an array argument."""
    return context.make_array(signature.args[index])(context, builder, args[index]).data


def _load(builder: Any, data: Any, index: Any, vector: ir.VectorType, align: int = 4) -> Any:
    pointer = builder.bitcast(builder.gep(data, [index]), vector.as_pointer())
    return builder.load(pointer, align=align)


def _store(builder: Any, value: Any, data: Any, index: Any) -> None:
    pointer = builder.bitcast(builder.gep(data, [index]), value.type.as_pointer())
    builder.store(value, pointer, align=4)


def _splat(builder: Any, scalar: Any) -> Any:
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), scalar, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, TILE_ROWS), [0] * TILE_ROWS)
    return builder.shuffle_vector(first, ir.Constant(_FLOATS, ir.Undefined), zeros)


def _intp(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(types.intp.bitwidth), value)
