"""What it costs a token to keep only the first m of its K experts, measured on a loaded model.

The damage is the squared change of the MoE block's output over the squared norm of the residual
stream behind the layer: the next layer sees that stream normed, so it is the share that counts, of
each token by itself, and damages of different layers are comparable. On the demo a layer's mean
damage times 0.15 is what the model's own output changes by, in nats of KL divergence, give or take
a factor of two from layer to layer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.model import Layer, Model
from engine.pruning import Routing

_BATCH_TOKENS = 2048
"""Tokens whose experts' outputs are in memory at once, whole windows."""


@dataclass(frozen=True)
class LayerDamage:
    """Of one layer's tokens [T], in the order of the text.

    ``tokens`` [T, H]: the normed inputs of the MoE block; ``weights`` float32 [T, K] the sorted
    routing weights; ``damages`` float32 [T, K - 1] of keeping the first 1 to K - 1 experts.
    """

    tokens: Tensor
    weights: Tensor
    damages: Tensor


@torch.inference_mode()
def measure_damage(
    model: Model, windows: Tensor, listener: Callable[[int], None] = lambda layer: None
) -> Iterator[LayerDamage]:
    """Layer after layer, on windows [N, T] int64; nothing is pruned on the way.

    In memory are the residual stream of all tokens and one layer's inputs. ``listener`` hears the
    index of each layer before its turn.
    """
    batch = max(1, _BATCH_TOKENS // windows.shape[1])
    parts = [
        model.embed_tokens(part.to(model.embed.device)) for part in torch.split(windows, batch)
    ]
    rope = model.rope.at(0, windows.shape[1])
    for layer in model.layers:
        listener(layer.index)
        found = []
        for index, x in enumerate(parts):
            h = layer.attend(x, rope)
            normed = layer.moe_input(h)
            routing = layer.route(normed)
            outputs = _slot_outputs(layer, normed, routing)  # [T, K, H]
            mixed = outputs.sum(dim=1)
            if layer.shared is not None:
                mixed = mixed + layer.shared.forward(normed)
            parts[index] = h + mixed.view_as(h)
            size = parts[index].flatten(0, 1).float().square().sum(dim=-1, keepdim=True)
            found.append((normed, routing.weights, _changes(outputs, routing.weights) / size))
        yield LayerDamage(*(torch.cat(pieces) for pieces in zip(*found, strict=True)))


def _slot_outputs(layer: Layer, normed: Tensor, routing: Routing) -> Tensor:
    """What each chosen expert adds to the block's output, weighted, [T, K, H]."""
    slots = zip(
        torch.split(routing.ids, 1, dim=1), torch.split(routing.weights, 1, dim=1), strict=True
    )
    return torch.stack([layer.experts.forward(normed, *slot) for slot in slots], dim=1)


def _changes(outputs: Tensor, weights: Tensor) -> Tensor:
    """Squared norms of the output's change with the first 1 to K - 1 experts, which then share the
    weight of the others, float32 [T, K - 1].

    ``outputs`` [T, K, H] are weighted by ``weights`` [T, K].
    """
    whole, total = outputs.sum(dim=1), weights.sum(dim=1)
    kept, share = torch.zeros_like(whole), torch.zeros_like(total)
    changes = []
    for rank in range(weights.shape[1] - 1):
        kept, share = kept + outputs[:, rank], share + weights[:, rank]
        change = kept * (total / share).unsqueeze(1).to(kept.dtype) - whole
        changes.append(change.float().square().sum(dim=1))
    return torch.stack(changes, dim=1)
