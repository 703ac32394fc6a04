"""What a reply costs: counted where the experts are chosen, read by the gauges.

Counting is a pruning that changes nothing: `Counters` stands around the real one, sees every
routing of every layer as the experts will run it, and adds it up on the device. Nothing is
estimated a second time.

A token's *activated parameters* are all that its forward pass multiplies with: attention, routers
and norms of all layers, the experts that ran, the final norm and the head, and its own row of the
embedding (which is a row of the head where the two are tied).
"""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.attention import AttentionStatistics
from engine.model import Model
from engine.pruning import Pruning, Routing

_RECENT_STEPS = 16
"""Decode steps that the prune ratio "now" looks back on."""


@dataclass(frozen=True)
class Costs:
    """Parameters and bytes of a model's parts: what every token passes, and each expert.

    ``expert_bytes`` int64 [L, E], on the CPU.
    """

    total_params: int
    dense_params: int
    dense_bytes: int
    expert_params: int
    expert_bytes: Tensor

    @classmethod
    def of(cls, model: Model) -> "Costs":
        """Count a model's own tensors."""
        config = model.config
        layer_dense = (
            config.attention_weights + (config.num_experts + 2) * config.hidden_size
        )  # attention, router, two norms
        ends = config.hidden_size * (config.vocab_size + 1)  # head, final norm
        row = 0 if config.tie_embeddings else config.hidden_size
        experts = [layer.experts for layer in model.layers]
        held = model.memory_bytes() - sum(t.nbytes for e in experts for t in e.tensors())
        unread_rows = 0 if config.tie_embeddings else config.vocab_size - 1
        row_bytes = config.hidden_size * model.embed.element_size()
        return cls(
            total_params=config.total_weights,
            dense_params=config.num_layers * layer_dense + ends + row,
            dense_bytes=held - unread_rows * row_bytes,
            expert_params=config.expert_weights,
            expert_bytes=torch.tensor([e.expert_bytes() for e in experts]),
        )


@dataclass(frozen=True)
class Activity:
    """What was counted, on the CPU: ``runs`` of each expert int64 [L, E], ``skipped`` slots
    int64 [L], and the tokens that passed."""

    runs: Tensor
    skipped: Tensor
    tokens: int

    def params_per_token(self, costs: Costs) -> int:
        """Mean activated parameters of a token."""
        if not self.tokens:
            return 0
        return costs.dense_params + round(int(self.runs.sum()) / self.tokens * costs.expert_params)

    def bytes_per_token(self, costs: Costs) -> int:
        """Mean bytes of weights that a token's forward pass needs."""
        if not self.tokens:
            return 0
        return costs.dense_bytes + round(int((self.runs * costs.expert_bytes).sum()) / self.tokens)

    @property
    def prune_ratio(self) -> float:
        """Skipped expert slots / routed slots."""
        skipped = int(self.skipped.sum())
        return skipped / max(1, skipped + int(self.runs.sum()))

    @property
    def prune_ratio_layers(self) -> tuple[float, ...]:
        """The same in each layer."""
        routed = self.runs.sum(dim=1) + self.skipped
        ratios: list[float] = (self.skipped / routed.clamp(min=1)).tolist()
        return tuple(ratios)


class Counters:
    """Counts every routing on its way from the pruning to the experts."""

    def __init__(self, model: Model) -> None:
        config = model.config
        size = (config.num_layers, config.num_experts + 1)  # column 0: skipped slots
        self._counts = torch.zeros(size, dtype=torch.int64, device=model.embed.device)
        self._tokens = 0
        self._last_step = 0
        self._recent: deque[Tensor] = deque([self._counts.clone()], maxlen=_RECENT_STEPS + 1)

    def around(self, pruning: Pruning) -> Pruning:
        """A pruning that decides like ``pruning`` and is counted here."""
        return _Counted(pruning, self._counts)

    def step(self, tokens: int) -> None:
        """Note the end of a forward pass over ``tokens`` tokens."""
        if tokens > 1 or self._last_step > 1:
            # Among single tokens a chunk of a prompt would count for hundreds of them.
            while len(self._recent) > 1:
                self._recent.popleft()
        self._recent.append(self._counts.clone())
        self._tokens += tokens
        self._last_step = tokens

    def activity(self) -> Activity:
        """Everything counted so far."""
        counts = self._counts.cpu()
        return Activity(counts[:, 1:], counts[:, 0], self._tokens)

    def recent_prune_ratio(self) -> float:
        """Skipped / routed slots over the last few forward passes."""
        recent = (self._recent[-1] - self._recent[0]).cpu()
        return int(recent[:, 0].sum()) / max(1, int(recent.sum()))


@dataclass(frozen=True)
class _Counted:
    inner: Pruning
    counts: Tensor

    @property
    def needs_statistics(self) -> bool:
        return self.inner.needs_statistics

    def prune(
        self, layer: int, routing: Routing, tokens: Tensor, attention: AttentionStatistics | None
    ) -> Routing:
        decided = self.inner.prune(layer, routing, tokens, attention)
        columns = decided.ids.flatten() + 1  # a skipped slot is -1
        self.counts[layer].index_add_(0, columns, torch.ones_like(columns))
        return decided
