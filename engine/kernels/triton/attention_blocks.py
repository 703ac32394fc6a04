"""What attention for one token and for prompts is made of: products, and rows out of a cache."""

import triton
import triton.language as tl

SMALLEST = 16
"""The least that a side of a tensor-core product can be."""

EVERYTHING = 1 << 30
"""A window that reaches back over any context."""

_INTERPRETED: tl.constexpr = tl.constexpr(triton.knobs.runtime.interpret)
"""The interpreter multiplies the bits of bfloat16 numbers as integers; it gets float32."""


@triton.jit
def dot(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Product [M, N] float32 of a [M, K] and b [K, N]."""
    if _INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def tile_of(
    data: tl.tensor,
    scales: tl.tensor,
    token: tl.tensor,
    seen: tl.tensor,
    column: tl.tensor,
    inside: tl.tensor,
    stride: tl.tensor,
    rounded: tl.constexpr,
    kind: tl.constexpr,
) -> tl.tensor:
    """Rows of keys or values, [tokens, columns] in the type ``kind``, 0 where there are none."""
    at = token[:, None].to(tl.int64) * stride + column[None, :]
    tile = tl.load(data + at, mask=seen[:, None] & inside[None, :], other=0)
    if rounded:
        scale = tl.load(scales + token, mask=seen, other=0.0).to(tl.float32)
        tile = (tile.to(tl.float32) * scale[:, None]).to(kind)
    return tile


@triton.jit
def mixed_in(
    scores: tl.tensor, value: tl.tensor, peak: tl.tensor, total: tl.tensor, mixed: tl.tensor
) -> tl.tensor:
    """What rows know after one more block of keys: their highest score, ``peak``; ``total``, the
    sum of 2^(score - peak); ``mixed`` [rows, columns], the values so weighted.

    ``scores`` [rows, keys], -inf where a key is not seen; ``value`` [keys, columns].
    """
    higher = tl.maximum(peak, tl.max(scores, axis=1))
    part = tl.exp2(scores - higher[:, None])
    fade = tl.exp2(peak - higher)
    total = total * fade + tl.sum(part, axis=1)
    return higher, total, mixed * fade[:, None] + dot(part.to(value.dtype), value)
