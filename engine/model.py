"""The forward pass of a mixture of experts, in parts that can also be run one layer at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engine.attention import Attention, AttentionStatistics, Rope, Rotation
from engine.cache import KVCache, LayerCache
from engine.config import ModelConfig
from engine.experts import Experts, SharedExpert
from engine.kernels.step import Decoder
from engine.linear import Linear
from engine.pruning import NO_PRUNING, Pruning, Routing, route
from engine.threads import threads_for


class RoutingCounter(Protocol):
    """Hears which experts run.

    One that also has a method ``add`` gets the counts of a whole step at once instead: int64
    [L, 2 * E], of each layer the slots of each expert that run, and then those that are skipped.
    """

    def record(self, layer: int, routing: Routing) -> None:
        """Note the routing of one layer, after pruning."""


@dataclass(frozen=True)
class Norm:
    """RMS norm with ``weight`` [H]."""

    weight: Tensor
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., H]."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


@dataclass
class Layer:
    """One decoder layer. The parts can be exchanged (a quantized one for a float one).

    ``renormalised``: the weights of the chosen experts are made to sum to 1. ``shared``: an expert
    that every token passes beside those.
    """

    index: int
    input_norm: Norm
    attention: Attention
    post_norm: Norm
    router: Linear
    experts: Experts
    top_k: int
    renormalised: bool = True
    shared: SharedExpert | None = None

    def attend(self, x: Tensor, rope: Rotation, cache: LayerCache | None = None) -> Tensor:
        """The residual stream after attention, [B, T, H] like x."""
        return x + self.attention.forward(self.input_norm.forward(x), rope, cache)

    def attend_with_statistics(
        self, x: Tensor, rope: Rotation, cache: LayerCache | None = None
    ) -> tuple[Tensor, AttentionStatistics]:
        """Like `attend`, and what the attention map says of each token."""
        normed = self.input_norm.forward(x)
        mixed, statistics = self.attention.forward_with_statistics(normed, rope, cache)
        return x + mixed, statistics

    def moe_input(self, h: Tensor) -> Tensor:
        """What router and experts see of the residual stream h [B, T, H]: [B * T, H]."""
        return self.post_norm.forward(h).flatten(0, 1)

    def route(self, normed: Tensor) -> Routing:
        """Choose the experts of ``normed`` [T, H]."""
        return route(self.router.forward(normed), self.top_k, self.renormalised)

    def mix(self, normed: Tensor, routing: Routing) -> Tensor:
        """What the experts, the shared one included, make of ``normed`` [T, H]: [T, H]."""
        mixed = self.experts.forward(normed, routing.ids, routing.weights)
        return mixed if self.shared is None else mixed + self.shared.forward(normed)

    def forward(
        self,
        x: Tensor,
        rope: Rotation,
        cache: LayerCache | None = None,
        pruning: Pruning = NO_PRUNING,
        counters: RoutingCounter | None = None,
    ) -> Tensor:
        """Run the whole layer on the residual stream x [B, T, H]."""
        statistics = None
        if pruning.needs_statistics:
            h, statistics = self.attend_with_statistics(x, rope, cache)
        else:
            h = self.attend(x, rope, cache)
        normed = self.moe_input(h)  # [B * T, H]
        routing = pruning.prune(self.index, self.route(normed), normed, statistics)
        if counters is not None:
            counters.record(self.index, routing)
        return h + self.mix(normed, routing).view_as(h)

    def dense_tensors(self) -> Iterator[Tensor]:
        """Every tensor that each token passes: all but the experts it chooses among."""
        yield from (self.input_norm.weight, self.post_norm.weight)
        yield from self.attention.tensors()
        yield from self.router.tensors()
        if self.shared is not None:
            yield from self.shared.tensors()


@dataclass(frozen=True)
class Model:
    """A whole model. ``embed`` [V, H] may be 16-bit; activations are in ``dtype``."""

    config: ModelConfig
    layers: list[Layer]
    embed: Tensor
    norm: Norm
    head: Linear
    dtype: torch.dtype = torch.float32

    def forward(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        pruning: Pruning = NO_PRUNING,
        counters: RoutingCounter | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Logits [B, T, V] of tokens [B, T] int64, or [B, 1, V] of the last with ``last_only``.

        With a cache the tokens continue its prefix and are added to it; ``pruning`` may
        differ from call to call. ``counters`` hears every routing. Raises ContextFullError.
        """
        if tokens.shape[1] == 1 and cache is not None and cache.length:
            logits = self._decode(tokens.tolist(), cache, pruning, counters)
            if logits is not None:
                return logits
        with threads_for(self.config):
            x = self._residual(tokens, cache, pruning, counters)  # [B, T, H]
            return self.logits(x[:, -1:] if last_only else x)

    def _decode(
        self,
        tokens: list[list[int]],
        cache: KVCache,
        pruning: Pruning,
        counters: RoutingCounter | None,
    ) -> Tensor | None:
        """Logits [B, 1, V] of tokens [B, 1] by the compiled step, None where it does not apply.

        It agrees with `Layer.forward` within rounding.
        """
        rule = pruning.decode_rule(self.config.num_layers)
        step = self.decoder.step(self)
        if rule is None or step is None or not step.takes(cache, rule):
            return None
        # Not a protocol that is checked at run time: that takes as long as a layer of the demo.
        add: Callable[[NDArray[np.int64]], None] | None = getattr(counters, "add", None)
        logits, routings = [], []
        for sequence, (token,) in enumerate(tokens):
            logits.append(step.run(token, cache, rule, sequence))
            if add is not None:
                add(step.counts)
            elif counters is not None:
                routings.append(step.routings())
        if counters is not None:
            for layer, parts in enumerate(zip(*routings, strict=True)):
                counters.record(layer, _together(parts))
        cache.length += 1
        return (logits[0] if len(tokens) == 1 else torch.stack(logits)).view(len(tokens), 1, -1)

    def _residual(
        self,
        tokens: Tensor,
        cache: KVCache | None,
        pruning: Pruning,
        counters: RoutingCounter | None,
    ) -> Tensor:
        """The residual stream after the last layer, [B, T, H]."""
        count = tokens.shape[1]
        start = 0
        if cache is not None:
            cache.reserve(count)
            start = cache.length
        rope = self.rope.at(start, count)
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            layer_cache = None if cache is None else cache.layers[layer.index]
            x = layer.forward(x, rope, layer_cache, pruning, counters)
        if cache is not None:
            cache.length += count
        return x

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Embeddings of tokens [B, T], [B, T, H]."""
        return F.embedding(tokens, self.embed).to(self.dtype)

    def logits(self, x: Tensor) -> Tensor:
        """Logits [B, T, V] of the last layer's residual stream x [B, T, H]."""
        return self.head.forward(self.norm.forward(x))

    @cached_property
    def decoder(self) -> Decoder:
        """Made when first asked for: most models of a compression never decode."""
        return Decoder()

    @cached_property
    def rope(self) -> Rope:
        """The model's rotary positions."""
        return Rope(self.config, self.embed.device, self.dtype)

    def memory_bytes(self) -> int:
        """Bytes of all weights really held; tensors that are shared count once."""
        tensors = [self.embed, self.norm.weight, *self.head.tensors()]
        for layer in self.layers:
            tensors += [*layer.dense_tensors(), *layer.experts.tensors()]
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def _together(parts: Sequence[Routing]) -> Routing:
    """The routing of several sequences' tokens."""
    return Routing(
        torch.cat([part.ids for part in parts]), torch.cat([part.weights for part in parts])
    )
