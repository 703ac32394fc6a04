"""Attention for CUDA: one token over the KV cache.

Every sum has a fixed order, so that the same input gives the same bytes. A head dimension that is
no power of two is padded in registers.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.cache import LayerCache
from engine.kernels.triton.attention_blocks import (
    EVERYTHING,
    SMALLEST,
    dot,
    mixed_in,
    tile_of,
)

SPLITS = 32
"""Parts that a token's keys are cut into. With 8 key heads that is 256 programs, enough for every
card, and at 512 tokens still 16 keys or more in each that has any."""

_KEY_BLOCK = 32


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


@triton.jit(do_not_specialize=["capacity"])
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
        key = tile_of(
            keys + base * dim, key_scales + base, token, seen, column, inside, dim,
            rounded, q.dtype.element_ty,
        )  # fmt: skip
        scores = dot(queries, tl.trans(key)) * scale  # [rows, block]
        scores = tl.where(seen[None, :], scores, -float("inf"))
        itself += tl.sum(tl.where(token[None, :] == last, scores, 0.0), axis=1)
        value = tile_of(
            values + base * dim, value_scales + base, token, seen, column, inside, dim,
            rounded, q.dtype.element_ty,
        )  # fmt: skip
        peak, total, sum_of_values = mixed_in(scores, value, peak, total, sum_of_values)
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
    columns = max(SMALLEST, triton.next_power_of_2(dim))
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
        window or EVERYTHING,
        dim**-0.5 * math.log2(math.e),
        repeat=repeat,
        dim=dim,
        rows=max(SMALLEST, triton.next_power_of_2(repeat)),
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
