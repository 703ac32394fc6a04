"""Routing, and online dynamic pruning of expert slots (ODP, Section 3.3 of the paper)."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from engine.attention import AttentionStatistics

PROTECTED_SHARE = 0.02
"""Share of a prompt's tokens that keep all their experts (the paper's 2 %)."""


@dataclass(frozen=True)
class Routing:
    """The experts of each token, the heaviest first.

    ``ids`` int64 [T, K], -1 for a slot that is skipped; ``weights`` float32 [T, K], summing to 1
    over the slots that run, 0 where skipped.
    """

    ids: Tensor
    weights: Tensor


def route(router_logits: Tensor, top_k: int) -> Routing:
    """Mixtral's routing of logits [T, E]: softmax over all, the top k, renormalised."""
    probabilities = router_logits.float().softmax(dim=-1)
    weights, ids = probabilities.topk(top_k, dim=-1)  # sorted, [T, K]
    return Routing(ids, weights / weights.sum(dim=-1, keepdim=True))


class Pruning(Protocol):
    """Decides which slots to skip. It may change from one forward to the next."""

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

    def prune(
        self, layer: int, routing: Routing, tokens: Tensor, attention: AttentionStatistics | None
    ) -> Routing:
        """Return the routing as it is."""
        return routing


NO_PRUNING = NoPruning()
