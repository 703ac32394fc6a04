"""Routing, and online dynamic pruning of expert slots (ODP, Section 3.3 of the paper)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from engine.attention import AttentionStatistics
from engine.errors import UsageError
from engine.experts import skipped
from engine.manifest import LayerRecord

PROTECTED_SHARE = 0.02
"""Share of a prompt's tokens that keep all their experts (the paper's 2 %)."""

STRONGEST = 2.0
"""What thresholds are multiplied with at most."""


@dataclass(frozen=True)
class Routing:
    """The experts of each token, the heaviest first.

    ``ids`` int64 [T, K], ``-1 - id`` for a slot that is skipped; ``weights`` float32 [T, K],
    summing to 1 over the slots that run unless the model takes them as they are, 0 where skipped.
    """

    ids: Tensor
    weights: Tensor


def route(router_logits: Tensor, top_k: int, renormalised: bool = True) -> Routing:
    """Mixtral's routing of logits [T, E]: softmax over all, the top k, renormalised; some models
    leave out the last step."""
    probabilities = router_logits.float().softmax(dim=-1)
    weights, ids = probabilities.topk(top_k, dim=-1)  # sorted, [T, K]
    return Routing(ids, weights / weights.sum(dim=-1, keepdim=True) if renormalised else weights)


@dataclass(frozen=True, eq=False)
class OtpRule:
    """OTP's ``routers`` float32 [L, K - 1, H + K] and ``price``, see `engine.otp`. Rules with the
    very same routers are equal where their prices are."""

    routers: Tensor
    price: float

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, OtpRule)
            and self.routers is other.routers
            and self.price == other.price
        )

    def __hash__(self) -> int:
        return hash((id(self.routers), self.price))


@dataclass(frozen=True)
class DecodeRule:
    """What a pruning comes to while one token is decoded, as numbers per layer.

    The second slot runs where w1 / w0 >= ``thresholds[layer]`` or where the token's own importance
    ||t||_1 * A_jj > ``quantiles[layer]``; kept alone, the first expert's weight is 1. ``ranks`` are
    the thresholds of the third slot and of those after it, empty for a model of two or for none.
    With ``otp`` its routers decide instead. Compiled and captured steps know nothing else of
    pruning, so that they are the same in every mode.
    """

    thresholds: tuple[float, ...]
    quantiles: tuple[float, ...]
    ranks: tuple[tuple[float, ...], ...] = ()
    otp: OtpRule | None = None

    def fits(self, top_k: int) -> bool:
        """Whether it is for models of so many experts a token; what skips nothing is for all."""
        if self.otp is not None:
            return self.otp.routers.shape[1] == top_k - 1
        if not self.ranks and not any(self.thresholds):
            return True
        return top_k == 2 + (len(self.ranks[0]) if self.ranks else 0)

    def levels(self, top_k: int) -> Tensor:
        """Of each layer the thresholds of all slots but the first, and then the quantile; float32
        [L, K] on the host, for a model that it fits."""
        table = torch.zeros(len(self.thresholds), top_k)
        table[:, 0] = torch.tensor(self.thresholds)
        if self.ranks:
            table[:, 1:-1] = torch.tensor(self.ranks)
        table[:, -1] = torch.tensor(self.quantiles)
        return table

    @classmethod
    def skipping_nothing(cls, num_layers: int) -> "DecodeRule":
        """Every ratio passes a threshold of 0."""
        return cls((0.0,) * num_layers, (math.inf,) * num_layers)


class Pruning(Protocol):
    """Decides which slots to skip. It may change from one forward to the next."""

    def decode_rule(self, num_layers: int) -> DecodeRule | None:
        """What it comes to while one token is decoded; None where no such rule says it all."""

    @property
    def needs_statistics(self) -> bool:
        """Whether it asks for the attention's statistics."""

    def prune(
        self, layer: int, routing: Routing, tokens: Tensor, attention: AttentionStatistics | None
    ) -> Routing:
        """Skip slots of ``routing``.

        ``tokens`` [B * T, H] is the normed input of the MoE block; ``attention`` is None unless
        ``needs_statistics``.
        """


@dataclass(frozen=True)
class NoPruning:
    """Every selected expert runs."""

    needs_statistics: bool = False

    def decode_rule(self, num_layers: int) -> DecodeRule:
        """None that skips anything."""
        return DecodeRule.skipping_nothing(num_layers)

    def prune(
        self, layer: int, routing: Routing, tokens: Tensor, attention: AttentionStatistics | None
    ) -> Routing:
        """Return the routing as it is."""
        return routing


NO_PRUNING = NoPruning()


def check_strength(strength: float) -> None:
    """Raise UsageError for what is not from 0 to `STRONGEST`."""
    if not 0 <= strength <= STRONGEST:  # nor not a number
        raise UsageError(f"pruning has a strength from 0 to {STRONGEST:g}, not {strength:g}")


@dataclass(frozen=True)
class OdpPruning:
    """Skips a token's later experts where they weigh little, unless the token is important.

    ``thresholds[layer]``: the second slot is skipped where w1 / w0 is below it; ``ranks[layer]``,
    likewise, of the slots after it, where a model has more than two. A share of a prompt's tokens,
    at least one per sequence and chunk, keeps all; while decoding, a token keeps all whose
    ||t||_1 * A_jj is above ``quantiles[layer]``.
    """

    thresholds: tuple[float, ...]
    quantiles: tuple[float, ...]
    protected_share: float = PROTECTED_SHARE
    needs_statistics: bool = True
    ranks: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def from_records(cls, layers: Sequence[LayerRecord]) -> "OdpPruning":
        """With the thresholds and quantiles that were learned when the model was compressed."""
        return cls(
            tuple(layer.odp_threshold for layer in layers),
            tuple(layer.odp_quantile for layer in layers),
            ranks=tuple(layer.odp_ranks for layer in layers) if layers[0].odp_ranks else (),
        )

    def scaled(self, strength: float) -> "OdpPruning":
        """With all thresholds times ``strength``: 0 skips nothing, above 1 more than was learned.

        Raises UsageError for what is not from 0 to `STRONGEST`.
        """
        check_strength(strength)
        return replace(
            self,
            thresholds=tuple(strength * level for level in self.thresholds),
            ranks=tuple(tuple(strength * level for level in levels) for levels in self.ranks),
        )

    def decode_rule(self, num_layers: int) -> DecodeRule:
        """Its thresholds and quantiles."""
        return DecodeRule(self.thresholds, self.quantiles, self.ranks)

    def prune(
        self, layer: int, routing: Routing, tokens: Tensor, attention: AttentionStatistics | None
    ) -> Routing:
        """See `Pruning.prune`. Raises UsageError where there is no threshold for every slot."""
        if attention is None:
            raise ValueError("ODP needs the attention's statistics")
        levels = self.thresholds[layer], *(self.ranks[layer] if self.ranks else ())
        heavy = _heavy(routing, levels)
        return keep_slots(routing, heavy | self._protected(layer, tokens, attention)[:, None])

    def _protected(self, layer: int, tokens: Tensor, attention: AttentionStatistics) -> Tensor:
        """Which tokens keep all their experts, bool [B * T]."""
        if attention.decoding:
            return (own_importance(tokens, attention) > self.quantiles[layer]).flatten()
        scores = importance(tokens, attention)  # [B, T]
        count = max(1, int(self.protected_share * scores.shape[1]))
        chosen = scores.topk(count, dim=1).indices
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True).flatten()


@dataclass(frozen=True)
class RatioPruning:
    """Skips a token's second expert wherever it weighs little: ODP without its protection, which
    the tables set beside it."""

    thresholds: tuple[float, ...]
    needs_statistics: bool = False

    def decode_rule(self, num_layers: int) -> DecodeRule:
        """Its thresholds; nobody is important enough."""
        return DecodeRule(self.thresholds, (math.inf,) * num_layers)

    def prune(
        self, layer: int, routing: Routing, tokens: Tensor, attention: AttentionStatistics | None
    ) -> Routing:
        """See `Pruning.prune`. Raises UsageError for a model that is not top-2."""
        return keep_slots(routing, _heavy(routing, (self.thresholds[layer],)))


def _heavy(routing: Routing, levels: tuple[float, ...]) -> Tensor:
    """Which slots pass the levels of their ranks, the first always, bool [B * T, K]. Raises
    UsageError where there is no level for every slot."""
    slots = routing.ids.shape[1]
    if slots != 1 + len(levels):
        raise UsageError(
            f"ODP has learned thresholds for top-{1 + len(levels)} routing, this model selects "
            f"{slots}: compress it again, or use --pruning off"
        )
    ratios = routing.weights / routing.weights[:, :1]
    # Number by number: a tensor of them would be copied to a GPU, which waits for all before it.
    return torch.stack([ratios[:, rank] >= level for rank, level in enumerate((0, *levels))], dim=1)


def keep_slots(routing: Routing, keep: Tensor) -> Routing:
    """Skip the slots that are not to ``keep``, bool [B * T, K]; the others share their weight."""
    kept = routing.weights.where(keep, 0.0)
    total = routing.weights.sum(dim=1, keepdim=True)
    whole = keep.all(dim=1, keepdim=True)
    return Routing(
        ids=routing.ids.where(keep, skipped(routing.ids)),
        weights=routing.weights.where(whole, kept / kept.sum(dim=1, keepdim=True) * total),
    )


def importance(tokens: Tensor, attention: AttentionStatistics) -> Tensor:
    """How much later tokens rely on each token (Eq. 6), float32 [B, T].

    I_j = ||t_j||_1 * (sum over queries i >= j of A_ij) / (T - j), j from 0, with ``tokens``
    [B * T, H] the normed input of the MoE block.
    """
    length = attention.received.shape[1]
    queries = torch.arange(length, 0, -1, device=tokens.device)  # that see token j
    return _l1_norm(tokens, attention) * attention.received / queries


def own_importance(tokens: Tensor, attention: AttentionStatistics) -> Tensor:
    """The part of a token's importance that it knows itself, ||t_j||_1 * A_jj, [B, T]."""
    return _l1_norm(tokens, attention) * attention.own


def _l1_norm(tokens: Tensor, attention: AttentionStatistics) -> Tensor:
    return tokens.float().abs().sum(dim=-1).view_as(attention.own)
