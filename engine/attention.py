"""Grouped-query attention with rotary positions, and the attention that each token receives.

Shapes: B batch, T new tokens, S keys (cached prefix and new), N query heads, KV key heads,
R = N / KV queries per key head, D head dimension.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.budget import MAP_ELEMENTS, QUERY_BLOCK
from engine.cache import LayerCache
from engine.config import ModelConfig
from engine.linear import Linear


@dataclass(frozen=True)
class Rotation:
    """Rotary positions of consecutive tokens: ``cos`` and ``sin`` [T, D], the first at ``start``.

    The first half of ``sin`` is negated, so that rotating is x * cos + roll(x, D / 2) * sin.
    """

    cos: Tensor
    sin: Tensor
    start: int

    def apply(self, x: Tensor) -> Tensor:
        """Rotate x [B, heads, T, D]."""
        half = x.shape[-1] // 2
        return torch.addcmul(x * self.cos, x.roll(half, -1), self.sin)


class Rope:
    """Makes rotations for a model's head size and base."""

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        dim = config.head_dim
        exponents = torch.arange(0, dim, 2, device=device).float() / dim
        self.frequencies = 1.0 / config.rope_theta**exponents  # [D / 2]
        self._frequencies = self.frequencies.repeat(2)  # [D]
        self._signs = torch.ones(dim, device=device)
        self._signs[: dim // 2] = -1
        self._dtype = dtype

    def at(self, start: int, tokens: int) -> Rotation:
        """The rotation of positions start to start + tokens - 1; angles in float32."""
        device = self._frequencies.device
        positions = torch.arange(start, start + tokens, device=device, dtype=torch.float32)
        angles = positions[:, None] * self._frequencies  # [T, D]
        sin = angles.sin() * self._signs
        return Rotation(angles.cos().to(self._dtype), sin.to(self._dtype), start)


@dataclass(frozen=True)
class AttentionStatistics:
    """What the attention map says of each new token j, averaged over heads; [B, T] float32.

    ``received``: sum over the new queries i >= j of A_ij; ``own``: A_jj. ``decoding``: a single
    token after a cached prefix, where only ``own`` tells anything.
    """

    received: Tensor
    own: Tensor
    decoding: bool


@dataclass(frozen=True)
class Attention:
    """One layer's attention; ``window`` is the sliding window in tokens, None for all."""

    q: Linear
    k: Linear
    v: Linear
    o: Linear
    head_dim: int
    window: int | None = None

    def forward(self, x: Tensor, rope: Rotation, cache: LayerCache | None = None) -> Tensor:
        """Attend from x [B, T, H] to itself and the cache's prefix; returns [B, T, H].

        With a cache, keys and values are written at ``rope.start``.
        """
        queries, keys, values = self._project(x, rope, cache)
        if x.shape[1] == 1:
            mixed = self._one_query(queries, keys, values)
        elif rope.start == 0 and (self.window is None or x.shape[1] <= self.window):
            mixed = F.scaled_dot_product_attention(
                queries, keys, values, is_causal=True, enable_gqa=True
            )
        else:
            mixed = self._masked(queries, keys, values, rope.start)
        return self._output(mixed)

    def forward_with_statistics(
        self, x: Tensor, rope: Rotation, cache: LayerCache | None = None
    ) -> tuple[Tensor, AttentionStatistics]:
        """Like `forward`, and what the map says of each new token.

        The softmax of a row needs only that row, so the map is made in blocks of queries and no
        more than a block of it is ever in memory.
        """
        queries, keys, values = self._project(x, rope, cache)
        if x.shape[1] == 1:
            attention = _softmax_map(queries, self._visible(keys), None)
            own = attention[..., -1].mean(dim=(1, 2))  # [B, 1]
            mixed = _mix(attention, self._visible(values))
            return self._output(mixed), AttentionStatistics(own, own, rope.start > 0)
        mixed, received, own = self._mapped(queries, keys, values, rope.start)
        return self._output(mixed), AttentionStatistics(received, own, decoding=False)

    def tensors(self) -> Iterator[Tensor]:
        """The tensors of the four projections."""
        for linear in (self.q, self.k, self.v, self.o):
            yield from linear.tensors()

    def _project(
        self, x: Tensor, rope: Rotation, cache: LayerCache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, N, T, D]; keys and values [B, KV, S, D], the cached prefix included."""
        queries = rope.apply(self._heads(self.q.forward(x)))
        keys = rope.apply(self._heads(self.k.forward(x)))
        values = self._heads(self.v.forward(x))
        if cache is not None:
            stored = cache.write(rope.start, keys, values)
            keys, values = (part.floats(x.dtype) for part in stored)
        return queries, keys, values

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, heads * D] to [B, heads, T, D]."""
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)

    def _output(self, mixed: Tensor) -> Tensor:
        """[B, N, T, D] to [B, T, H]."""
        return self.o.forward(mixed.transpose(1, 2).flatten(2))

    def _one_query(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of one token [B, N, 1, D], which sees all keys of its window.

        The queries of a key head stand in for its rows: no mask, no repeated keys (at 8192 keys
        2.3 times faster than `enable_gqa`).
        """
        grouped = queries.view(len(queries), keys.shape[1], -1, self.head_dim)  # [B, KV, R, D]
        mixed = F.scaled_dot_product_attention(grouped, self._visible(keys), self._visible(values))
        return mixed.view_as(queries)

    def _visible(self, cached: Tensor) -> Tensor:
        """Of keys or values [B, KV, S, D], those in the window of the last one."""
        return cached if self.window is None else cached[:, :, -self.window :]

    def _masked(self, queries: Tensor, keys: Tensor, values: Tensor, start: int) -> Tensor:
        """Attention of queries that begin at position ``start``, in blocks of queries.

        Each key head becomes a batch entry, its keys seen by all its queries without a copy: on a
        GPU, torch has no kernel without a map that takes both a mask and grouped heads.
        """
        repeat = queries.shape[1] // keys.shape[1]
        outputs = []
        for block in self._blocks(queries.shape[2], start, QUERY_BLOCK):
            q = queries[:, :, block.queries].reshape(-1, repeat, block.count, self.head_dim)
            k, v = (
                cached[:, :, block.keys].flatten(0, 1)[:, None].expand(-1, repeat, -1, -1)
                for cached in (keys, values)
            )  # [B * KV, R, Sk, D]
            mask = block.mask(queries.device, self.window)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            outputs.append(mixed.reshape(*queries.shape[:2], -1, self.head_dim))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def _mapped(
        self, queries: Tensor, keys: Tensor, values: Tensor, start: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention [B, N, T, D] with the map made block by block, and its two sums [B, T]."""
        batch, heads, tokens, _ = queries.shape
        device = queries.device
        received = torch.zeros(batch, tokens, device=device)
        own = torch.empty(batch, tokens, device=device)
        outputs = []
        size = max(1, MAP_ELEMENTS // (batch * heads * keys.shape[2]))
        for block in self._blocks(tokens, start, min(size, QUERY_BLOCK)):
            q = queries[:, :, block.queries]
            attention = _softmax_map(q, keys[:, :, block.keys], block.mask(device, self.window))
            outputs.append(_mix(attention, values[:, :, block.keys]))
            mean = attention.mean(dim=(1, 2))  # [B, Tq, Sk]
            # The block's keys that are new tokens; the cached prefix is not asked about.
            first = max(block.keys.start, start)
            new = slice(first - start, block.keys.stop - start)
            received[:, new] += mean[:, :, first - block.keys.start :].sum(dim=1)
            offset = block.first_position - block.keys.start
            own[:, block.queries] = mean.diagonal(offset, dim1=1, dim2=2)
            del attention, mean  # or there would be three maps while the next is made
        return torch.cat(outputs, dim=2), received, own

    def _blocks(self, tokens: int, start: int, size: int) -> "Iterator[_Block]":
        for first in range(0, tokens, size):
            last = min(first + size, tokens)
            reach = 0 if self.window is None else max(0, start + first - self.window + 1)
            yield _Block(slice(first, last), slice(reach, start + last), start + first)


@dataclass(frozen=True)
class _Block:
    """Consecutive queries and the range of keys that any of them sees.

    ``queries`` counts from the first new token, ``keys`` from the first key of all;
    ``first_position`` is the first query's place among all keys.
    """

    queries: slice
    keys: slice
    first_position: int

    @property
    def count(self) -> int:
        """Queries in it."""
        return int(self.queries.stop - self.queries.start)

    def mask(self, device: torch.device, window: int | None) -> Tensor | None:
        """True where a query sees a key [Tq, Sk]; None where it sees all of them."""
        if self.count == 1:
            return None
        positions = (
            self.first_position + torch.arange(self.count, device=device)[:, None]
        )  # [Tq, 1]
        keys = torch.arange(self.keys.start, self.keys.stop, device=device)  # [Sk]
        visible = keys <= positions
        if window is not None:
            visible &= keys > positions - window
        return visible


def _softmax_map(queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """The map of queries [B, N, Tq, D] on keys [B, KV, Sk, D], float32 [B, KV, R, Tq, Sk]."""
    batch, heads, count, dim = queries.shape
    kv_heads = keys.shape[1]
    grouped = queries.reshape(batch, kv_heads, -1, dim)  # [B, KV, R * Tq, D]
    scores: Tensor = grouped @ keys.transpose(-1, -2) * dim**-0.5  # [B, KV, R * Tq, Sk]
    scores = scores.view(batch, kv_heads, heads // kv_heads, count, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1, dtype=torch.float32)


def _mix(attention: Tensor, values: Tensor) -> Tensor:
    """Average ``values`` [B, KV, Sk, D] by the map [B, KV, R, Tq, Sk]; returns [B, N, Tq, D]."""
    batch, kv_heads, repeat, count, _ = attention.shape
    mixed = attention.flatten(2, 3).to(values.dtype) @ values  # [B, KV, R * Tq, D]
    return mixed.view(batch, kv_heads * repeat, count, -1)
