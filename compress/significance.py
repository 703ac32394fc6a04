"""How much each expert of a layer matters, and what each width would cost it (PMQ, Section 3.2).

Everything is measured on the full-precision stream, so it does not depend on any allocation.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from compress import streams
from compress.allocation import LayerScores
from compress.expert_rounding import ExpertRounding
from compress.host_memory import give_back
from compress.projection import chunk_of
from compress.quantizers import Quantizer
from compress.routed import Expert, MoeBlock, StreamedExperts
from compress.streams import Stream, StreamStore
from engine.attention import Rotation
from engine.model import Layer
from engine.pruning import Routing

_STRIPE = 2048
"""Rows of a matrix that are looked at together."""


def score_layer(
    layer: Layer,
    store: StreamStore,
    stream: Stream,
    rope: Rotation,
    quantize: Quantizer,
    widths: Sequence[int],
    group_size: int,
    listener: Callable[[int], None],
) -> tuple[LayerScores, Stream]:
    """Frequency, routing weight and errors of every expert of a layer as read from a source.

    ``stream`` is the full-precision input of the layer; returns the scores and the stream past
    the layer. ``listener`` hears the index of each expert before its turn.

    The error eps is the Frobenius norm of the change of the block's output over all calibration
    tokens when only this expert is quantized, with the quantizer that will make its codes.
    """
    experts = layer.experts
    if not isinstance(experts, StreamedExperts):
        raise TypeError("only layers as read from a source can be scored")
    hidden = store.after(stream, layer.index + 1)
    streams.attend(layer, stream, hidden, rope)
    block, mixed = MoeBlock.of(layer, hidden), store.scratch()
    errors, traces = [], []
    for index in range(experts.count):
        listener(index)
        give_back()
        expert = experts.read(index)
        error, trace = _score_expert(block, index, expert, mixed, quantize, widths, group_size)
        errors.append(error)
        traces.append(trace)
    block.add_shared(layer.shared, mixed)
    scores = LayerScores(
        frequency=frequencies(block.routing, experts.count),
        routing_weight=routing_weights(block.routing, experts.count),
        errors=tuple(errors),
        trace_errors=tuple(traces),
        widths=tuple(widths),
    )
    return replace(scores, stream_norm=hidden.add(mixed) ** 0.5), hidden


def frequencies(routing: Routing, experts: int) -> tuple[float, ...]:
    """Share of the routed slots that each expert got; sums to 1."""
    counts = torch.bincount(routing.ids.flatten(), minlength=experts).double()
    return tuple((counts / counts.sum()).tolist())


def routing_weights(routing: Routing, experts: int) -> tuple[float, ...]:
    """Mean over tokens of the routing weight each expert got, 0 where not chosen; sums to 1."""
    sums = torch.zeros(experts, dtype=torch.float64, device=routing.weights.device)
    sums.index_add_(0, routing.ids.flatten(), routing.weights.flatten().double())
    return tuple((sums / sums.sum()).tolist())


def _score_expert(
    block: MoeBlock,
    index: int,
    expert: Expert,
    mixed: Stream,
    quantize: Quantizer,
    widths: Sequence[int],
    group_size: int,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """eps and trace errors of one expert at each width; its output is added to ``mixed``.

    Without widths, for an allocator that asks for no errors, nothing is rounded.
    """
    chunk = chunk_of(expert.down.shape[1])
    if not widths:
        _changes(block, index, expert, (), mixed, chunk)
        return (), ()
    rounding = ExpertRounding(block, index, quantize, group_size)
    gate_ups, outer_trace = rounding.gate_up(expert, widths)
    downs, inner_trace = rounding.down(expert, widths)
    trials = [
        expert.replaced(gate_up.dequantize(), down.dequantize())
        for gate_up, down in zip(gate_ups, downs, strict=True)
    ]
    del gate_ups, downs
    traces = torch.stack(
        [
            outer_trace * _squares(trial.gate_up, expert.gate_up)
            + inner_trace * _squares(trial.down, expert.down)
            for trial in trials
        ]
    )
    errors = _changes(block, index, expert, trials, mixed, chunk)
    return tuple(errors.tolist()), tuple(traces.tolist())


def _changes(
    block: MoeBlock,
    index: int,
    expert: Expert,
    trials: Sequence[Expert],
    mixed: Stream,
    chunk: int,
) -> Tensor:
    """Frobenius norm of the change of the block's output with each trial in an expert's place,
    float64 [J]; the expert's own output is added to ``mixed``."""
    tokens, weights = block.routed(index)
    squares = torch.zeros(len(trials), dtype=torch.float64, device=weights.device)
    for part, x in block.inputs(tokens, chunk):
        weight = weights[part].unsqueeze(1)  # [t, 1]
        exact = expert.forward(x)
        for j, trial in enumerate(trials):
            change = trial.forward(x).sub_(exact).mul_(weight)
            squares[j] += change.square().sum(dtype=torch.float64)
        mixed.add_rows(tokens[part], exact.mul_(weight))
    return squares.sqrt()


def _squares(one: Tensor, other: Tensor) -> Tensor:
    """||one - other||_F^2 of matrices of one shape, a stripe at a time, float32 []."""
    stripes = zip(torch.split(one, _STRIPE), torch.split(other, _STRIPE), strict=True)
    parts = [(a.float() - b).square_().sum() for a, b in stripes]
    return torch.stack(parts).sum()
