"""One token through the whole model and the next one drawn, without the host knowing either."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from engine.cache import KVCache, LayerCache
from engine.decoding.adjustments import Adjustments
from engine.decoding.operations import Operations
from engine.decoding.state import DecodeState, LayerRule
from engine.experts import PackedExperts, SharedExpert
from engine.kernels import Arena
from engine.linear import FloatLinear, ForeignLinear, Linear, PackedLinear, product_of
from engine.model import Layer, Model, Norm
from engine.packing import PackedMatrix, dequantize


@dataclass(frozen=True)
class _StepLayer:
    """What a step needs of one layer; ``rule`` and ``counts`` are its parts of the state's."""

    layer: Layer
    adjustments: Adjustments
    router: Tensor
    arena: Arena
    cache: LayerCache
    rule: LayerRule
    counts: Tensor


class DecodeStep:
    """The step of one model and cache. Running it twice does two tokens."""

    def __init__(
        self, model: Model, cache: KVCache, state: DecodeState, operations: Operations
    ) -> None:
        """Check `can_step` first."""
        self._model = model
        self._state = state
        self._operations = operations
        self._frequencies = model.rope.frequencies
        self._layers = [
            _StepLayer(
                layer=layer,
                adjustments=Adjustments.of(layer.attention),
                router=_weight(layer.router),
                arena=layer.experts.arena,
                cache=cache.layers[layer.index],
                rule=state.layer_rule(layer.index),
                counts=state.counts[layer.index],
            )
            for layer in model.layers
            if isinstance(layer.experts, PackedExperts)
        ]

    def run(self) -> None:
        """Feed the state's token and draw the one after it."""
        state, activations = self._state, self._state.activations
        embedding = self._model.embed.index_select(0, state.token)  # [1, H]
        activations.residual.copy_(embedding)
        moved = None
        for layer in self._layers:
            self._attend(layer, moved)
            self._mix_experts(layer)
            moved = activations.moved
        self._norm(self._model.norm, moved)
        self._multiply(self._model.head, activations.normed, activations.logits)
        state.position.add_(1)
        self._operations.draw(state)

    def _attend(self, part: _StepLayer, moved: Tensor | None) -> None:
        """The attention's output to ``moved``; what was there joins the residual stream first."""
        a, position, attention = self._state.activations, self._state.position, part.layer.attention
        self._norm(part.layer.input_norm, moved)
        products = [product_of(linear) for linear in (attention.q, attention.k, attention.v)]
        self._multiply_together(products, a.normed, (a.q, a.k, a.v))
        self._operations.rope_write(
            a.q, a.k, a.v, part.adjustments, position, self._frequencies, part.cache, a.rotated
        )
        self._operations.decode_attention(
            a.rotated, part.cache, position, attention.window, a.mixed, a.own
        )
        self._multiply(attention.o, a.mixed, a.moved)

    def _mix_experts(self, part: _StepLayer) -> None:
        """The output of all experts to ``moved``, after the attention's has joined the stream."""
        a = self._state.activations
        inputs = self._norm_for_experts(part)
        self._operations.route(
            a.normed,
            part.router,
            part.layer.renormalised,
            part.rule,
            a.own,
            a.ids,
            a.weights,
            part.counts,
        )
        self._operations.experts_decode(inputs, a.ids, a.weights, part.arena, a.moved)
        if part.layer.shared is not None:
            self._add_shared(part.layer.shared)

    def _add_shared(self, expert: SharedExpert) -> None:
        """Add the output of an expert that every token passes to ``moved``."""
        a = self._state.activations
        outs = (a.shared_gate, a.shared_up)
        self._multiply_together((expert.gate, expert.up), a.normed, outs)
        self._operations.gate(*outs, a.normed, expert.share, a.shared_inner)
        self._multiply(expert.down, a.shared_inner, a.shared_moved)
        a.moved.add_(a.shared_moved)

    def _norm_for_experts(self, part: _StepLayer) -> Tensor:
        """What the experts take; the router takes ``normed``."""
        a, norm, layout = self._state.activations, part.layer.post_norm, part.arena.layout
        if not layout.rotated:
            self._norm(norm, a.moved)
            return a.normed
        self._operations.rms_norm_turned(
            a.residual, norm.weight, norm.eps, a.normed, a.moved, a.turned, layout.group_size
        )
        return a.turned

    def _norm(self, norm: Norm, added: Tensor | None) -> None:
        a = self._state.activations
        self._operations.rms_norm(a.residual, norm.weight, norm.eps, a.normed, added)

    def _multiply_together(
        self, linears: Sequence[Linear], x: Tensor, outs: Sequence[Tensor]
    ) -> None:
        """In one launch where all are packed alike, as they are stored."""
        packed = [linear.matrix for linear in linears if isinstance(linear, PackedLinear)]
        kinds = {(matrix.shape.bits, matrix.shape.group_size) for matrix in packed}
        if len(packed) == len(linears) and len(kinds) == 1:
            self._operations.packed_matvecs(x, packed, outs)
            return
        for linear, out in zip(linears, outs, strict=True):
            self._multiply(linear, x, out)

    def _multiply(self, linear: Linear, x: Tensor, out: Tensor) -> None:
        if isinstance(linear, ForeignLinear):
            out.copy_(linear.forward(x))
            return
        held = _held(linear)
        if isinstance(held, PackedMatrix):
            self._operations.packed_matvec(x, held, out)
        else:
            self._operations.half_matvec(x, held, out)


def can_step(model: Model) -> bool:
    """Whether a model's steps can live on its device: its experts are packed."""
    return all(isinstance(layer.experts, PackedExperts) for layer in model.layers)


def _held(linear: Linear) -> PackedMatrix | Tensor:
    """The matrix that a linear layer multiplies with."""
    match linear:
        case PackedLinear(matrix=matrix):
            return matrix
        case FloatLinear(weight=weight):
            return weight
    raise TypeError(f"a decode step does not know {type(linear).__name__}")


def _weight(router: Linear) -> Tensor:
    """A router's weight [E, H]; a packed one is dequantized, a few hundred kilobytes."""
    held = _held(router)
    return dequantize(held) if isinstance(held, PackedMatrix) else held
