"""One layer's MoE block as calibration sees it: which tokens reach which expert."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.projection import TOKENS_PER_INPUT, chunk_of, others_for
from compress.quantizers.products import product_dtype
from compress.streams import Stream
from engine.experts import FloatExperts, SharedExpert
from engine.model import Layer
from engine.pruning import Routing

WEIGHT_POWER = 1.0
"""p below. The block's squared error counts a token by w^2; p = 1 did better than 0 at every width,
better than 2 at 1 bit, and as well at 2 bits."""


@dataclass(frozen=True)
class Expert:
    """One expert: ``gate_up`` [2 I, H], gate above up; ``down`` [H, I].

    Both are in the type that its products run in; what comes and what goes is float32.
    """

    gate_up: Tensor
    down: Tensor

    @classmethod
    def of(cls, gate: Tensor, up: Tensor, down: Tensor, device: torch.device | str) -> "Expert":
        """An expert on a device: in float32, or as stored where that is bfloat16 and products in
        it are faster; in neither case is a weight rounded."""
        fast = product_dtype(torch.empty(0, device=device), gate.shape[1])
        dtype = torch.bfloat16 if gate.dtype == fast == torch.bfloat16 else torch.float32
        gate_up = torch.empty(2 * len(gate), gate.shape[1], dtype=dtype, device=device)
        gate_up[: len(gate)] = gate
        gate_up[len(gate) :] = up
        return cls(gate_up, down.to(device, dtype))

    def replaced(self, gate_up: Tensor | None = None, down: Tensor | None = None) -> "Expert":
        """With other weights, brought to this one's type."""
        dtype = self.gate_up.dtype
        return Expert(
            self.gate_up if gate_up is None else gate_up.to(dtype),
            self.down if down is None else down.to(dtype),
        )

    def inner(self, x: Tensor) -> Tensor:
        """The input of ``down``: silu(gate x) * up x, [T, H] to [T, I]."""
        return self._inner(x).float()

    def forward(self, x: Tensor) -> Tensor:
        """The expert's output, [T, H] to [T, H]."""
        return F.linear(self._inner(x), self.down).float()

    def _inner(self, x: Tensor) -> Tensor:
        gate, up = F.linear(x.to(self.gate_up.dtype), self.gate_up).chunk(2, dim=-1)
        return F.silu(gate).mul_(up)


def expert_of(experts: FloatExperts, index: int) -> Expert:
    """One expert out of a layer's."""
    gate, up, down = (matrix[index] for matrix in experts.tensors())
    return Expert.of(gate, up, down, gate.device)


@dataclass(frozen=True)
class StreamedExperts:
    """A layer's experts, each read when it is its turn, so that one at most is in memory."""

    count: int
    read: Callable[[int], Expert]

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """See `engine.experts.Experts.forward`."""
        out = torch.zeros_like(x)
        for index in range(self.count):
            token, slot = (ids == index).nonzero(as_tuple=True)
            if len(token):
                y = self.read(index).forward(x[token])
                out.index_add_(0, token, y * weights[token, slot, None].to(y.dtype))
        return out

    def tensors(self) -> Iterator[Tensor]:
        """None are held."""
        yield from ()

    def expert_bytes(self) -> tuple[int, ...]:
        """None are held."""
        return (0,) * self.count


@dataclass(frozen=True)
class MoeBlock:
    """The input of a layer's MoE block over all calibration tokens.

    ``hidden`` is the residual stream after attention; inputs are normed when asked for, so that
    they are never all in memory a second time. ``routing`` [T, K] lies on the stream's device.
    """

    layer: Layer
    hidden: Stream
    routing: Routing

    @classmethod
    def of(cls, layer: Layer, hidden: Stream) -> "MoeBlock":
        """The block over a stream that is past the layer's attention."""
        routings = [layer.route(layer.moe_input(hidden.read(part))) for part in hidden.parts()]
        ids = torch.cat([routing.ids for routing in routings])
        weights = torch.cat([routing.weights for routing in routings])
        return cls(layer, hidden, Routing(ids, weights))

    def routed(self, expert: int) -> tuple[Tensor, Tensor]:
        """Indices [n] of the tokens that chose the expert, and its routing weights there [n]."""
        token, slot = (self.routing.ids == expert).nonzero(as_tuple=True)
        return token, self.routing.weights[token, slot]

    def every_token(self) -> Tensor:
        """The indices of all tokens."""
        return torch.arange(len(self.routing.ids), device=self.routing.ids.device)

    def add_shared(self, shared: SharedExpert | None, mixed: Stream) -> None:
        """Add what an expert that every token passes puts out to ``mixed``; nothing for none."""
        if shared is None:
            return
        every, (size, _) = self.every_token(), next(shared.gate.tensors()).shape
        for part, x in self.inputs(every, chunk_of(size)):
            mixed.add_rows(every[part], shared.forward(x))

    def inputs(self, tokens: Tensor, chunk: int) -> Iterator[tuple[slice, Tensor]]:
        """Normed inputs [t, H] of the tokens with these indices, ``chunk`` at a time, and where
        among them they lie."""
        for start in range(0, len(tokens), chunk):
            part = slice(start, min(start + chunk, len(tokens)))
            yield part, self.layer.post_norm.forward(self.hidden.rows(tokens[part]))

    def calibration_tokens(self, expert: int, width: int) -> tuple[Tensor, Tensor]:
        """What an expert's Hessian over ``width`` inputs is made from: the indices of m tokens
        [m], and what each counts, [m], 1 in the mean.

        These are the n tokens routed to it, each counting w^p / mean(w^p): an error in a token's
        output reaches the stream multiplied by its routing weight w. Below N = 2 * width tokens
        the Hessian is shrunk towards the one that all tokens of the layer would give,

            H = (n / N) * H_routed + (1 - n / N) * H_layer,

        for which tokens spread evenly over the layer are added, as many as its own, at least
        1024, at most N - n. An expert that saw no token gets H_layer.
        """
        routed, weights = self.routed(expert)
        power = weights**WEIGHT_POWER
        counts = power / power.mean()
        wanted, total = TOKENS_PER_INPUT * width, len(self.routing.ids)
        others = others_for(len(routed), width, total)
        if not others:
            return routed, counts
        spread = torch.linspace(0, total - 1, others, dtype=torch.float64).round().long()
        each = counts.new_full((others,), (wanted - len(routed)) / others)
        scale = (len(routed) + others) / wanted
        return torch.cat([routed, spread.to(routed)]), torch.cat([counts, each]) * scale
