"""Prunings that stand for others in tests."""

from dataclasses import dataclass

from torch import Tensor

from engine.attention import AttentionStatistics
from engine.pruning import Pruning, Routing


@dataclass(frozen=True)
class LayerByLayer:
    """A pruning that no rule tells: nothing compiled or captured takes it."""

    inner: Pruning

    @property
    def needs_statistics(self) -> bool:
        return self.inner.needs_statistics

    def decode_rule(self, num_layers: int) -> None:
        return None

    def prune(
        self, layer: int, routing: Routing, tokens: Tensor, attention: AttentionStatistics | None
    ) -> Routing:
        return self.inner.prune(layer, routing, tokens, attention)
