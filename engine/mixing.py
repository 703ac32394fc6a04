"""What queries make of keys and values, in plain torch, a block at a time.

Shapes: B batch, T new tokens, S keys (cached prefix and new), KV key heads, R queries for each of
them (N = KV * R query heads), D head dimension; b, h, Tq and Sk are parts of B, KV, T and S.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.budget import KEY_BLOCK, QUERY_BLOCK, map_sizes
from engine.cache import Stored


@dataclass(frozen=True)
class Mixture:
    """Mixed values [B, KV, R, T, D], and what the map says of each new token, means over heads
    [B, T] float32: ``received`` from all new queries, ``own`` from itself."""

    values: Tensor
    received: Tensor
    own: Tensor


def mix_one(queries: Tensor, keys: Stored, values: Stored) -> Tensor:
    """Mixed values of one token's queries [B, KV, R, 1, D], which see all the keys.

    The queries of a key head stand in for its rows: no mask, no repeated keys (at 8192 keys 2.3
    times faster than `enable_gqa`).
    """
    if keys.scales is not None:
        return mix_one_with_own(queries, keys, values)[0]
    mixed = F.scaled_dot_product_attention(queries[..., 0, :], keys.data, values.data)
    return mixed[..., None, :]


def mix_one_with_own(queries: Tensor, keys: Stored, values: Stored) -> tuple[Tensor, Tensor]:
    """Like `mix_one`, and the attention to the last key, mean over heads, [B, 1] float32."""
    dtype, rows = queries.dtype, queries[..., 0, :]  # [B, KV, R, D]
    blocks = list(_key_blocks(keys))
    parts = [rows @ keys.part(block).floats(dtype).transpose(-1, -2) for block in blocks]
    scores = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)  # [B, KV, R, S]
    attention = (scores * rows.shape[-1] ** -0.5).softmax(dim=-1, dtype=torch.float32)
    mixed = torch.zeros_like(rows)
    for block in blocks:
        mixed += attention[..., block].to(dtype) @ values.part(block).floats(dtype)
    return mixed[..., None, :], attention[..., -1].mean(dim=(1, 2))[:, None]


@dataclass(frozen=True)
class Prompt:
    """New tokens, the first at position ``start``, that attend to themselves and all before them.

    ``queries`` [B, KV, R, T, D]; ``keys`` and ``values`` [B, KV, start + T, D]; ``window`` is the
    sliding window in tokens, None for all.
    """

    queries: Tensor
    keys: Stored
    values: Stored
    start: int
    window: int | None

    def mix(self) -> Tensor:
        """Mixed values [B, KV, R, T, D]."""
        if self.start == 0 and not self._hides:
            keys, values = (stored.floats(self.queries.dtype) for stored in self._stored)
            mixed = F.scaled_dot_product_attention(
                self.queries.flatten(1, 2), keys, values, is_causal=True, enable_gqa=True
            )
            return mixed.view(self.queries.shape)
        if not self._splits:
            # What was rounded is made floats by parts, which a mask over all keys has none of.
            return self._masked() if self.keys.scales is None else self.mix_with_sums().values
        new = slice(self.start, self.keys.tokens)
        part = _flash(self.queries, self.keys.part(new), self.values.part(new), causal=True)
        return self._prefix().join(part).values

    def mix_with_sums(self) -> Mixture:
        """Mixed values, and what each new token received.

        Of the map a block of queries of a few heads is in memory, small enough for a processor's
        cache; a cached prefix, of which nothing is asked, needs none where it can be split off.
        """
        batch, kv_heads, repeat, tokens, dim = self.queries.shape
        by_token = self.queries.new_empty(batch, tokens, kv_heads, repeat, dim)
        received, own = self.queries.new_zeros(2, batch, tokens, dtype=torch.float32)
        mixture = Mixture(by_token.permute(0, 2, 3, 1, 4), received, own)
        prefix, first = (self._prefix(), self.start) if self._splits else (None, 0)
        count, size = map_sizes(repeat, self.keys.tokens - first, batch * kv_heads)
        for group in _groups(batch, kv_heads, count):
            for block in self._blocks(size, first):
                _Piece(self, group, block).add(prefix, mixture)
        return mixture

    @property
    def _stored(self) -> tuple[Stored, Stored]:
        return self.keys, self.values

    @property
    def _hides(self) -> bool:
        """Whether the window hides anything."""
        return self.window is not None and self.keys.tokens > self.window

    @property
    def _splits(self) -> bool:
        """Whether there is a prefix, all of it seen by all queries, that can be mixed apart."""
        return self.start > 0 and not self._hides and self.queries.device.type == "cpu"

    def _prefix(self) -> "_Part":
        """What all queries make of the keys before ``start``."""
        keys, values = (stored.part(slice(self.start)) for stored in self._stored)
        whole: _Part | None = None
        for block in _key_blocks(keys):
            part = _flash(self.queries, keys.part(block), values.part(block), causal=False)
            whole = part if whole is None else whole.join(part)
        assert whole is not None
        return whole

    def _masked(self) -> Tensor:
        """Attention with a mask, in blocks of queries.

        Each key head becomes a batch entry, its keys seen by all its queries without a copy: on a
        GPU, torch has no kernel without a map that takes both a mask and grouped heads.
        """
        outputs = []
        for block in self._blocks(QUERY_BLOCK, 0):
            queries = self.queries[..., block.queries, :].flatten(0, 1)  # [B * KV, R, Tq, D]
            keys, values = (
                _shared(stored.part(block.keys), queries) for stored in self._stored
            )  # [B * KV, R, Sk, D]
            mask = block.visible(queries.device, self.window)
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            outputs.append(mixed.view(*self.queries.shape[:2], *mixed.shape[1:]))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=3)

    def _blocks(self, size: int, first: int) -> "Iterator[_Block]":
        """Blocks of ``size`` queries, and of the keys that they see those not before ``first``."""
        tokens = self.queries.shape[3]
        for begin in range(0, tokens, size):
            end = min(begin + size, tokens)
            reach = 0 if self.window is None else self.start + begin - self.window + 1
            keys = slice(max(first, reach), self.start + end)
            yield _Block(slice(begin, end), keys, self.start + begin)


@dataclass(frozen=True)
class _Part:
    """Attention to some of the keys: mixed values [..., Tq, D], and the log of the sum of every
    row's exponentials [..., Tq], by which parts are weighted."""

    values: Tensor
    lse: Tensor

    def share_beside(self, other: "_Part") -> Tensor:
        """Its weight in a sum with the other, [..., Tq]."""
        return torch.sigmoid(self.lse - other.lse)

    def join(self, other: "_Part") -> "_Part":
        """Attention to the keys of both; the memory of this part's values is used for it."""
        share = other.share_beside(self)[..., None].to(self.values.dtype)
        return _Part(self.values.lerp_(other.values, share), torch.logaddexp(self.lse, other.lse))


@dataclass(frozen=True)
class _Group:
    """Some sequences and some of their key heads, whose maps are made at once."""

    batch: slice
    heads: slice

    @property
    def count(self) -> int:
        """Key heads, of all its sequences."""
        return _length(self.batch) * _length(self.heads)


def _groups(batch: int, kv_heads: int, most: int) -> Iterator[_Group]:
    """All key heads of all sequences in groups of up to ``most``, and 1 at least."""
    heads = min(max(1, most), kv_heads)
    sequences = max(1, most // kv_heads)
    for first in range(0, batch, sequences):
        for head in range(0, kv_heads, heads):
            yield _Group(
                slice(first, min(first + sequences, batch)),
                slice(head, min(head + heads, kv_heads)),
            )


def _length(part: slice) -> int:
    return int(part.stop - part.start)


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
    def offset(self) -> int:
        """The first query's own key among those of the block."""
        return int(self.first_position - self.keys.start)

    def visible(self, device: torch.device, window: int | None) -> Tensor | None:
        """True where a query sees a key [Tq, Sk]; None where it sees all of them."""
        count = _length(self.queries)
        if count == 1:
            return None
        seen = torch.ones(count, _length(self.keys), dtype=torch.bool, device=device)
        seen = seen.tril_(self.offset)
        return seen if window is None else seen.triu_(self.offset - window + 1)

    def hide(self, scores: Tensor, window: int | None) -> None:
        """Let scores [..., Tq, Sk] be -inf where a query does not see a key."""
        # Without a window all see what was there before the first of them.
        known = 0 if window is not None else self.offset
        seen = self.visible(scores.device, window)
        if seen is not None:
            scores[..., known:].masked_fill_(~seen[:, known:], -torch.inf)


@dataclass(frozen=True)
class _Piece:
    """The map of a block of queries of a group of heads."""

    prompt: Prompt
    group: _Group
    block: _Block

    def add(self, prefix: _Part | None, mixture: Mixture) -> None:
        """Make it, and put what it says into ``mixture``."""
        prompt, block, batch = self.prompt, self.block, self.group.batch
        scores, values = self._scores()  # [b * h, R * Tq, Sk], [b * h, Sk, D]
        attention = scores.softmax(dim=-1)
        mixed = self._apart(torch.bmm(attention.to(values.dtype), values))  # [b, h, R, Tq, D]
        weights = torch.ones(mixed.shape[:-1], device=mixed.device)  # of rows, [b, h, R, Tq]
        if prefix is not None:
            # The largest share of a row is 1 / the sum of its exponentials.
            lse = scores.amax(dim=-1, keepdim=True) - attention.amax(dim=-1, keepdim=True).log()
            part = _Part(mixed, self._apart(lse)[..., 0])
            before = _Part(self._of(prefix.values), self._of(prefix.lse[..., None])[..., 0])
            weights = part.share_beside(before)
            mixed = before.join(part).values
        self._of(mixture.values).copy_(mixed)
        weights /= prompt.queries.shape[1] * prompt.queries.shape[2]  # the mean over heads
        own = self._apart(attention).diagonal(block.offset, dim1=3, dim2=4)  # [b, h, R, Tq]
        mixture.own[batch, block.queries] += (own * weights).sum(dim=(1, 2))
        # Of the block's keys those that are new tokens; of a cached prefix nothing is asked.
        skip = max(0, prompt.start - block.keys.start)
        rows = attention.view(_length(batch), -1, attention.shape[-1])[
            ..., skip:
        ]  # [b, h * R * Tq, Sk]
        received = torch.bmm(weights.view(len(rows), 1, -1), rows)[:, 0]
        first = block.keys.start + skip - prompt.start
        mixture.received[batch, first : first + received.shape[1]] += received

    def _scores(self) -> tuple[Tensor, Tensor]:
        """Scores [b * h, R * Tq, Sk] float32, -inf where nothing is seen, and the values."""
        index = (self.group.batch, self.group.heads)
        queries = self._of(self.prompt.queries).flatten(0, 1).flatten(1, 2)  # [b * h, R * Tq, D]
        keys, values = (
            stored.part(self.block.keys, *index).floats(queries.dtype).flatten(0, 1)
            for stored in (self.prompt.keys, self.prompt.values)
        )  # [b * h, Sk, D]
        nothing, scale = queries.new_zeros(1), queries.shape[-1] ** -0.5
        scores = torch.baddbmm(nothing, queries, keys.transpose(1, 2), beta=0, alpha=scale).float()
        self.block.hide(self._apart(scores), self.prompt.window)
        return scores, values

    def _of(self, x: Tensor) -> Tensor:
        """Its part of x [B, KV, R, T, any]: [b, h, R, Tq, any]."""
        return x[self.group.batch, self.group.heads, :, self.block.queries]

    def _apart(self, x: Tensor) -> Tensor:
        """x [b * h, R * Tq, any] as [b, h, R, Tq, any]."""
        sizes = (_length(self.group.batch), _length(self.group.heads))
        return x.view(*sizes, -1, _length(self.block.queries), x.shape[-1])


def _key_blocks(keys: Stored) -> Iterator[slice]:
    """All keys at once, or as many as shall be in memory when they were rounded."""
    size = keys.tokens if keys.scales is None else KEY_BLOCK
    for first in range(0, keys.tokens, size):
        yield slice(first, min(first + size, keys.tokens))


def _shared(stored: Stored, queries: Tensor) -> Tensor:
    """Keys or values for queries [B * KV, R, Tq, D]: [B * KV, R, Sk, D], not copied R times."""
    floats = stored.floats(queries.dtype).flatten(0, 1)[:, None]
    return floats.expand(-1, queries.shape[1], -1, -1)


def _flash(queries: Tensor, keys: Stored, values: Stored, causal: bool) -> _Part:
    """Attention of queries [B, KV, R, T, D] on a CPU, by torch's kernel without a map.

    Its public form keeps the sums to itself, without which parts cannot be joined.
    """
    rows = queries.flatten(0, 1)  # [B * KV, R, T, D]
    mixed, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        rows, _shared(keys, rows), _shared(values, rows), 0.0, causal
    )
    return _Part(mixed.view(queries.shape), lse.view(queries.shape[:-1]))
