"""Codes out of their words, and products of them with one token, inside Triton's programs.

A block of packed weights is [lines, lanes, 32]: row tiles, stretches of inputs, rows of a tile. A
thread owns 4 rows (one 16-byte load) of one stretch in each line, so that an input, once loaded,
serves 4 * lines weights, and only at the very end does a sum cross threads. A stretch is a group of
inputs or a part of one, 32 at least: shorter ones make more threads, and more work with scales.

Fields are not shifted down and converted, which takes three instructions, one of them slow, but
masked where they are (`LOP3`) and taken for the bits of a float32: a denormal, code * 2^(place -
149), exactly. The input is multiplied by 2^(149 - 69 - place) instead, once for all rows, and the
sum comes out 2^-69-fold, far from both ends of float32 for inputs below 2^47. A GPU multiplies
denormals as fast as others. So a weight takes two instructions, LOP3 and FFMA; a word's upper half
is shifted once, since a float32 has room for 23 bits.

At 4 bits two words of two-bit planes are merged into two words of nibbles first (4 instructions
for 16 weights); at 3 bits each plane takes its two instructions, its bits lying too irregularly to
merge; at 8 bits there are two passes of 4.
"""

import triton
import triton.language as tl

LIFT: tl.constexpr = tl.constexpr(2.0**80)
LOWER: tl.constexpr = tl.constexpr(2.0**69)
_LOW_PAIRS: tl.constexpr = tl.constexpr(0x33333333)
_HIGH_PAIRS: tl.constexpr = tl.constexpr(0xCCCCCCCC - (1 << 32))


@triton.jit
def _add_fields(
    raw: tl.tensor,
    total: tl.tensor,
    fields: tl.tensor,
    inputs: tl.tensor,
    width: tl.constexpr,
    step: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Add the codes in the lower 16 bits of ``fields`` [lines, lanes, 32] times their inputs.

    The input of place p is at ``inputs`` [1, lanes, 1] + p * step. raw [lines, lanes, 32]; total
    [1, lanes, 1] sums the inputs.
    """
    for place in tl.static_range(16 // width):
        x = tl.load(inputs + place * step).to(tl.float32)
        total += x
        code = (fields & (((1 << width) - 1) << (width * place))).to(tl.float32, bitcast=True)
        lifted = x * (LIFT * 0.5 ** (width * place))
        raw = tl.fma(code, lifted, raw)
    return raw, total


@triton.jit
def _add_pairs_and_singles(
    raw: tl.tensor,
    total: tl.tensor,
    pairs: tl.tensor,
    singles: tl.tensor,
    inputs: tl.tensor,
    first: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Add 8 codes of 3 bits: two in the lower 16 bits of ``pairs``, one in ``singles``.

    The third bits begin at bit ``first``.
    """
    for place in tl.static_range(8):
        x = tl.load(inputs + place).to(tl.float32)
        total += x
        low = (pairs & (3 << (2 * place))).to(tl.float32, bitcast=True)
        raw = tl.fma(low, x * (LIFT * 0.25**place), raw)
        high = (singles & (1 << (first + place))).to(tl.float32, bitcast=True)
        raw = tl.fma(high, x * (LIFT * 4 * 0.5 ** (first + place)), raw)
    return raw, total


@triton.jit
def _unit_words(
    pairs: tl.tensor, singles: tl.tensor, plane: tl.tensor, column: tl.tensor, bits: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The words of the 32 inputs from ``column`` [1, lanes, 1] on: up to four, the rest repeated.

    ``pairs`` and ``singles`` [lines, 1, 32] point to the rows' first words in the lowest plane of
    two bits and in the plane of one bit; ``plane`` words lie between two planes of two bits.
    """
    if bits == 1:
        third = tl.load(singles + column)
        first, second, fourth = third, third, third
    else:
        at = pairs + column * 2
        first, second = tl.load(at), tl.load(at + 32)
        third, fourth = first, second
        if bits == 3:
            third = tl.load(singles + column)
        elif bits == 4:
            third, fourth = tl.load(at + plane), tl.load(at + plane + 32)
    return first, second, third, fourth


@triton.jit
def _add_unit(
    raw: tl.tensor,
    total: tl.tensor,
    first: tl.tensor,
    second: tl.tensor,
    third: tl.tensor,
    fourth: tl.tensor,
    inputs: tl.tensor,
    bits: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Add 32 inputs' codes of 1 to 4 ``bits`` in the words that `_unit_words` gave."""
    if bits == 1:
        raw, total = _add_fields(raw, total, third, inputs, 1, 1)
        raw, total = _add_fields(raw, total, third >> 16, inputs + 16, 1, 1)
    elif bits == 2:
        raw, total = _add_fields(raw, total, first, inputs, 2, 1)
        raw, total = _add_fields(raw, total, first >> 16, inputs + 8, 2, 1)
        raw, total = _add_fields(raw, total, second, inputs + 16, 2, 1)
        raw, total = _add_fields(raw, total, second >> 16, inputs + 24, 2, 1)
    elif bits == 3:
        upper = third >> 16
        raw, total = _add_pairs_and_singles(raw, total, first, third, inputs, 0)
        raw, total = _add_pairs_and_singles(raw, total, first >> 16, third, inputs + 8, 8)
        raw, total = _add_pairs_and_singles(raw, total, second, upper, inputs + 16, 0)
        raw, total = _add_pairs_and_singles(raw, total, second >> 16, upper, inputs + 24, 8)
    else:
        raw, total = _add_nibbles(raw, total, first, third, inputs)
        raw, total = _add_nibbles(raw, total, second, fourth, inputs + 16)
    return raw, total


@triton.jit
def _add_nibbles(
    raw: tl.tensor, total: tl.tensor, low: tl.tensor, high: tl.tensor, inputs: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Add 16 codes of 4 bits, ``low`` and ``high`` pairs of them in a word each."""
    even = (low & _LOW_PAIRS) | ((high & _LOW_PAIRS) << 2)
    odd = ((low >> 2) & _LOW_PAIRS) | (high & _HIGH_PAIRS)
    raw, total = _add_fields(raw, total, even, inputs, 4, 2)
    raw, total = _add_fields(raw, total, odd, inputs + 1, 4, 2)
    raw, total = _add_fields(raw, total, even >> 16, inputs + 8, 4, 2)
    raw, total = _add_fields(raw, total, odd >> 16, inputs + 9, 4, 2)
    return raw, total


@triton.jit
def _add_planes(
    found: tl.tensor,
    inputs: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    zeros: tl.tensor,
    tile: tl.tensor,
    tiles: tl.tensor,
    columns: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    bits: tl.constexpr,
    factor: tl.constexpr,
    offset: tl.constexpr,
    middle: tl.constexpr,
    group_size: tl.constexpr,
    stretch: tl.constexpr,
    lines: tl.constexpr,
    lanes: tl.constexpr,
) -> tl.tensor:
    """Add to ``found`` [lines, lanes, 32] the products over stretches ``first`` to ``last``.

    ``factor`` multiplies the codes; the zero points are taken off where ``offset``: those that are
    stored, or ``middle`` where none are.
    """
    row = tl.arange(0, 32)[None, None, :]
    lane = tl.arange(0, lanes)[None, :, None]
    pair_base = codes + tile * columns * 2 + row
    single_base = codes + tiles * columns * (bits - 1) + tile * columns + row
    plane = tiles * columns * 2
    # Lanes behind the end work on the last stretch again, and drop it: no load needs a mask.
    column = tl.minimum(first + lane, last - 1) * stretch  # [1, lanes, 1]
    w0, w1, w2, w3 = _unit_words(pair_base, single_base, plane, column, bits)
    for start in range(first, last, lanes):
        ahead = tl.minimum(start + lanes + lane, last - 1) * stretch
        place = (tile * (columns // group_size) + column // group_size) * 32 + row
        scale = tl.load(scales + place).to(tl.float32)
        scale = tl.where(start + lane < last, scale, 0.0)
        zero = middle
        if offset and middle is None:
            zero = tl.load(zeros + place).to(tl.float32)
        raw = tl.zeros((lines, lanes, 32), tl.float32)
        total = tl.zeros((1, lanes, 1), tl.float32)
        for unit in tl.static_range(0, stretch, 32):
            # The next words are on their way while these are worked on.
            following = ahead
            if unit + 32 < stretch:
                following = column + (unit + 32)
            n0, n1, n2, n3 = _unit_words(pair_base, single_base, plane, following, bits)
            raw, total = _add_unit(raw, total, w0, w1, w2, w3, inputs + column + unit, bits)
            w0, w1, w2, w3 = n0, n1, n2, n3
        column = ahead
        value = raw * (LOWER * factor)
        if offset:
            value -= zero * total
        found = tl.fma(scale, value, found)
    return found


@triton.jit
def row_products(
    inputs: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    zeros: tl.tensor,
    tile: tl.tensor,
    tiles: tl.tensor,
    columns: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    bits: tl.constexpr,
    rotated: tl.constexpr,
    group_size: tl.constexpr,
    stretch: tl.constexpr,
    lines: tl.constexpr,
    lanes: tl.constexpr,
) -> tl.tensor:
    """Rows of a packed matrix times one token, over stretches ``first`` to ``last`` of its inputs.

    ``inputs`` points to the token's ``columns`` inputs, turned where the matrix is ``rotated``, and
    its zero points therefore the middle of the codes; ``codes``, ``scales`` and ``zeros``
    [lines, 1, 1], or scalars, to the matrix of each line, which has ``tiles`` row tiles; ``tile``
    [lines, 1, 1] says which one. Returns [lines, 32] in float32.
    """
    found = tl.zeros((lines, lanes, 32), tl.float32)
    middle: tl.constexpr = ((1 << bits) - 1) / 2 if rotated or bits == 1 else None
    if bits == 8:
        upper = codes + tiles * columns * 4
        found = _add_planes(
            found, inputs, codes, scales, zeros, tile, tiles, columns, first, last,
            4, 1.0, True, middle, group_size, stretch, lines, lanes,
        )  # fmt: skip
        found = _add_planes(
            found, inputs, upper, scales, zeros, tile, tiles, columns, first, last,
            4, 16.0, False, middle, group_size, stretch, lines, lanes,
        )  # fmt: skip
    else:
        found = _add_planes(
            found, inputs, codes, scales, zeros, tile, tiles, columns, first, last,
            bits, 1.0, True, middle, group_size, stretch, lines, lanes,
        )  # fmt: skip
    return tl.sum(found, axis=1)
