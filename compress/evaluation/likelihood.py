"""How well a model predicts a text: perplexity over windows, in one pass each or token by token."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.budget import KvBits
from engine.cache import KVCache
from engine.counters import Counters
from engine.model import Model
from engine.pruning import NO_PRUNING, Pruning

BATCH_TOKENS = 4096
"""Tokens in one forward pass, whole windows."""
BATCH_WINDOWS = 32
"""Windows, or replies, that decode side by side."""


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log likelihood over ``tokens`` predicted tokens.

    ``prune_ratio``: skipped expert slots / routed slots, 0 to 1.
    """

    perplexity: float
    tokens: int
    prune_ratio: float


@dataclass(frozen=True)
class Predictions:
    """What a model says of the tokens that follow in some windows.

    ``targets`` int64 [B, T - 1]: the tokens to predict; ``logits`` [B, T - 1, V] for them.
    """

    targets: Tensor
    logits: Tensor

    def losses(self) -> Tensor:
        """The negative log likelihood of each target in nats, float32 [B, T - 1]."""
        logits, targets = self.logits.flatten(0, 1).float(), self.targets.flatten()
        return F.cross_entropy(logits, targets, reduction="none").view_as(self.targets)


@torch.inference_mode()
def perplexity(
    model: Model,
    windows: Tensor,
    pruning: Pruning = NO_PRUNING,
    *,
    stepwise: bool = False,
    kv_bits: KvBits = 16,
) -> Perplexity:
    """Perplexity over windows [N, T] int64 of every token but each window's first.

    ``stepwise`` feeds one token at a time through the KV cache, as decoding does; the protection
    of pruning then sees no later token. Without pruning both ways agree. With ``kv_bits`` 8 keys
    and values are rounded, as a cache of that width does.
    """
    counters = Counters(model)
    predict = predictions_stepwise if stepwise else predictions
    batches = predict(model, windows, pruning, counters, kv_bits)
    figure = perplexity_of(batches)
    return Perplexity(figure, windows[:, 1:].numel(), counters.read().prune_ratio)


@torch.inference_mode()
def perplexity_of(batches: Iterable[Predictions]) -> float:
    """exp of the mean negative log likelihood of all targets."""
    losses = torch.cat([batch.losses().double().flatten().cpu() for batch in batches])
    return math.exp(losses.mean())


def windows_together(windows: Tensor) -> int:
    """How many of windows [N, T] go through a model side by side."""
    return max(1, BATCH_TOKENS // windows.shape[1])


def predictions(
    model: Model,
    windows: Tensor,
    pruning: Pruning = NO_PRUNING,
    counters: Counters | None = None,
    kv_bits: KvBits = 16,
) -> Iterator[Predictions]:
    """Of windows [N, T], a few windows at a time, each in one forward pass."""
    for tokens in torch.split(windows, windows_together(windows)):
        tokens = tokens.to(model.embed.device)  # [B, T]
        # Only to round: one pass needs no cache.
        cache = None if kv_bits == 16 else new_cache(model, len(tokens), tokens.shape[1], kv_bits)
        logits = model.forward(tokens, cache, pruning, counters)
        yield Predictions(tokens[:, 1:], logits[:, :-1])


def predictions_stepwise(
    model: Model,
    windows: Tensor,
    pruning: Pruning = NO_PRUNING,
    counters: Counters | None = None,
    kv_bits: KvBits = 16,
) -> Iterator[Predictions]:
    """The same token by token: each is of one position of some windows, [B, 1] and [B, 1, V]."""
    for tokens in torch.split(windows, BATCH_WINDOWS):
        tokens = tokens.to(model.embed.device)  # [B, T]
        batch, length = tokens.shape
        cache = new_cache(model, batch, length, kv_bits)
        for at in range(length - 1):
            logits = model.forward(tokens[:, at : at + 1], cache, pruning, counters)
            yield Predictions(tokens[:, at + 1 : at + 2], logits)


def new_cache(model: Model, batch: int, length: int, kv_bits: KvBits) -> KVCache:
    """An empty cache for ``batch`` sequences of up to ``length`` tokens."""
    return KVCache(model.config, length, batch, model.embed.device, model.dtype, kv_bits)
