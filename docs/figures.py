"""What the pictures of the method show, measured on the demo: no drawing in here."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor

from assets import DEMO_DIR
from compress.allocation import (
    LayerScores,
    allocate_model,
    default_exponents,
    plan_model_budget,
)
from compress.calibration import CalibrationSize, demo_windows
from engine.attention import AttentionStatistics
from engine.chat import prompt_ids
from engine.config import ModelConfig
from engine.hadamard import rotate
from engine.manifest import Manifest
from engine.model import Model
from engine.original import OriginalFolder, original_expert
from engine.protocol import Message
from engine.pruning import NO_PRUNING, OdpPruning, Pruning, Routing
from engine.tokenizer import Tokenizer

Fate = Literal["both", "one", "protected"]
"""A token runs both its experts, its first alone, or both because it is protected."""

HELD_OUT = CalibrationSize(samples=16, window=512)
BINS = 40
REACH = 4.0
# The replies are those that the demo gives.
TALK = (
    Message("user", "Please remember that my lucky number is 4711."),
    Message("assistant", "I will remember that your lucky number is 4711."),
    Message("user", "Where does Karin live?"),
    Message("assistant", "Karin lives in **Dunmore**."),
    Message("user", "What is my lucky number?"),
)


@dataclass(frozen=True)
class Allocation:
    """What the program gives each expert: ``widths[layer][expert]`` at a mean of ``bits``."""

    bits: float
    widths: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Errors:
    """Of one layer: ``errors[expert][j]``, eps at 1 + j bits, and the widths that were chosen."""

    layer: int
    errors: tuple[tuple[float, ...], ...]
    chosen: tuple[int, ...]


@dataclass(frozen=True)
class Ratios:
    """Of one layer: shares of tokens by w1 / w0, in equal bins from 0 to 1, the threshold that was
    learned, and the share of tokens below it."""

    layer: int
    shares: tuple[float, ...]
    threshold: float
    below: float


@dataclass(frozen=True)
class Token:
    """A token's text, and what becomes of it in each layer."""

    text: str
    fates: tuple[Fate, ...]


@dataclass(frozen=True)
class Weights:
    """Shares of weights by their size over the root mean square of their group, in equal bins from
    -`REACH` to `REACH`, and what one bit a weight, its sign, misses of their energy."""

    shares: tuple[float, ...]
    missed: float


def allocations(
    manifest: Manifest, config: ModelConfig, widths: Sequence[float]
) -> Iterator[Allocation]:
    """One program over all layers on the scores of a finished build, at other means, too."""
    scores = [LayerScores.of(record) for record in manifest.layers]
    size, rotated = manifest.recipe.group_size, manifest.recipe.rotated
    for bits in widths:
        budget = plan_model_budget("global", bits, config, size, rotated=rotated)
        chosen = allocate_model("global", scores, budget, default_exponents("global"))
        yield Allocation(bits, chosen)


def errors(manifest: Manifest, layer: int) -> Errors:
    """What each width would cost each expert of a layer."""
    record = manifest.layers[layer]
    return Errors(layer, record.errors, record.expert_bits)


# --- pruning --------------------------------------------------------------------------------------


@dataclass
class Watched:
    """A pruning that writes down, layer by layer, what it was given and what it made of that, and
    what ``other`` would have made."""

    pruning: Pruning
    other: Pruning = NO_PRUNING
    given: list[Routing] = field(default_factory=list)
    made: list[Routing] = field(default_factory=list)
    made_by_other: list[Routing] = field(default_factory=list)

    @property
    def needs_statistics(self) -> bool:
        """As the one that is watched."""
        return self.pruning.needs_statistics

    def decode_rule(self, num_layers: int) -> None:
        """None: a compiled step would not be watched."""

    def prune(
        self, layer: int, routing: Routing, tokens: Tensor, attention: AttentionStatistics | None
    ) -> Routing:
        """See `Pruning.prune`."""
        self.given.append(routing)
        self.made.append(self.pruning.prune(layer, routing, tokens, attention))
        self.made_by_other.append(self.other.prune(layer, routing, tokens, attention))
        return self.made[-1]


def ratios(model: Model, manifest: Manifest, layer: int) -> Ratios:
    """How the second expert's weight compares with the first's, on held-out text."""
    watched = Watched(NO_PRUNING)
    model.forward(demo_windows("heldout", HELD_OUT, 0), pruning=watched)
    weights = watched.given[layer].weights  # [T, 2]
    ratio = weights[:, 1] / weights[:, 0]
    threshold = manifest.layers[layer].odp_threshold
    below = float((ratio < threshold).float().mean())
    return Ratios(layer, _shares(ratio, 0.0, 1.0), threshold, below)


def fates(model: Model, folder: Path, manifest: Manifest) -> list[Token]:
    """A real prompt of three turns, and which of its tokens keep which experts."""
    ids = prompt_ids(Tokenizer.from_folder(folder), TALK)
    odp = OdpPruning.from_records(manifest.layers)
    # Where no ratio is high enough, only who is protected keeps both.
    guard = replace(odp, thresholds=(math.inf,) * len(odp.thresholds))
    watched = Watched(odp, guard)
    model.forward(torch.tensor([ids]), pruning=watched)
    by_layer = [
        _fates(made, guarded)
        for made, guarded in zip(watched.made, watched.made_by_other, strict=True)
    ]
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    texts = (str(backend.id_to_token(token)) for token in ids)
    return [Token(text, tuple(each)) for text, *each in zip(texts, *by_layer, strict=True)]


def _fates(made: Routing, guarded: Routing) -> list[Fate]:
    """Of each token in one layer."""
    kept, protected = ((routing.ids[:, 1] >= 0).tolist() for routing in (made, guarded))
    return [
        "protected" if safe else "both" if both else "one"
        for both, safe in zip(kept, protected, strict=True)
    ]


# --- turning --------------------------------------------------------------------------------------


def turned(layer: int, expert: int, group_size: int) -> tuple[Weights, Weights]:
    """One expert's matrices as they are, and turned group by group."""
    config, read = ModelConfig.from_folder(DEMO_DIR), OriginalFolder(DEMO_DIR).get
    matrices = original_expert(config, layer, expert, read).values()
    groups = torch.cat([matrix.float().reshape(-1, group_size) for matrix in matrices])
    return _weights(groups), _weights(rotate(groups, group_size))


def _weights(groups: Tensor) -> Weights:
    """``groups`` [G, size] of weights."""
    scaled = groups / groups.square().mean(dim=1, keepdim=True).sqrt()
    # The best magnitude for signs alone is the mean size, and misses 1 - mean(|x|)^2 / mean(x^2).
    missed = 1 - scaled.abs().mean(dim=1).square().mean()
    return Weights(_shares(scaled.flatten(), -REACH, REACH), float(missed))


def _shares(values: Tensor, low: float, high: float) -> tuple[float, ...]:
    counts = values.clamp(low, high).histc(BINS, low, high)
    return tuple((counts / counts.sum()).tolist())
