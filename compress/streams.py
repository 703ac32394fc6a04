"""The residual streams of the calibration windows, carried from layer to layer.

Two of them: one through the original layers, on which experts are judged, and one through the
layers as quantized so far, on which Hessians and pruning thresholds are taken, because that is
what the finished model will see.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from compress.routed import CHUNK, MoeBlock
from engine.attention import AttentionStatistics, Rotation
from engine.errors import CheckpointError
from engine.model import Layer
from engine.pruning import Routing


@dataclass(frozen=True)
class Streams:
    """Residual streams [N, T, H] float32 before the next layer; layers change them in place."""

    full: Tensor
    quantized: Tensor

    @classmethod
    def embed(cls, tokens: Tensor, embedding: Tensor) -> "Streams":
        """The start of both: the embeddings [V, H] of windows [N, T]."""
        full = embedding[tokens].float()
        return cls(full, full.clone())

    def save(self, path: Path) -> None:
        """Write both to a temporary name, sync, rename."""
        partial = path.with_name(path.name + ".tmp")
        save_file({"full": self.full, "quantized": self.quantized}, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(path)

    @classmethod
    def load(cls, path: Path) -> "Streams":
        """Read back what `save` wrote. Raises CheckpointError."""
        try:
            with safe_open(path, framework="pt") as file:
                return cls(file.get_tensor("full"), file.get_tensor("quantized"))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); begin anew with --restart"
            ) from None


def chunks(stream: Tensor) -> Iterator[Tensor]:
    """Views of a few windows at a time, [n, T, H]."""
    yield from torch.split(stream, max(1, CHUNK // stream.shape[1]))


def attend(layer: Layer, stream: Tensor, rope: Rotation) -> None:
    """Move the stream, in place, past the layer's attention."""
    for part in chunks(stream):
        part.copy_(layer.attend(part, rope))


def attend_with_statistics(
    layer: Layer, stream: Tensor, rope: Rotation
) -> Iterator[tuple[Tensor, AttentionStatistics]]:
    """Like `attend`, yielding each chunk after attention and what its attention maps say."""
    for part in chunks(stream):
        moved, statistics = layer.attend_with_statistics(part, rope)
        part.copy_(moved)
        yield part, statistics


def moe_block(layer: Layer, stream: Tensor) -> MoeBlock:
    """The layer's MoE block over a stream that is past attention."""
    routings = [layer.route(layer.moe_input(part)) for part in chunks(stream)]
    routing = Routing(
        torch.cat([routing.ids for routing in routings]),
        torch.cat([routing.weights for routing in routings]),
    )
    return MoeBlock(layer, stream.flatten(0, 1), routing)


def pass_experts(layer: Layer, stream: Tensor, routing: Routing) -> None:
    """Move the stream, in place, past the layer's experts."""
    start = 0
    for part in chunks(stream):
        normed = layer.moe_input(part)  # [n * T, H]
        rows = slice(start, start + len(normed))
        mixed = layer.experts.forward(normed, routing.ids[rows], routing.weights[rows])
        part.add_(mixed.view_as(part))
        start += len(normed)
