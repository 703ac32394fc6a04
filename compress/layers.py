"""Quantizes one layer on the stream that has come through the quantized layers before it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from compress import pruning, streams
from compress.data_free import ODP_QUANTILE, ODP_THRESHOLD, even_hessian
from compress.expert_rounding import ExpertRounding
from compress.host_memory import give_back
from compress.projection import chunk_of
from compress.quantizers import Quantizer
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian, HessianSum
from compress.routed import MoeBlock, StreamedExperts
from compress.streams import Stream, StreamStore
from engine.attention import Rotation
from engine.checkpoint import PROJECTIONS, Projection
from engine.experts import SharedExpert
from engine.layout import Matrix
from engine.linear import FloatLinear, Linear, product_of, with_product
from engine.manifest import DENSE_BITS, FULL_BITS
from engine.model import Layer, Norm
from engine.packing import PackedMatrix, pack
from engine.pruning import own_importance

PackedExpert = dict[Matrix, PackedMatrix]


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer's packed matrices, and the thresholds and quantile that ODP learned on them.

    ``shared`` is empty where the layer has no expert that every token passes.
    """

    attention: dict[Projection, PackedMatrix]
    experts: tuple[PackedExpert, ...]
    odp_thresholds: tuple[float, ...]
    odp_quantile: float
    router: PackedMatrix | None = None
    shared: PackedExpert = field(default_factory=dict)


def quantize_layer(
    layer: Layer,
    widths: Sequence[int],
    store: StreamStore,
    stream: Stream,
    rope: Rotation,
    quantize: Quantizer,
    group_size: int,
    router_bits: int,
    listener: Callable[[int], None],
) -> tuple[QuantizedLayer, Stream]:
    """Quantize expert i of a layer as read from a source to ``widths[i]`` bits, its attention and
    a shared expert to 4, its router to ``router_bits`` unless these are 16. Tokens then go where
    that router sends them.

    ``stream`` is what the layer's input is behind the quantized layers before it; returns it past
    the quantized layer too. ``layer`` is used up. ``listener`` hears the index of each expert
    before its turn.
    """
    experts = layer.experts
    if not isinstance(experts, StreamedExperts):
        raise TypeError("only layers as read from a source can be quantized")
    attention = _quantize_attention(layer, stream, rope, quantize, group_size)
    hidden = store.after(stream, layer.index + 1)
    statistics = [
        own_importance(layer.moe_input(part), seen).cpu()
        for part, seen in streams.attend_with_statistics(layer, stream, hidden, rope)
    ]
    router = None
    if router_bits != FULL_BITS:
        router = _quantize_router(layer, hidden, quantize, router_bits, group_size)
    block, mixed = MoeBlock.of(layer, hidden), store.scratch()
    packed = []
    for index, bits in enumerate(widths):
        listener(index)
        give_back()
        packed.append(_quantize_expert(block, index, experts, mixed, bits, quantize, group_size))
    shared = _quantize_shared(block, mixed, quantize, group_size)
    hidden.add(mixed)
    quantized = QuantizedLayer(
        attention=attention,
        experts=tuple(packed),
        odp_thresholds=pruning.rank_thresholds(block.routing),
        odp_quantile=pruning.protection_quantile(statistics),
        router=router,
        shared=shared,
    )
    return quantized, hidden


def quantize_data_free(
    layer: Layer,
    widths: Sequence[int],
    quantize: Quantizer,
    group_size: int,
    router_bits: int,
    listener: Callable[[int], None],
) -> QuantizedLayer:
    """Like `quantize_layer`, by a quantizer that looks at the weights alone. ODP learns nothing."""
    experts = layer.experts
    if not isinstance(experts, StreamedExperts):
        raise TypeError("only layers as read from a source can be quantized")

    def codes(weights: Tensor, bits: int) -> Codes:
        hessian = even_hessian(weights.shape[1], weights.device)
        (found,) = quantize(weights, hessian, (bits,), group_size)
        return found

    router = None
    if router_bits != FULL_BITS:
        router = pack_codes(codes(_weight(layer.router), router_bits))
    packed = []
    for index, bits in enumerate(widths):
        listener(index)
        expert = experts.read(index)
        gate_up, down = expert.gate_up.float(), expert.down.float()
        packed.append(pack_expert(codes(gate_up, bits), codes(down, bits)))
    projections = zip(PROJECTIONS, layer.attention.projections, strict=True)
    return QuantizedLayer(
        attention={
            name: pack_codes(codes(_weight(linear), DENSE_BITS)) for name, linear in projections
        },
        experts=tuple(packed),
        odp_thresholds=(ODP_THRESHOLD,) * (layer.top_k - 1),
        odp_quantile=ODP_QUANTILE,
        router=router,
        shared={
            name: pack_codes(codes(_weight(linear), DENSE_BITS))
            for name, linear in _matrices(layer.shared).items()
        },
    )


def quantize_head(
    weight: Tensor,
    norm: Norm,
    stream: Stream | None,
    quantize: Quantizer,
    bits: int,
    group_size: int,
) -> PackedMatrix:
    """Quantize the head [V, H], float32, behind the final norm of the stream past the quantized
    layers; without a stream, by the weights alone."""
    if stream is None:
        hessian = even_hessian(weight.shape[1], weight.device)
    else:
        hessian = _stream_hessian(stream, norm)
    (codes,) = quantize.dense(weight, hessian, (bits,), group_size)
    return pack_codes(codes)


def pack_codes(codes: Codes) -> PackedMatrix:
    """Codes as they are stored, in host memory; packed where they are."""
    found = pack(codes.codes, codes.scale, codes.zero, codes.bits, codes.group_size, codes.rotated)
    return PackedMatrix(found.shape, found.codes.cpu(), found.scales.cpu(), found.zeros.cpu())


def pack_expert(gate_up: Codes, down: Codes) -> PackedExpert:
    """One expert's codes as they are stored; gate lies above up."""
    gate, up = gate_up.split_rows(len(gate_up.codes) // 2)
    return {"gate": pack_codes(gate), "up": pack_codes(up), "down": pack_codes(down)}


class _Recorder:
    """A linear layer that collects the Hessian of what comes in."""

    def __init__(self, linear: Linear, width: int, device: torch.device) -> None:
        self._linear = linear
        self.sum = HessianSum(width, device)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x [..., I], adding it to the Hessian."""
        self.sum.add(x.flatten(0, -2))
        return self._linear.forward(x)

    def tensors(self) -> Iterator[Tensor]:
        """The layer's."""
        return self._linear.tensors()


def _quantize_attention(
    layer: Layer, stream: Stream, rope: Rotation, quantize: Quantizer, group_size: int
) -> dict[Projection, PackedMatrix]:
    """Quantize q, k, v and then o for the stream before the layer.

    The layer's projections are exchanged for what the codes stand for.
    """
    attention = layer.attention
    packed: dict[Projection, PackedMatrix] = {}

    def one(name: Projection, linear: Linear, hessian: Hessian) -> Linear:
        (codes,) = quantize.dense(_weight(linear), hessian, (DENSE_BITS,), group_size)
        packed[name] = pack_codes(codes)
        return with_product(linear, FloatLinear(codes.dequantize()))

    hessian = _stream_hessian(stream, layer.input_norm)
    q, k = one("q", attention.q, hessian), one("k", attention.k, hessian)
    v = one("v", attention.v, hessian)
    output = _Recorder(attention.o, _weight(attention.o).shape[1], stream.device)
    layer.attention = replace(attention, q=q, k=k, v=v, o=output)
    for part in stream.parts():
        layer.attend(stream.read(part), rope)
    o = one("o", attention.o, output.sum.mean())
    layer.attention = replace(layer.attention, o=o)
    return packed


def _quantize_router(
    layer: Layer, hidden: Stream, quantize: Quantizer, bits: int, group_size: int
) -> PackedMatrix:
    """Quantize the router for the stream past the layer's attention; it is exchanged for what the
    codes stand for."""
    hessian = _stream_hessian(hidden, layer.post_norm)
    (codes,) = quantize.dense(_weight(layer.router), hessian, (bits,), group_size)
    layer.router = FloatLinear(codes.dequantize())
    return pack_codes(codes)


def _stream_hessian(stream: Stream, norm: Norm) -> Hessian:
    """That of a matrix whose input is the whole stream, normed."""
    inputs = HessianSum(stream.tensor.shape[-1], stream.device)
    for part in stream.parts():
        inputs.add(norm.forward(stream.read(part)).flatten(0, 1))
    return inputs.mean()


def _weight(linear: Linear) -> Tensor:
    (weight,) = product_of(linear).tensors()
    return weight


def _matrices(shared: SharedExpert | None) -> dict[Matrix, Linear]:
    if shared is None:
        return {}
    return {"gate": shared.gate, "up": shared.up, "down": shared.down}


def _quantize_shared(
    block: MoeBlock, mixed: Stream, quantize: Quantizer, group_size: int
) -> PackedExpert:
    """Quantize an expert that every token passes like the attention, gate and up before down, and
    add its output to ``mixed``. Nothing where the layer has none."""
    shared = block.layer.shared
    if shared is None:
        return {}
    packed: PackedExpert = {}

    def one(name: Matrix, linear: Linear, hessian: Hessian) -> Linear:
        (codes,) = quantize.dense(_weight(linear), hessian, (DENSE_BITS,), group_size)
        packed[name] = pack_codes(codes)
        return FloatLinear(codes.dequantize())

    size, hidden = _weight(shared.gate).shape
    every, chunk = block.every_token(), chunk_of(size)
    inputs = HessianSum(hidden, block.hidden.device)
    for _, x in block.inputs(every, chunk):
        inputs.add(x)
    hessian = inputs.mean()
    shared = replace(
        shared, gate=one("gate", shared.gate, hessian), up=one("up", shared.up, hessian)
    )
    inner = HessianSum(size, block.hidden.device)
    for _, x in block.inputs(every, chunk):
        inner.add(shared.inner(x))
    shared = replace(shared, down=one("down", shared.down, inner.mean()))
    block.add_shared(shared, mixed)
    return packed


def _quantize_expert(
    block: MoeBlock,
    index: int,
    experts: StreamedExperts,
    mixed: Stream,
    bits: int,
    quantize: Quantizer,
    group_size: int,
) -> PackedExpert:
    """Gate and up, which share their input and so their Hessian; then down behind them.

    The quantized expert's output is added to ``mixed``. The expert is read here so that nobody
    else holds its exact gate and up once they are quantized.
    """
    expert = experts.read(index)
    rounding = ExpertRounding(block, index, quantize, group_size)
    (gate_up,), _ = rounding.gate_up(expert, (bits,))
    expert = expert.replaced(gate_up=gate_up.dequantize())
    (down,), _ = rounding.down(expert, (bits,))
    expert = expert.replaced(down=down.dequantize())
    tokens, weights = block.routed(index)
    for part, x in block.inputs(tokens, chunk_of(expert.down.shape[1])):
        mixed.add_rows(tokens[part], expert.forward(x).mul_(weights[part].unsqueeze(1)))
    return pack_expert(gate_up, down)
