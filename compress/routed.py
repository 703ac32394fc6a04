"""One layer's MoE block as calibration sees it: which tokens reach which expert."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.experts import FloatExperts
from engine.model import Layer
from engine.pruning import Routing

CHUNK = 8192
"""Tokens whose activations are in memory at once."""

WEIGHT_POWER = 1.0
"""p below. The block's squared error counts a token by w^2; p = 1 did better than 0 at every width,
better than 2 at 1 bit, and as well at 2 bits."""

TOKENS_PER_INPUT = 2
"""An expert's Hessian counts as well estimated from this many tokens per input on."""


@dataclass(frozen=True)
class Expert:
    """One expert: ``gate_up`` [2 I, H], gate above up; ``down`` [H, I]."""

    gate_up: Tensor
    down: Tensor

    def inner(self, x: Tensor) -> Tensor:
        """The input of ``down``: silu(gate x) * up x, [T, H] to [T, I]."""
        gate, up = F.linear(x, self.gate_up).chunk(2, dim=-1)
        return F.silu(gate) * up

    def forward(self, x: Tensor) -> Tensor:
        """The expert's output, [T, H] to [T, H]."""
        return F.linear(self.inner(x), self.down)


def expert_of(experts: FloatExperts, index: int) -> Expert:
    """One expert out of a layer's, in float32."""
    gate_up = torch.cat([experts.gate[index], experts.up[index]])
    return Expert(gate_up.float(), experts.down[index].float())


@dataclass(frozen=True)
class MoeBlock:
    """The input of a layer's MoE block over all calibration tokens.

    ``hidden`` [T, H] is the residual stream after attention; inputs are normed when asked for, so
    that they are never all in memory a second time.
    """

    layer: Layer
    hidden: Tensor
    routing: Routing

    def routed(self, expert: int) -> tuple[Tensor, Tensor]:
        """Indices [n] of the tokens that chose the expert, and its routing weights there [n]."""
        token, slot = (self.routing.ids == expert).nonzero(as_tuple=True)
        return token, self.routing.weights[token, slot]

    def inputs(self, tokens: Tensor) -> Iterator[Tensor]:
        """Normed inputs [t, H] of the tokens with these indices, a chunk at a time."""
        for part in torch.split(tokens, CHUNK):
            yield self.layer.post_norm.forward(self.hidden[part])

    def calibration_inputs(self, expert: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
        """What an expert's Hessian over ``width`` inputs is made from, a chunk at a time: inputs
        [t, H], and the square root of what each counts, [t, 1].

        These are the n tokens routed to it, each counting w^p / mean(w^p): an error in a token's
        output reaches the stream multiplied by its routing weight w. Below N = 2 * width tokens
        the Hessian is shrunk towards the one that all tokens of the layer would give,

            H = (n / N) * H_routed + (1 - n / N) * H_layer,

        for which tokens spread evenly over the layer are added, so that the mean over all that is
        returned is this H. An expert that saw no token gets H_layer.
        """
        routed, weights = self.routed(expert)
        roots = _roots(weights)
        start = 0
        for x in self.inputs(routed):
            yield x, roots[start : start + len(x)]
            start += len(x)
        missing = TOKENS_PER_INPUT * width - len(routed)
        if missing > 0:
            spread = torch.linspace(0, len(self.hidden) - 1, missing, dtype=torch.float64)
            for x in self.inputs(spread.round().long()):
                yield x, x.new_ones(len(x), 1)


def _roots(weights: Tensor) -> Tensor:
    """Square roots of what tokens with these routing weights [n] count, [n, 1], mean square 1."""
    power = weights**WEIGHT_POWER
    return (power / power.mean()).sqrt().unsqueeze(1)
