"""Explicit SIMD for the CPU loops: a tile's 32 rows are one LLVM vector.

LLVM splits a vector of 32 into as many registers as the machine needs (two with AVX-512, four
with AVX2, eight with NEON). Left to its auto-vectoriser, plain loops over the rows gathered single
words (four times slower) or checked for aliasing at every word.

After a change here, touch `loops.py` too: numba's cache on disk looks only at the file of the
function that it compiled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from engine.layout import TILE_ROWS, WORD_BITS, planes
from engine.packing import centre

_I32 = ir.IntType(32)
_F32 = ir.FloatType()
_WORDS = ir.VectorType(_I32, TILE_ROWS)
_HALVES = ir.VectorType(ir.IntType(16), TILE_ROWS)
_FLOATS = ir.VectorType(_F32, TILE_ROWS)
_FUSED = ("contract",)
"""Multiply and add in one instruction. Nothing is reordered: sums written here as vectors need it
no more, and a reordered product once met 2**112 (see `_halves`) before its small factor."""

WIDTHS = (1, 2, 3, 4, 8)
"""Of packed codes, in bits."""

TOKEN_BLOCKS = (8, 4, 2, 1)
"""Tokens that share the work of taking a code out of its word; any number is a sum of these. Eight
tokens of a tile are 16 registers of sums with AVX-512."""

CHAINS = 8
"""Registers of sums to go round, so that no addition waits for the one before it."""


@intrinsic
def add_group(
    typing_context: Any,
    bits: Any,
    count: Any,
    codes: Any,
    first: Any,
    span: Any,
    position: Any,
    group: Any,
    x: Any,
    x_at: Any,
    columns: Any,
    scales: Any,
    scale_at: Any,
    zeros: Any,
    zero_at: Any,
    sums: Any,
    sums_at: Any,
    groups: Any,
    out: Any,
) -> Any:
    """Add to out[n, r] what one group contributes to row r of a tile times token n.

    ``count``, one of TOKEN_BLOCKS, tokens n; 32 rows r. The matrix's planes begin at codes[first]
    and take ``span`` words per bit of width; ``position`` inputs, of all tiles, lie before this
    group's. The inputs of token n begin at x[x_at + n * columns], their sum over the group is
    sums[sums_at + n * groups]. ``scales`` and ``zeros`` are float16 seen as uint16; where
    ``zero_at`` is negative, and at 1 bit, zero points are the middle of the codes.
    """
    index = types.intp
    signature = types.void(
        *(index, index, codes, index, index, index, index, x, index, index),
        *(scales, index, zeros, index, sums, index, index, out),
    )

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        names = signature_names[2:]
        group = _Group(
            builder,
            **{
                name: _data(context, builder, signature, args, i)
                if isinstance(signature.args[i], types.Array)
                else args[i]
                for i, name in enumerate(names, start=2)
            },
        )
        for width in WIDTHS:
            with builder.if_then(builder.icmp_signed("==", args[0], _intp(width))):
                for tokens in TOKEN_BLOCKS:
                    with builder.if_then(builder.icmp_signed("==", args[1], _intp(tokens))):
                        group.generate(width, tokens)
        return context.get_dummy_value()

    signature_names = [
        *("bits", "count", "codes", "first", "span", "position", "group", "x", "x_at", "columns"),
        *("scales", "scale_at", "zeros", "zero_at", "sums", "sums_at", "groups", "out"),
    ]
    return signature, generate


@dataclass(frozen=True)
class _Group:
    """The arguments of `add_group`, arrays as pointers to their first element."""

    builder: Any
    codes: Any
    first: Any
    span: Any
    position: Any
    group: Any
    x: Any
    x_at: Any
    columns: Any
    scales: Any
    scale_at: Any
    zeros: Any
    zero_at: Any
    sums: Any
    sums_at: Any
    groups: Any
    out: Any

    def generate(self, bits: int, tokens: int) -> None:
        """The code for one width and number of tokens."""
        builder = self.builder
        copies = max(1, CHAINS // (2 * tokens))
        zero = ir.Constant(_FLOATS, [0.0] * TILE_ROWS)
        totals = [cgutils.alloca_once_value(builder, zero) for _ in range(tokens * copies)]
        self._sum_codes(bits, tokens, totals)
        scale = _halves(builder, self.scales, self.scale_at)
        offset = self._offset(bits)
        for n in range(tokens):
            raw = builder.load(totals[n * copies])
            for more in totals[n * copies + 1 : (n + 1) * copies]:
                raw = builder.fadd(raw, builder.load(more))
            sum_at = builder.add(self.sums_at, builder.mul(self.groups, _intp(n)))
            total = builder.load(builder.gep(self.sums, [sum_at]))
            shift = builder.fmul(offset, _splat(builder, total), flags=_FUSED)
            scaled = builder.fmul(scale, builder.fsub(raw, shift, flags=_FUSED), flags=_FUSED)
            place = _intp(n * TILE_ROWS)
            before = _load(builder, self.out, place, _FLOATS)
            _store(builder, builder.fadd(before, scaled, flags=_FUSED), self.out, place)

    def _offset(self, bits: int) -> Any:
        """The zero points of all rows."""
        builder, middle = self.builder, ir.Constant(_FLOATS, [centre(bits)] * TILE_ROWS)
        if bits == 1:
            return middle
        stored = builder.icmp_signed(">=", self.zero_at, _intp(0))
        # Always something that can be read: where no zeros are stored, the array is that of scales.
        at = builder.select(stored, self.zero_at, self.scale_at)
        return builder.select(stored, _halves(builder, self.zeros, at), middle)

    def _sum_codes(self, bits: int, tokens: int, totals: list[Any]) -> None:
        """Add code * x over the group to ``totals``, as many of them in turn as a token has."""
        builder, copies = self.builder, len(totals) // tokens
        inputs = WORD_BITS // min(planes(bits))  # for which every plane has whole words
        with cgutils.for_range(builder, builder.sdiv(self.group, _intp(inputs))) as loop:
            words = self._words(bits, inputs, loop.index)
            at = builder.add(self.x_at, builder.mul(loop.index, _intp(inputs)))
            rows = [
                builder.gep(self.x, [builder.add(at, builder.mul(self.columns, _intp(n)))])
                for n in range(tokens)
            ]
            for place in range(inputs):
                code = _code(builder, bits, words, place)
                for n, row in enumerate(rows):
                    value = builder.load(builder.gep(row, [_intp(place)]))
                    term = builder.fmul(code, _splat(builder, value), flags=_FUSED)
                    total = totals[n * copies + place % copies]
                    builder.store(builder.fadd(builder.load(total), term, flags=_FUSED), total)

    def _words(self, bits: int, inputs: int, step: Any) -> list[list[Any]]:
        """The words of each plane for ``inputs`` inputs of all rows, the ``step``-th such many."""
        builder, words, below = self.builder, [], 0
        for width in planes(bits):
            count = inputs * width // WORD_BITS
            plane = builder.add(self.first, builder.mul(self.span, _intp(below)))
            start = builder.add(plane, builder.mul(self.position, _intp(width)))
            at = builder.add(start, builder.mul(step, _intp(count * TILE_ROWS)))
            words.append(
                [
                    _load(builder, self.codes, builder.add(at, _intp(n * TILE_ROWS)), _WORDS)
                    for n in range(count)
                ]
            )
            below += width
        return words


def _code(builder: Any, bits: int, words: list[list[Any]], place: int) -> Any:
    """The codes of all rows at one of the inputs of ``words``, as floats.

    They are put together from all planes before they are multiplied: one product for each code.
    """
    code, below = ir.Constant(_WORDS, [0] * TILE_ROWS), 0
    for plane, width in zip(words, planes(bits), strict=True):
        word, field = divmod(place * width, WORD_BITS)
        move = builder.lshr if field >= below else builder.shl
        moved = move(plane[word], ir.Constant(_WORDS, [abs(field - below)] * TILE_ROWS))
        mask = ir.Constant(_WORDS, [((1 << width) - 1) << below] * TILE_ROWS)
        code = builder.or_(code, builder.and_(moved, mask))
        below += width
    # Signed: a code is never negative, and AVX2 converts only signed integers.
    return builder.sitofp(code, _FLOATS)


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
