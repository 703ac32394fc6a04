"""Grouped-query attention with rotary positions, and the attention that each token receives.

Shapes: B batch, T new tokens, S keys (cached prefix and new), KV key heads, R queries for each of
them, D head dimension, H hidden size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from engine.cache import LayerCache, Stored
from engine.config import ModelConfig
from engine.linear import Linear
from engine.mixing import Mixture, Prompt, mix_one, mix_one_with_own


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

    @property
    def projections(self) -> tuple[Linear, Linear, Linear, Linear]:
        """q, k, v and o."""
        return self.q, self.k, self.v, self.o

    def forward(self, x: Tensor, rope: Rotation, cache: LayerCache | None = None) -> Tensor:
        """Attend from x [B, T, H] to itself and the cache's prefix; returns [B, T, H].

        With a cache, keys and values are written at ``rope.start``.
        """
        queries, keys, values = self._project(x, rope, cache)
        if x.shape[1] == 1:
            mixed = mix_one(queries, self._visible(keys), self._visible(values))
        else:
            mixed = _mix(Prompt(queries, keys, values, rope.start, self.window))
        return self._output(mixed)

    def forward_with_statistics(
        self, x: Tensor, rope: Rotation, cache: LayerCache | None = None
    ) -> tuple[Tensor, AttentionStatistics]:
        """Like `forward`, and what the map says of each new token."""
        queries, keys, values = self._project(x, rope, cache)
        if x.shape[1] == 1:
            mixed, own = mix_one_with_own(queries, self._visible(keys), self._visible(values))
            return self._output(mixed), AttentionStatistics(own, own, rope.start > 0)
        mixture = _mix_with_sums(Prompt(queries, keys, values, rope.start, self.window))
        statistics = AttentionStatistics(mixture.received, mixture.own, decoding=False)
        return self._output(mixture.values), statistics

    def tensors(self) -> Iterator[Tensor]:
        """The tensors of the four projections."""
        for linear in self.projections:
            yield from linear.tensors()

    def _project(
        self, x: Tensor, rope: Rotation, cache: LayerCache | None
    ) -> tuple[Tensor, Stored, Stored]:
        """Queries [B, KV, R, T, D]; keys and values [B, KV, S, D], the cached prefix included."""
        queries = rope.apply(self._heads(self.q.forward(x)))
        keys = rope.apply(self._heads(self.k.forward(x)))
        values = self._heads(self.v.forward(x))
        queries = queries.view(len(x), keys.shape[1], -1, *queries.shape[2:])
        if cache is None:
            return queries, Stored(keys), Stored(values)
        return queries, *cache.write(rope.start, keys, values)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, heads * D] to [B, heads, T, D]."""
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)

    def _output(self, mixed: Tensor) -> Tensor:
        """[B, KV, R, T, D] to [B, T, H]."""
        return self.o.forward(mixed.permute(0, 3, 1, 2, 4).flatten(2))

    def _visible(self, stored: Stored) -> Stored:
        """Of keys or values, those in the window of the last one."""
        reach = 0 if self.window is None else max(0, stored.tokens - self.window)
        return stored.part(slice(reach, stored.tokens))


def _mix(prompt: Prompt) -> Tensor:
    """Mixed values [B, KV, R, T, D], by the device's own kernels where it has some."""
    kernels = _kernels(prompt.queries.device.type)
    if kernels is None:
        return prompt.mix()
    queries, place = prompt.queries.flatten(1, 2), (prompt.start, prompt.window)
    mixed: Tensor = kernels.flash_prefill(queries, prompt.keys, prompt.values, *place)[0]
    return mixed.view(prompt.queries.shape)


def _mix_with_sums(prompt: Prompt) -> Mixture:
    """Like `_mix`, and what each new token received."""
    kernels = _kernels(prompt.queries.device.type)
    if kernels is None:
        return prompt.mix_with_sums()
    queries, place = prompt.queries.flatten(1, 2), (prompt.start, prompt.window)
    mixed, lse = kernels.flash_prefill(queries, prompt.keys, prompt.values, *place)
    received, own = kernels.received(queries, prompt.keys, lse, *place)
    return Mixture(mixed.view(prompt.queries.shape), received, own)


@cache
def _kernels(device_type: str) -> Any:
    """The module of the kernels that a kind of device has for prompts; None for plain torch.

    `engine.kernels.describe` says which, and why.
    """
    if device_type != "cuda":
        return None
    try:  # imported when needed, as `engine.kernels` does
        from engine.kernels.triton import prompt_attention
    except ImportError:
        return None
    return prompt_attention
