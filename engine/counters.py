"""Counts which experts ran. The gauges are computed from these counts and from nothing else."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from engine.experts import skipped
from engine.model import Model
from engine.pruning import Routing

Slots = tuple[tuple[int, ...], ...]
"""A count for each layer and expert."""


@dataclass(frozen=True)
class ActivationCosts:
    """What a token passes through: parameters and bytes outside the experts, and of each expert.

    Outside the experts a token passes attention, routers, norms, the head, and its own row of the
    embeddings. ``expert_bytes[layer][expert]`` differ with the experts' widths.
    """

    dense_params: int
    dense_bytes: int
    expert_params: int
    expert_bytes: tuple[tuple[int, ...], ...]
    total_params: int
    top_k: int

    @classmethod
    def of(cls, model: Model) -> "ActivationCosts":
        """Read the costs off a loaded model."""
        config = model.config
        outside = config.vocab_size * config.hidden_size + 2 * config.hidden_size
        tensors = [model.embed[0], model.norm.weight, *model.head.tensors()]
        for layer in model.layers:
            tensors += layer.dense_tensors()
        return cls(
            dense_params=config.num_layers * config.dense_weights + outside,
            dense_bytes=sum(tensor.nbytes for tensor in tensors),
            expert_params=config.expert_weights,
            expert_bytes=tuple(layer.experts.expert_bytes() for layer in model.layers),
            total_params=config.total_weights,
            top_k=config.top_k,
        )


@dataclass(frozen=True)
class Activity:
    """What ran. ``runs[layer][expert]``: slots that ran; ``skips[layer][expert]``: slots pruned."""

    costs: ActivationCosts
    runs: Slots
    skips: Slots

    @cached_property
    def skipped(self) -> tuple[int, ...]:
        """Slots pruned per layer."""
        return tuple(map(sum, self.skips))

    @cached_property
    def routed(self) -> tuple[int, ...]:
        """Slots per layer, skipped ones included."""
        return tuple(sum(runs) + skip for runs, skip in zip(self.runs, self.skipped, strict=True))

    @property
    def tokens(self) -> int:
        """Tokens that went through the model."""
        return self.routed[0] // self.costs.top_k

    @property
    def prune_ratio(self) -> float:
        """Skipped slots / routed slots; 0 when nothing ran."""
        return sum(self.skipped) / max(1, sum(self.routed))

    @property
    def prune_ratio_layers(self) -> tuple[float, ...]:
        """The prune ratio of each layer."""
        return tuple(
            skip / max(1, slots) for skip, slots in zip(self.skipped, self.routed, strict=True)
        )

    @property
    def activated_params(self) -> float:
        """Parameters that a token passed through, on average; 0 when nothing ran."""
        if not self.tokens:
            return 0.0
        slots = sum(map(sum, self.runs))
        return self.costs.dense_params + slots * self.costs.expert_params / self.tokens

    @property
    def activated_bytes(self) -> float:
        """Bytes of those parameters as they are stored; experts of different widths differ."""
        if not self.tokens:
            return 0.0
        expert_bytes = sum(
            count * size
            for runs, sizes in zip(self.runs, self.costs.expert_bytes, strict=True)
            for count, size in zip(runs, sizes, strict=True)
        )
        return self.costs.dense_bytes + expert_bytes / self.tokens

    @property
    def activated_fraction(self) -> float:
        """Activated parameters / all parameters."""
        return self.activated_params / self.costs.total_params

    def since(self, earlier: "Activity") -> "Activity":
        """What ran after ``earlier`` was read."""
        return Activity(
            self.costs, _less(self.runs, earlier.runs), _less(self.skips, earlier.skips)
        )


def _less(now: Slots, then: Slots) -> Slots:
    return tuple(
        tuple(late - early for late, early in zip(*rows, strict=True))
        for rows in zip(now, then, strict=True)
    )


class Counters:
    """Counts slots on the model's device; nothing waits for the device until `read`."""

    def __init__(self, model: Model) -> None:
        self._costs = ActivationCosts.of(model)
        self._experts = model.config.num_experts
        # [L, 2 * E]: slots that run, and then those that are pruned, of each expert.
        self._counts = torch.zeros(
            model.config.num_layers, 2 * self._experts, dtype=torch.int64, device=model.embed.device
        )
        self._recorded = False
        self._known = np.zeros(self._counts.shape, dtype=np.int64)
        self._added = np.zeros(self._counts.shape, dtype=np.int64)

    def record(self, layer: int, routing: Routing) -> None:
        """Count the slots of one layer's routing, after pruning."""
        ids = routing.ids.flatten()
        slots = ids.where(ids >= 0, self._experts + skipped(ids))
        self._counts[layer].index_add_(0, slots, torch.ones_like(slots))
        self._recorded = True

    def add(self, counts: NDArray[np.int64]) -> None:
        """Add what a step has counted by itself, [L, 2 * E], see `RoutingCounter`."""
        self._added += counts

    def read(self) -> Activity:
        """All counts so far. Waits for the device if it has recorded anything since the last time:
        call it a few times a second, not per token."""
        if self._recorded:
            self._known = self._counts.numpy(force=True).copy()
            self._recorded = False
        counts = (self._known + self._added).tolist()
        return Activity(
            self._costs,
            runs=tuple(tuple(row[: self._experts]) for row in counts),
            skips=tuple(tuple(row[self._experts :]) for row in counts),
        )
