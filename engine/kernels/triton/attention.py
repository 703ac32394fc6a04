"""Attention for CUDA: one token over the KV cache, whole prompts, and what each token receives.

Scores are made once more where a map would be needed: no map is ever in memory. Every sum has a
fixed order, so that the same input gives the same bytes. A head dimension that is no power of two
is padded in registers.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.cache import LayerCache, Stored

SPLITS = 32
"""Parts that a token's keys are cut into. With 8 key heads that is 256 programs, enough for every
card, and at 512 tokens still 16 keys or more in each that has any."""

_KEY_BLOCK = 32
_QUERY_ROWS = 128
_PROMPT_BLOCK = 64
_SMALLEST = 16
"""The least that a side of a tensor-core product can be."""

_LOG2E: tl.constexpr = tl.constexpr(math.log2(math.e))
_LN2: tl.constexpr = tl.constexpr(math.log(2))
_EVERYTHING = 1 << 30
"""A window that reaches back over any context."""


_INTERPRETED: tl.constexpr = tl.constexpr(triton.knobs.runtime.interpret)
"""The interpreter multiplies the bits of bfloat16 numbers as integers; it gets float32."""


@triton.jit
def _dot(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Product [M, N] float32 of a [M, K] and b [K, N]."""
    if _INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _tile(
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


@dataclass(frozen=True)
class DecodeScratch:
    """What the parts of a token's keys leave for their sum, float32: ``mixed`` [N, SPLITS, D], not
    normalised, ``peaks`` and ``sums`` [N, SPLITS] of the scores, ``own`` [N], the token's score of
    itself. One serves all layers."""

    mixed: Tensor
    peaks: Tensor
    sums: Tensor
    own: Tensor

    @classmethod
    def allocate(
        cls, heads: int, head_dim: int, device: torch.device | str = "cuda"
    ) -> "DecodeScratch":
        """For ``heads`` query heads."""
        sizes = ((heads, SPLITS, head_dim), (heads, SPLITS), (heads, SPLITS), (heads,))
        return cls(*(torch.zeros(size, device=device) for size in sizes))


@triton.jit
def _decode_part(
    q: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_scales: tl.tensor,
    value_scales: tl.tensor,
    position: tl.tensor,
    mixed: tl.tensor,
    peaks: tl.tensor,
    sums: tl.tensor,
    own: tl.tensor,
    capacity: tl.tensor,
    window: tl.tensor,
    scale: tl.tensor,
    repeat: tl.constexpr,
    dim: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    block: tl.constexpr,
    splits: tl.constexpr,
    rounded: tl.constexpr,
) -> None:
    kv_head, split = tl.program_id(0), tl.program_id(1)
    last = tl.load(position)
    first = tl.maximum(last + 1 - window, 0)
    share = tl.cdiv(tl.cdiv(last + 1 - first, splits), block) * block
    start = first + split * share
    stop = tl.minimum(start + share, last + 1)

    row, column = tl.arange(0, rows), tl.arange(0, columns)
    head, inside = kv_head * repeat + row, column < dim
    real = row < repeat
    queries = tl.load(
        q + head[:, None] * dim + column[None, :], mask=real[:, None] & inside[None, :], other=0.0
    )
    base = kv_head.to(tl.int64) * capacity
    peak = tl.full((rows,), -float("inf"), tl.float32)
    total = tl.zeros((rows,), tl.float32)
    itself = tl.zeros((rows,), tl.float32)
    sum_of_values = tl.zeros((rows, columns), tl.float32)
    for at in range(start, stop, block):
        token = at + tl.arange(0, block)
        seen = token < stop
        key = _tile(
            keys + base * dim, key_scales + base, token, seen, column, inside, dim,
            rounded, q.dtype.element_ty,
        )  # fmt: skip
        scores = _dot(queries, tl.trans(key)) * scale  # [rows, block]
        scores = tl.where(seen[None, :], scores, -float("inf"))
        itself += tl.sum(tl.where(token[None, :] == last, scores, 0.0), axis=1)
        higher = tl.maximum(peak, tl.max(scores, axis=1))
        part = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(peak - higher)
        total = total * fade + tl.sum(part, axis=1)
        value = _tile(
            values + base * dim, value_scales + base, token, seen, column, inside, dim,
            rounded, q.dtype.element_ty,
        )  # fmt: skip
        product = _dot(part.to(value.dtype), value)
        sum_of_values = sum_of_values * fade[:, None] + product
        peak = higher
    place = head * splits + split
    tl.store(peaks + place, peak, mask=real)
    tl.store(sums + place, total, mask=real)
    if start < stop:
        tl.store(
            mixed + place[:, None] * dim + column[None, :],
            sum_of_values,
            mask=real[:, None] & inside[None, :],
        )
        if stop == last + 1:
            tl.store(own + head, itself, mask=real)


@triton.jit
def _decode_sum(
    mixed: tl.tensor,
    peaks: tl.tensor,
    sums: tl.tensor,
    own_scores: tl.tensor,
    out: tl.tensor,
    own: tl.tensor,
    heads: tl.constexpr,
    dim: tl.constexpr,
    head_block: tl.constexpr,
    columns: tl.constexpr,
    splits: tl.constexpr,
) -> None:
    head = tl.program_id(0)
    split, column = tl.arange(0, splits), tl.arange(0, columns)
    peak = tl.load(peaks + head * splits + split)
    total = tl.load(sums + head * splits + split)
    factor = tl.exp2(peak - tl.max(peak, axis=0))
    # Parts without keys have left nothing.
    parts = tl.load(
        mixed + (head * splits + split)[:, None] * dim + column[None, :],
        mask=(total > 0)[:, None] & (column < dim)[None, :],
        other=0.0,
    )
    result = tl.sum(parts * factor[:, None], axis=0) / tl.sum(total * factor, axis=0)
    tl.store(out + head * dim + column, result, mask=column < dim)
    if head == 0:
        every = tl.arange(0, head_block)
        at = every[:, None] * splits + split[None, :]
        real = every < heads
        all_peaks = tl.load(peaks + at, mask=real[:, None], other=0.0)
        all_sums = tl.load(sums + at, mask=real[:, None], other=1.0)
        highest = tl.max(all_peaks, axis=1)
        weight = tl.sum(all_sums * tl.exp2(all_peaks - highest[:, None]), axis=1)
        score = tl.load(own_scores + every, mask=real, other=-float("inf"))
        tl.store(own, tl.sum(tl.exp2(score - highest) / weight, axis=0) / heads)


def decode_attention(
    q: Tensor,
    cache: LayerCache,
    position: Tensor,
    window: int | None,
    scratch: DecodeScratch,
    out: Tensor,
    own: Tensor,
) -> None:
    """Attention of one token to itself and all before it, within the window.

    q [N, D] in float16, bfloat16 or float32, rotated; the token's own key and value are in
    ``cache`` (batch 1, of q's type or 8 bits) already, at ``position`` [1] int32. Written are
    ``out`` [N * D] (or [1, N * D]) and ``own`` [1] float32, the token's attention to itself, mean
    over heads. The launch is the same at every length, so that a CUDA graph can hold it.
    """
    _, kv_heads, capacity, dim = cache.keys.shape
    heads = q.shape[0]
    repeat = heads // kv_heads
    rounded = cache.key_scales is not None
    columns = max(_SMALLEST, triton.next_power_of_2(dim))
    _decode_part[(kv_heads, SPLITS)](
        q,
        cache.keys,
        cache.values,
        cache.key_scales if rounded else cache.keys,
        cache.value_scales if rounded else cache.values,
        position,
        scratch.mixed,
        scratch.peaks,
        scratch.sums,
        scratch.own,
        capacity,
        window or _EVERYTHING,
        dim**-0.5 * math.log2(math.e),
        repeat=repeat,
        dim=dim,
        rows=max(_SMALLEST, triton.next_power_of_2(repeat)),
        columns=columns,
        block=_KEY_BLOCK,
        splits=SPLITS,
        rounded=rounded,
        num_warps=4,
        num_stages=2,
        enable_fp_fusion=True,
    )
    _decode_sum[(heads,)](
        scratch.mixed,
        scratch.peaks,
        scratch.sums,
        scratch.own,
        out,
        own,
        heads=heads,
        dim=dim,
        head_block=triton.next_power_of_2(heads),
        columns=columns,
        splits=SPLITS,
        num_warps=4,
        enable_fp_fusion=True,
    )


@triton.jit
def _flash(
    q: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_scales: tl.tensor,
    value_scales: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,
    q_strides: tl.tensor,
    key_strides: tl.tensor,
    value_strides: tl.tensor,
    scale_strides: tl.tensor,
    out_strides: tl.tensor,
    tokens: tl.tensor,
    start: tl.tensor,
    window: tl.tensor,
    scale: tl.tensor,
    heads: tl.constexpr,
    repeat: tl.constexpr,
    dim: tl.constexpr,
    columns: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
    rounded: tl.constexpr,
) -> None:
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    kv_head = head // repeat
    query = tl.program_id(0) * rows + tl.arange(0, rows)
    column = tl.arange(0, columns)
    inside, real = column < dim, query < tokens
    position = start + query
    queries = tl.load(
        q + batch * q_strides[0] + head * q_strides[1]
        + query[:, None].to(tl.int64) * q_strides[2] + column[None, :],
        mask=real[:, None] & inside[None, :],
        other=0.0,
    )  # fmt: skip
    keys += batch * key_strides[0] + kv_head * key_strides[1]
    values += batch * value_strides[0] + kv_head * value_strides[1]
    key_scales += batch * scale_strides[0] + kv_head * scale_strides[1]
    value_scales += batch * scale_strides[0] + kv_head * scale_strides[1]

    earliest = start + tl.program_id(0) * rows
    begin = tl.maximum(earliest + 1 - window, 0) // block * block
    end = tl.minimum(earliest + rows, start + tokens)
    peak = tl.full((rows,), -1e30, tl.float32)  # finite: a block may hold no key of a row
    total = tl.zeros((rows,), tl.float32)
    mixed = tl.zeros((rows, columns), tl.float32)
    for at in range(begin, end, block):
        token = at + tl.arange(0, block)
        seen = token < end
        key = _tile(
            keys, key_scales, token, seen, column, inside, key_strides[2],
            rounded, q.dtype.element_ty,
        )  # fmt: skip
        scores = _dot(queries, tl.trans(key)) * scale
        visible = (token[None, :] <= position[:, None]) & (
            token[None, :] > position[:, None] - window
        )
        scores = tl.where(visible, scores, -float("inf"))
        higher = tl.maximum(peak, tl.max(scores, axis=1))
        part = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(peak - higher)
        total = total * fade + tl.sum(part, axis=1)
        value = _tile(
            values, value_scales, token, seen, column, inside, value_strides[2],
            rounded, q.dtype.element_ty,
        )  # fmt: skip
        product = _dot(part.to(value.dtype), value)
        mixed = mixed * fade[:, None] + product
        peak = higher
    place = (batch * heads + head) * tokens + query
    total = tl.where(real, total, 1.0)  # behind the last query nothing was summed
    tl.store(lse + place, (peak + tl.log2(total)) * _LN2, mask=real)
    into = batch * out_strides[0] + head * out_strides[1] + query.to(tl.int64) * out_strides[2]
    tl.store(
        out + into[:, None] + column[None, :],
        mixed / total[:, None],
        mask=real[:, None] & inside[None, :],
    )


def flash_prefill(
    q: Tensor, keys: Stored, values: Stored, start: int, window: int | None
) -> tuple[Tensor, Tensor]:
    """Causal attention of consecutive tokens, whose first is at position ``start``.

    q [B, N, T, D] in float16, bfloat16 or float32; keys and values of all start + T tokens, [B,
    KV, start + T, D] of q's type or 8 bits; the last dimension contiguous, the others as they lie.
    Returns the mixed values [B, N, T, D] in the type of q, those of one token side by side, and the
    log of the sum of every row's exponentials [B, N, T] float32.
    """
    batch, heads, tokens, dim = q.shape
    by_token = torch.empty(batch, tokens, heads, dim, device=q.device, dtype=q.dtype)
    out = by_token.transpose(1, 2)
    lse = torch.empty(batch, heads, tokens, device=q.device)
    rounded = keys.scales is not None
    _flash[(triton.cdiv(tokens, _QUERY_ROWS), batch * heads)](
        q,
        keys.data,
        values.data,
        keys.scales if rounded else keys.data,
        values.scales if rounded else values.data,
        out,
        lse,
        q.stride()[:3],
        keys.data.stride()[:3],
        values.data.stride()[:3],
        keys.scales.stride()[:2] if keys.scales is not None else (0, 0),
        out.stride()[:3],
        tokens,
        start,
        window or _EVERYTHING,
        dim**-0.5 * math.log2(math.e),
        heads=heads,
        repeat=heads // keys.data.shape[1],
        dim=dim,
        columns=max(_SMALLEST, triton.next_power_of_2(dim)),
        rows=_QUERY_ROWS,
        block=_PROMPT_BLOCK,
        rounded=rounded,
        num_warps=8,
        num_stages=2,
        enable_fp_fusion=True,
    )
    return out, lse


@triton.jit
def _received(
    q: tl.tensor,
    keys: tl.tensor,
    key_scales: tl.tensor,
    lse: tl.tensor,
    received: tl.tensor,
    own: tl.tensor,
    q_strides: tl.tensor,
    key_strides: tl.tensor,
    scale_strides: tl.tensor,
    tokens: tl.tensor,
    window: tl.tensor,
    scale: tl.tensor,
    heads: tl.constexpr,
    repeat: tl.constexpr,
    dim: tl.constexpr,
    columns: tl.constexpr,
    block: tl.constexpr,
    rounded: tl.constexpr,
) -> None:
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    kv_head = head // repeat
    q += batch * q_strides[0] + head * q_strides[1]
    keys += batch * key_strides[0] + kv_head * key_strides[1]
    key_scales += batch * scale_strides[0] + kv_head * scale_strides[1]
    lse += (batch * heads + head) * tokens

    first = tl.program_id(0) * block
    token = first + tl.arange(0, block)
    column = tl.arange(0, columns)
    inside, real = column < dim, token < tokens
    key = _tile(
        keys, key_scales, token, real, column, inside, key_strides[2],
        rounded, q.dtype.element_ty,
    )  # fmt: skip
    sums = tl.zeros((block,), tl.float32)
    itself = tl.zeros((block,), tl.float32)
    end = tl.minimum(first + block - 1 + window, tokens)  # behind the last query that sees them
    for at in range(first, end, block):
        query = at + tl.arange(0, block)
        asks = query < tokens
        queries = tl.load(
            q + query[:, None].to(tl.int64) * q_strides[2] + column[None, :],
            mask=asks[:, None] & inside[None, :],
            other=0.0,
        )
        row = tl.load(lse + query, mask=asks, other=0.0) * _LOG2E
        scores = _dot(queries, tl.trans(key)) * scale - row[:, None]
        visible = (token[None, :] <= query[:, None]) & (token[None, :] > query[:, None] - window)
        part = tl.where(visible & asks[:, None], tl.exp2(scores), 0.0)  # [queries, keys]
        sums += tl.sum(part, axis=0)
        itself += tl.sum(tl.where(token[None, :] == query[:, None], part, 0.0), axis=0)
    place = (batch * heads + head) * tokens + token
    tl.store(received + place, sums, mask=real)
    tl.store(own + place, itself, mask=real)


def received(
    q: Tensor, keys: Stored, lse: Tensor, start: int, window: int | None
) -> tuple[Tensor, Tensor]:
    """What the map of `flash_prefill` says of each new token: see
    `engine.attention.AttentionStatistics`.

    q [B, N, T, D] and keys [B, KV, start + T, D] as there, ``lse`` [B, N, T] what it returned.
    Returns ``received`` and ``own``, [B, T] float32, means over heads.
    """
    batch, heads, tokens, dim = q.shape
    new = keys.part(slice(start, start + tokens))
    sums = torch.empty(2, batch, heads, tokens, device=q.device)
    rounded = new.scales is not None
    _received[(triton.cdiv(tokens, _PROMPT_BLOCK), batch * heads)](
        q,
        new.data,
        new.scales if rounded else new.data,
        lse,
        sums[0],
        sums[1],
        q.stride()[:3],
        new.data.stride()[:3],
        new.scales.stride()[:2] if new.scales is not None else (0, 0),
        tokens,
        window or _EVERYTHING,
        dim**-0.5 * math.log2(math.e),
        heads=heads,
        repeat=heads // new.data.shape[1],
        dim=dim,
        columns=max(_SMALLEST, triton.next_power_of_2(dim)),
        block=_PROMPT_BLOCK,
        rounded=rounded,
        num_warps=4,
        num_stages=2,
        enable_fp_fusion=True,
    )
    means = sums.mean(dim=2)  # [2, B, T]
    return means[0], means[1]
