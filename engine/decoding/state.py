"""Everything that changes while tokens are decoded on a device, allocated once.

A captured step reads and writes these very tensors, so they are filled, never exchanged. One
conversation at a time, one token at a time: the first dimension of activations is 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.model import Model
from engine.otp import router_shape
from engine.protocol import SamplingOptions
from engine.pruning import DecodeRule
from engine.random_numbers import key_of

LOOK_TOKENS = 4
"""Tokens that are drawn before the host looks at them."""

Place = torch.device | str


@dataclass(frozen=True)
class Activations:
    """One token on its way through the layers.

    ``residual`` [1, H] float32; ``normed`` and ``moved`` [1, H], what goes into a block and what
    comes out of it; ``turned`` [1, H] float32, ``normed`` as rotated experts take it; ``q``
    [1, N * D], ``k`` and ``v`` [1, KV * D] float32; ``rotated`` [N, D]; ``mixed`` [1, N * D];
    ``own`` [1] float32, the token's attention to itself; ``ids`` [1, K] int64, below 0 where
    skipped, and ``weights`` [1, K] float32; ``logits`` [1, V] float32. Of a shared expert
    ``shared_gate`` and ``shared_up`` [1, S] float32, its ``shared_inner`` [1, S] and what it adds,
    ``shared_moved`` [1, H] float32; S is 0 where there is none. The others are in the model's type.
    """

    residual: Tensor
    normed: Tensor
    turned: Tensor
    moved: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    rotated: Tensor
    mixed: Tensor
    own: Tensor
    ids: Tensor
    weights: Tensor
    logits: Tensor
    shared_gate: Tensor
    shared_up: Tensor
    shared_inner: Tensor
    shared_moved: Tensor

    @classmethod
    def allocate(cls, config: ModelConfig, dtype: torch.dtype, device: Place) -> "Activations":
        """For one model."""

        def zeros(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        hidden, heads, dim = config.hidden_size, config.num_heads, config.head_dim
        keys, shared = config.num_kv_heads * dim, config.traits.shared_size
        return cls(
            residual=zeros(1, hidden),
            normed=zeros(1, hidden, dtype=dtype),
            turned=zeros(1, hidden),
            moved=zeros(1, hidden),
            q=zeros(1, heads * dim),
            k=zeros(1, keys),
            v=zeros(1, keys),
            rotated=zeros(heads, dim, dtype=dtype),
            mixed=zeros(1, heads * dim, dtype=dtype),
            own=zeros(1),
            ids=zeros(1, config.top_k, dtype=torch.int64),
            weights=zeros(1, config.top_k),
            logits=zeros(1, config.vocab_size),
            shared_gate=zeros(1, shared),
            shared_up=zeros(1, shared),
            shared_inner=zeros(1, shared, dtype=dtype),
            shared_moved=zeros(1, hidden),
        )


@dataclass(frozen=True)
class Drawing:
    """How the next token is drawn.

    ``options`` [5] float32: temperature, top-k, top-p, min-p, repetition penalty; ``key`` [2]
    int64 as `engine.random_numbers` has it; ``drawn`` [1] int64, tokens drawn so far; ``seen`` [V]
    bool, what the penalty is for; ``picked`` [1] int64, the token, or -1 where the logits are no
    numbers.
    """

    options: Tensor
    key: Tensor
    drawn: Tensor
    seen: Tensor
    picked: Tensor

    @classmethod
    def allocate(cls, vocabulary: int, device: Place) -> "Drawing":
        """For one vocabulary."""
        return cls(
            options=torch.zeros(5, device=device),
            key=torch.zeros(2, dtype=torch.int64, device=device),
            drawn=torch.zeros(1, dtype=torch.int64, device=device),
            seen=torch.zeros(vocabulary, dtype=torch.bool, device=device),
            picked=torch.zeros(1, dtype=torch.int64, device=device),
        )

    def begin(self, options: SamplingOptions, seen: Iterable[int]) -> None:
        """A reply begins, after the tokens ``seen``."""
        values = (
            options.temperature,
            options.top_k,
            options.top_p,
            options.min_p,
            options.repetition_penalty,
        )
        marks = torch.zeros(len(self.seen), dtype=torch.bool)
        marks[list(seen)] = True
        self.options.copy_(torch.tensor(values))
        self.key.copy_(torch.tensor(key_of(options.seed)))
        self.drawn.zero_()
        self.seen.copy_(marks)


@dataclass(frozen=True)
class LayerRule:
    """One layer's part of a `DecodeRule`, float32.

    ``levels`` [K]: thresholds of all slots but the first, and the quantile. ``routers``
    [K - 1, H + K] and ``price`` [1]: OTP's; at a price of 0 the routers are not read.
    """

    levels: Tensor
    routers: Tensor
    price: Tensor


@dataclass(frozen=True)
class DecodeState:
    """``token`` [1] int64 is fed at ``position`` [1] int32 by the next step.

    ``levels`` [L, K], ``routers`` [L, K - 1, H + K] and ``price`` [1] are the pruning's
    `DecodeRule`, see `LayerRule`. ``counts`` [L, 2 * E] int64 are the current step's slots as
    `RoutingCounter` has them. Each step leaves a row in ``ring`` [LOOK_TOKENS, 1 + L * 2 * E]
    int64, what it ``picked`` and its counts, at ``slot`` [1] int64, which the host puts back to 0
    for every look.
    """

    token: Tensor
    position: Tensor
    levels: Tensor
    routers: Tensor
    price: Tensor
    counts: Tensor
    slot: Tensor
    ring: Tensor
    activations: Activations
    drawing: Drawing

    @classmethod
    def allocate(cls, model: Model) -> "DecodeState":
        """For a loaded model, on its device."""
        config, device = model.config, model.embed.device
        layers, columns = config.num_layers, 2 * config.num_experts

        def integers(*size: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        return cls(
            token=integers(1),
            position=integers(1, dtype=torch.int32),
            levels=torch.zeros(layers, config.top_k, device=device),
            routers=torch.zeros(router_shape(config), device=device),
            price=torch.zeros(1, device=device),
            counts=integers(layers, columns),
            slot=integers(1),
            ring=integers(LOOK_TOKENS, 1 + layers * columns),
            activations=Activations.allocate(config, model.dtype, device),
            drawing=Drawing.allocate(config.vocab_size, device),
        )

    def layer_rule(self, layer: int) -> LayerRule:
        """The rule of one layer; what is set later is seen in it."""
        return LayerRule(self.levels[layer], self.routers[layer], self.price)

    def set_rule(self, rule: DecodeRule) -> None:
        """Prune by ``rule``, which fits the model, from the next step that is begun."""
        self.levels.copy_(rule.levels(self.levels.shape[1]))
        self.price.fill_(0.0 if rule.otp is None else rule.otp.price)
        if rule.otp is not None:
            self.routers.copy_(rule.otp.routers)
