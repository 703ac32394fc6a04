"""The small steps between the products of one token, for CUDA: norms, rotary positions, a gate.

Nothing waits for the device: positions are read there, and every output is given.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

from engine.cache import MAX_CODE, MIN_SCALE, LayerCache
from engine.decoding.adjustments import Adjustments
from engine.kernels.triton.rotation import turned

_TURN: tl.constexpr = tl.constexpr(1 / math.tau)
# A whole turn in three parts, the first two so short that a multiple of them is exact.
_TURN_HIGH: tl.constexpr = tl.constexpr(6.28125)
_TURN_MIDDLE: tl.constexpr = tl.constexpr(507 * 2.0**-18)
_TURN_LOW: tl.constexpr = tl.constexpr(math.tau - 6.28125 - 507 * 2.0**-18)
_ROUNDER: tl.constexpr = tl.constexpr(1.5 * 2**23)
_MAX_CODE: tl.constexpr = tl.constexpr(float(MAX_CODE))
_MIN_SCALE: tl.constexpr = tl.constexpr(MIN_SCALE)


@triton.jit
def _rms_norm(
    x: tl.tensor,
    added: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    turned_out: tl.tensor,
    size: tl.tensor,
    eps: tl.tensor,
    has_added: tl.constexpr,
    group_size: tl.constexpr,
    block: tl.constexpr,
) -> None:
    column = tl.arange(0, block)
    inside = column < size
    at = tl.program_id(0).to(tl.int64) * size + column
    value = tl.load(x + at, mask=inside, other=0.0)
    if has_added:
        more = tl.load(added + at, mask=inside, other=0.0)
        # Rounded before it is normed, to what the stream then holds.
        value = (value.to(tl.float32) + more.to(tl.float32)).to(x.dtype.element_ty)
        tl.store(x + at, value, mask=inside)
    value = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / size + eps)
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    normed = (value * scale * gain).to(out.dtype.element_ty)
    tl.store(out + at, normed, mask=inside)
    if group_size is not None:
        tl.store(turned_out + at, turned(normed.to(tl.float32), group_size), mask=inside)


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    out: Tensor,
    added: Tensor | None = None,
    turned_out: Tensor | None = None,
    group_size: int | None = None,
) -> None:
    """Normalise x [T, H] into ``out`` [T, H], with ``weight`` [H]; sums in float32.

    ``added`` [T, H], in any floating type, is first added to x, in place: the residual stream
    after a block. ``turned_out`` [T, H], where it is given, gets ``out`` turned by ``group_size``
    for rotated experts: here the row is in registers, and a kernel less is launched. All
    contiguous; every output has a type of its own.
    """
    rows, size = x.shape
    _rms_norm[(rows,)](
        x,
        x if added is None else added,
        weight,
        out,
        out if turned_out is None else turned_out,
        size,
        eps,
        has_added=added is not None,
        group_size=group_size,
        block=triton.next_power_of_2(size),
        num_warps=8 if size > 1024 else 4,
        enable_fp_fusion=True,
    )


@triton.jit
def _wave(angle: tl.tensor) -> tl.tensor:
    """Cosine and sine of an angle >= 0. Whole turns are taken off first: near zero they are exact,
    whatever instruction a compiler takes."""
    turns = (angle * _TURN + _ROUNDER) - _ROUNDER
    rest = ((angle - turns * _TURN_HIGH) - turns * _TURN_MIDDLE) - turns * _TURN_LOW
    return tl.cos(rest), tl.sin(rest)


@triton.jit
def _put(
    first: tl.tensor,
    second: tl.tensor,
    data: tl.tensor,
    scales: tl.tensor,
    row: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    inside: tl.tensor,
    dim: tl.constexpr,
    rounded: tl.constexpr,
) -> None:
    """Store both halves of a key or value at ``row`` of the cache."""
    if rounded:
        most = tl.max(tl.maximum(tl.abs(first), tl.abs(second)), axis=0)
        scale = tl.maximum(most / _MAX_CODE, _MIN_SCALE).to(tl.float16)
        tl.store(scales + row, scale)
        scale = scale.to(tl.float32)
        # To the nearest, ties to even, as torch rounds.
        first = ((tl.div_rn(first, scale) + _ROUNDER) - _ROUNDER).to(tl.int8)
        second = ((tl.div_rn(second, scale) + _ROUNDER) - _ROUNDER).to(tl.int8)
    tl.store(data + row * dim + low, first, mask=inside)
    tl.store(data + row * dim + high, second, mask=inside)


@triton.jit
def _mean_square(
    x: tl.tensor,
    bias: tl.tensor,
    size: tl.constexpr,
    block: tl.constexpr,
    has_bias: tl.constexpr,
) -> tl.tensor:
    """Of x [size], its bias added."""
    found = tl.zeros((block,), tl.float32)
    for first in range(0, size, block):
        at = first + tl.arange(0, block)
        value = tl.load(x + at, mask=at < size, other=0.0).to(tl.float32)
        if has_bias:
            value += tl.load(bias + at, mask=at < size, other=0.0).to(tl.float32)
        found += value * value
    return tl.sum(found, axis=0) / size


@triton.jit
def _half(
    x: tl.tensor,
    bias: tl.tensor,
    at: tl.tensor,
    inside: tl.tensor,
    has_bias: tl.constexpr,
) -> tl.tensor:
    """Half a head of x, its bias added."""
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if has_bias:
        value += tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    return value


@triton.jit
def _adjusted_head(
    x: tl.tensor,
    bias: tl.tensor,
    gain: tl.tensor,
    eps: tl.tensor,
    clip: tl.tensor,
    head: tl.tensor,
    low: tl.tensor,
    inside: tl.tensor,
    heads: tl.constexpr,
    dim: tl.constexpr,
    norms: tl.constexpr,
    has_bias: tl.constexpr,
    has_clip: tl.constexpr,
) -> tl.tensor:
    """Both halves of a head of x [heads * dim], as `engine.decoding.adjustments` has it."""
    at = head * dim + low
    first = _half(x, bias, at, inside, has_bias)
    second = _half(x, bias, at + dim // 2, inside, has_bias)
    if norms != "none":
        place = low
        if norms == "all":
            place += head * dim
            mean = _mean_square(x, bias, heads * dim, 1024, has_bias)
        else:
            mean = tl.sum(first * first + second * second, axis=0) / dim
        scale = tl.rsqrt(mean + eps)
        first *= scale * tl.load(gain + place, mask=inside, other=0.0).to(tl.float32)
        second *= scale * tl.load(gain + place + dim // 2, mask=inside, other=0.0).to(tl.float32)
    if has_clip:
        first = tl.minimum(tl.maximum(first, -clip), clip)
        second = tl.minimum(tl.maximum(second, -clip), clip)
    return first, second


@triton.jit(do_not_specialize=["capacity"])
def _rope_write(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    q_bias: tl.tensor,
    k_bias: tl.tensor,
    v_bias: tl.tensor,
    q_gain: tl.tensor,
    k_gain: tl.tensor,
    eps: tl.tensor,
    clip: tl.tensor,
    position: tl.tensor,
    frequencies: tl.tensor,
    q_out: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_scales: tl.tensor,
    value_scales: tl.tensor,
    capacity: tl.tensor,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    dim: tl.constexpr,
    block: tl.constexpr,
    rounded: tl.constexpr,
    norms: tl.constexpr,
    has_bias: tl.constexpr,
    has_clip: tl.constexpr,
) -> None:
    head = tl.program_id(0)
    low = tl.arange(0, block)
    inside = low < dim // 2
    high = low + dim // 2
    at = tl.load(position)
    angle = at.to(tl.float32) * tl.load(frequencies + low, mask=inside, other=0.0)
    cos, sin = _wave(angle)
    if head < heads:
        first, second = _adjusted_head(
            q, q_bias, q_gain, eps, clip, head, low, inside, heads, dim, norms, has_bias, has_clip
        )
        tl.store(q_out + head * dim + low, first * cos - second * sin, mask=inside)
        tl.store(q_out + head * dim + high, second * cos + first * sin, mask=inside)
    else:
        head -= heads
        row = head.to(tl.int64) * capacity + at
        first, second = _adjusted_head(
            k, k_bias, k_gain, eps, clip, head, low, inside, kv_heads, dim, norms, has_bias,
            has_clip,
        )  # fmt: skip
        turned = first * cos - second * sin
        second = second * cos + first * sin
        _put(turned, second, keys, key_scales, row, low, high, inside, dim, rounded)
        first, second = _adjusted_head(
            v, v_bias, v, eps, clip, head, low, inside, kv_heads, dim, "none", has_bias, has_clip
        )
        _put(first, second, values, value_scales, row, low, high, inside, dim, rounded)


def rope_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    adjustments: Adjustments,
    position: Tensor,
    frequencies: Tensor,
    cache: LayerCache,
    q_out: Tensor,
) -> None:
    """Adjust a token's q, k and v, rotate q and k, and put k and v into the cache.

    q [N * D] (or [1, N * D]), k and v [KV * D]: contiguous, in any floating type; ``position`` [1]
    int32, where the token stands, within the cache's capacity; ``frequencies`` [D / 2] float32
    (`engine.attention.Rope.frequencies`); ``cache`` of batch 1, of either width; ``q_out`` [N, D].
    The angles are those of `Rope`, to the last bit of float32. Where all heads are normed at once
    every head's program goes over all of them: a few kilobytes, and no launch.
    """
    _, kv_heads, capacity, dim = cache.keys.shape
    heads = q.numel() // dim
    rounded = cache.key_scales is not None
    _rope_write[(heads + kv_heads,)](
        q,
        k,
        v,
        *(adjustments.biases or (q, k, v)),
        *(adjustments.gains or (q, k)),
        adjustments.eps,
        adjustments.clip or 0.0,
        position,
        frequencies,
        q_out,
        cache.keys,
        cache.values,
        cache.key_scales if rounded else cache.keys,
        cache.value_scales if rounded else cache.values,
        capacity,
        heads=heads,
        kv_heads=kv_heads,
        dim=dim,
        block=triton.next_power_of_2(dim // 2),
        rounded=rounded,
        norms=adjustments.norms,
        has_bias=adjustments.biases is not None,
        has_clip=adjustments.clip is not None,
        num_warps=1,
        # An angle is rounded to float32 before turns are taken off, or positions far back would
        # be rotated by another angle than in a prefill.
        enable_fp_fusion=False,
    )


@triton.jit
def _gate(
    gate: tl.tensor,
    up: tl.tensor,
    x: tl.tensor,
    share: tl.tensor,
    out: tl.tensor,
    size: tl.tensor,
    inner: tl.tensor,
    block: tl.constexpr,
    inner_block: tl.constexpr,
) -> None:
    """Program (block of the inner activations): each goes over x and the share's weights."""
    products = tl.zeros((block,), tl.float32)
    for first in range(0, size, block):
        column = first + tl.arange(0, block)
        value = tl.load(x + column, mask=column < size, other=0.0).to(tl.float32)
        weight = tl.load(share + column, mask=column < size, other=0.0).to(tl.float32)
        products += value * weight
    factor = 1.0 / (1.0 + tl.exp(-tl.sum(products, axis=0)))
    place = tl.program_id(0) * inner_block + tl.arange(0, inner_block)
    inside = place < inner
    value = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    value *= tl.load(up + place, mask=inside, other=0.0).to(tl.float32) / (1.0 + tl.exp(-value))
    tl.store(out + place, value * factor, mask=inside)


def gate(gate: Tensor, up: Tensor, x: Tensor, share: Tensor, out: Tensor) -> None:
    """Write silu(gate) * up * sigmoid(share x) to ``out``: a shared expert's inner activations.

    ``gate``, ``up`` and ``out`` [1, I], x [1, H] and ``share`` [1, H], contiguous, of any floating
    types. Its output is weighted here, where it costs no launch of its own.
    """
    inner_block = 256
    _gate[(triton.cdiv(gate.numel(), inner_block),)](
        gate,
        up,
        x,
        share,
        out,
        x.numel(),
        gate.numel(),
        block=min(1024, triton.next_power_of_2(x.numel())),
        inner_block=inner_block,
        num_warps=4,
    )
