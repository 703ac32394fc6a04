"""Other ways to choose what to skip, to compare with: the paper's alternatives, and its own
protection with tokens drawn at random. For top-2 models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.pruning.damage import LayerDamage
from engine.attention import AttentionStatistics
from engine.experts import skipped
from engine.otp import keep_first
from engine.pruning import OdpPruning, Routing, importance

Score = Callable[[Tensor, Tensor], Tensor]
"""What says how much a token needs its second expert, float32 [T], of its normed input [T, H] and
its routing weights [T, 2]."""


def ratio(tokens: Tensor, weights: Tensor) -> Tensor:
    """w1 / w0, the paper's."""
    return weights[:, 1] / weights[:, 0]


def mean(tokens: Tensor, weights: Tensor) -> Tensor:
    """Of the input's magnitudes."""
    return tokens.float().abs().mean(dim=1)


def variance(tokens: Tensor, weights: Tensor) -> Tensor:
    """Of the input."""
    return tokens.float().var(dim=1)


def kurtosis(tokens: Tensor, weights: Tensor) -> Tensor:
    """Of the input: high where few channels stand out."""
    centred = tokens.float() - tokens.float().mean(dim=1, keepdim=True)
    return centred.pow(4).mean(dim=1) / centred.square().mean(dim=1).square()


@dataclass(frozen=True)
class ScorePruning:
    """Skips the second expert of tokens whose score is below ``thresholds[layer]``."""

    score: Score
    thresholds: tuple[float, ...]
    needs_statistics: bool = False

    @classmethod
    def at_quantile(
        cls, score: Score, layers: Sequence[LayerDamage], share: float
    ) -> "ScorePruning":
        """With the thresholds at which a ``share`` of the tokens, 0 to 1, lose it in each layer."""
        scores = [score(layer.tokens, layer.weights) for layer in layers]
        return cls(score, tuple(float(_quantile(values, share)) for values in scores))

    def decode_rule(self, num_layers: int) -> None:
        """None says it."""

    def prune(
        self, layer: int, routing: Routing, tokens: Tensor, attention: AttentionStatistics | None
    ) -> Routing:
        """See `engine.pruning.Pruning.prune`."""
        keep = self.score(tokens, routing.weights) >= self.thresholds[layer]
        return keep_first(routing, 1 + keep.long())


@dataclass(frozen=True)
class TokenDropping:
    """Skips all experts of the ``share`` of each sequence's tokens that are the least important by
    Eq. 6; for whole prompts."""

    share: float
    needs_statistics: bool = True

    def decode_rule(self, num_layers: int) -> None:
        """None says it."""

    def prune(
        self, layer: int, routing: Routing, tokens: Tensor, attention: AttentionStatistics | None
    ) -> Routing:
        """See `engine.pruning.Pruning.prune`."""
        assert attention is not None
        scores = importance(tokens, attention)  # [B, T]
        count = round(self.share * scores.shape[1])
        least = scores.topk(count, dim=1, largest=False).indices
        dropped = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, least, True)
        dropped = dropped.flatten()[:, None]  # [B * T, 1]
        return Routing(
            routing.ids.where(~dropped, skipped(routing.ids)), routing.weights.where(~dropped, 0.0)
        )


@dataclass(frozen=True)
class RandomlyProtected(OdpPruning):
    """ODP whose protected tokens are drawn, the same in every run."""

    def _protected(self, layer: int, tokens: Tensor, attention: AttentionStatistics) -> Tensor:
        drawn = torch.rand(len(tokens), generator=torch.Generator().manual_seed(layer))
        return drawn.to(tokens.device) < self.protected_share


def _quantile(values: Tensor, share: float) -> Tensor:
    """The level below which a share of values [T] lie; above all of them for 1."""
    ordered = values.sort().values
    place = round(share * len(ordered))
    return (
        ordered[place] if place < len(ordered) else ordered[-1].nextafter(torch.tensor(torch.inf))
    )
