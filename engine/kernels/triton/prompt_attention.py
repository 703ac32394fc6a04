"""Attention for CUDA: whole prompts, and what each of their tokens receives.

Scores are made once more where a map would be needed: no map is ever in memory. Every sum has a
fixed order, so that the same input gives the same bytes. A head dimension that is no power of two
is padded in registers.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.cache import Stored
from engine.kernels.triton.attention_blocks import EVERYTHING, SMALLEST, dot, mixed_in, tile_of

_QUERY_ROWS = 128
_PROMPT_BLOCK = 64

_LOG2E: tl.constexpr = tl.constexpr(math.log2(math.e))
_LN2: tl.constexpr = tl.constexpr(math.log(2))


@triton.jit(do_not_specialize=["tokens", "start"])
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
        key = tile_of(
            keys, key_scales, token, seen, column, inside, key_strides[2],
            rounded, q.dtype.element_ty,
        )  # fmt: skip
        scores = dot(queries, tl.trans(key)) * scale
        visible = (token[None, :] <= position[:, None]) & (
            token[None, :] > position[:, None] - window
        )
        scores = tl.where(visible, scores, -float("inf"))
        value = tile_of(
            values, value_scales, token, seen, column, inside, value_strides[2],
            rounded, q.dtype.element_ty,
        )  # fmt: skip
        peak, total, mixed = mixed_in(scores, value, peak, total, mixed)
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
        window or EVERYTHING,
        dim**-0.5 * math.log2(math.e),
        heads=heads,
        repeat=heads // keys.data.shape[1],
        dim=dim,
        columns=max(SMALLEST, triton.next_power_of_2(dim)),
        rows=_QUERY_ROWS,
        block=_PROMPT_BLOCK,
        rounded=rounded,
        num_warps=8,
        num_stages=2,
        enable_fp_fusion=True,
    )
    return out, lse


@triton.jit(do_not_specialize=["tokens"])
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
    key = tile_of(
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
        scores = dot(queries, tl.trans(key)) * scale - row[:, None]
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
        window or EVERYTHING,
        dim**-0.5 * math.log2(math.e),
        heads=heads,
        repeat=heads // new.data.shape[1],
        dim=dim,
        columns=max(SMALLEST, triton.next_power_of_2(dim)),
        block=_PROMPT_BLOCK,
        rounded=rounded,
        num_warps=4,
        num_stages=2,
        enable_fp_fusion=True,
    )
    means = sums.mean(dim=2)  # [2, B, T]
    return means[0], means[1]
