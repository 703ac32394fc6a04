"""Quantizes one layer on the stream that has come through the quantized layers before it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compress import pruning, streams
from compress.quantizers import Quantizer
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian, mean_hessian
from compress.routed import Expert, MoeBlock, expert_of
from engine.attention import Rotation
from engine.checkpoint import Projection
from engine.experts import FloatExperts
from engine.layout import MATRICES, Matrix
from engine.linear import FloatLinear, Linear
from engine.manifest import DENSE_BITS
from engine.model import Layer
from engine.pruning import own_importance

ExpertCodes = dict[Matrix, Codes]


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer's codes, and the threshold and quantile that ODP learned on them."""

    attention: dict[Projection, Codes]
    experts: tuple[ExpertCodes, ...]
    odp_threshold: float
    odp_quantile: float


def quantize_layer(
    layer: Layer,
    widths: tuple[int, ...],
    stream: Tensor,
    rope: Rotation,
    quantize: Quantizer,
    group_size: int,
    listener: Callable[[int], None],
) -> QuantizedLayer:
    """Quantize expert i of a float layer to ``widths[i]`` bits and its attention to 4.

    ``stream`` [N, T, H], what the layer's input is behind the quantized layers before it, is
    moved, in place, past the quantized layer. ``layer`` is used up. ``listener`` hears the index
    of each expert before its turn.
    """
    experts = layer.experts
    if not isinstance(experts, FloatExperts):
        raise TypeError("only layers in floating point can be quantized")
    attention = _quantize_attention(layer, stream, rope, quantize, group_size)
    statistics = [
        own_importance(layer.moe_input(part), seen)
        for part, seen in streams.attend_with_statistics(layer, stream, rope)
    ]
    block = streams.moe_block(layer, stream)
    codes = []
    for index, bits in enumerate(widths):
        listener(index)
        expert = expert_of(experts, index)
        codes.append(_quantize_expert(block, index, expert, bits, quantize, group_size))
    layer.experts = _dequantize(codes)
    streams.pass_experts(layer, stream, block.routing)
    return QuantizedLayer(
        attention=attention,
        experts=tuple(codes),
        odp_threshold=pruning.ratio_threshold(block.routing),
        odp_quantile=pruning.protection_quantile(statistics),
    )


class _Recorder:
    """A linear layer that collects the Hessian of what comes in."""

    def __init__(self, linear: Linear, width: int) -> None:
        self._linear = linear
        self._total, self._rows = torch.zeros(width, width), 0

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x [..., I], adding it to the Hessian."""
        rows = x.flatten(0, -2)
        self._total.addmm_(rows.T, rows)
        self._rows += len(rows)
        return self._linear.forward(x)

    def tensors(self) -> Iterator[Tensor]:
        """The layer's."""
        return self._linear.tensors()

    def hessian(self) -> Hessian:
        """The mean of x x^T so far."""
        return Hessian(self._total / self._rows)


def _quantize_attention(
    layer: Layer, stream: Tensor, rope: Rotation, quantize: Quantizer, group_size: int
) -> dict[Projection, Codes]:
    """Quantize q, k, v and then o for the stream [N, T, H] before the layer.

    The layer's projections are exchanged for what the codes stand for.
    """
    codes: dict[Projection, Codes] = {}
    width = stream.shape[-1]
    inputs = (layer.input_norm.forward(part).flatten(0, 1) for part in streams.chunks(stream))
    hessian = mean_hessian(inputs, width)
    attention = layer.attention
    codes["q"] = _one(quantize, _weight(attention.q), hessian, DENSE_BITS, group_size)
    codes["k"] = _one(quantize, _weight(attention.k), hessian, DENSE_BITS, group_size)
    codes["v"] = _one(quantize, _weight(attention.v), hessian, DENSE_BITS, group_size)
    q, k, v = (FloatLinear(codes[name].dequantize()) for name in ("q", "k", "v"))
    output = _weight(attention.o)
    recorder = _Recorder(attention.o, output.shape[1])
    layer.attention = replace(attention, q=q, k=k, v=v, o=recorder)
    for part in streams.chunks(stream):
        layer.attend(part, rope)
    codes["o"] = _one(quantize, output, recorder.hessian(), DENSE_BITS, group_size)
    layer.attention = replace(layer.attention, o=FloatLinear(codes["o"].dequantize()))
    return codes


def _one(
    quantize: Quantizer, weights: Tensor, hessian: Hessian, bits: int, group_size: int
) -> Codes:
    (codes,) = quantize(weights, hessian, (bits,), group_size)
    return codes


def _weight(linear: Linear) -> Tensor:
    (weight,) = linear.tensors()
    return weight


def _quantize_expert(
    block: MoeBlock, index: int, expert: Expert, bits: int, quantize: Quantizer, group_size: int
) -> ExpertCodes:
    """Gate and up, which share their input and so their Hessian; then down behind them."""
    hidden, inner = expert.gate_up.shape[1], expert.down.shape[1]
    hessian = mean_hessian(
        (x * root for x, root in block.calibration_inputs(index, hidden)), hidden
    )
    gate_up = _one(quantize, expert.gate_up, hessian, bits, group_size)
    rounded = Expert(gate_up.dequantize(), expert.down)
    inputs = (rounded.inner(x) * root for x, root in block.calibration_inputs(index, inner))
    down = _one(quantize, expert.down, mean_hessian(inputs, inner), bits, group_size)
    gate, up = gate_up.split_rows(inner)
    return {"gate": gate, "up": up, "down": down}


def _dequantize(experts: Sequence[ExpertCodes]) -> FloatExperts:
    """The experts that the codes stand for."""
    gate, up, down = (
        torch.stack([codes[name].dequantize() for codes in experts]) for name in MATRICES
    )
    return FloatExperts(gate, up, down)
