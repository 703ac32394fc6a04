"""How much each expert of a layer matters, and what each width would cost it (PMQ, Section 3.2).

Everything is measured on the full-precision stream, so it does not depend on any allocation.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from compress import streams
from compress.allocation import LayerScores
from compress.quantizers import Quantizer
from compress.quantizers.hessian import mean_hessian
from compress.routed import Expert, MoeBlock, expert_of
from engine.attention import Rotation
from engine.experts import FloatExperts
from engine.layout import EXPERT_WIDTHS
from engine.model import Layer
from engine.pruning import Routing


def score_layer(
    layer: Layer,
    stream: Tensor,
    rope: Rotation,
    quantize: Quantizer,
    group_size: int,
    listener: Callable[[int], None],
) -> LayerScores:
    """Frequency, routing weight and errors of every expert of a float layer.

    ``stream`` [N, T, H], the full-precision input of the layer, is moved, in place, past it.
    ``listener`` hears the index of each expert before its turn.

    The error eps is the Frobenius norm of the change of the block's output over all calibration
    tokens when only this expert is quantized, with the quantizer that will make its codes.
    """
    experts = layer.experts
    if not isinstance(experts, FloatExperts):
        raise TypeError("only layers in floating point can be scored")
    streams.attend(layer, stream, rope)
    block = streams.moe_block(layer, stream)
    count = len(experts.gate)
    errors = []
    for index in range(count):
        listener(index)
        errors.append(_errors(block, index, expert_of(experts, index), quantize, group_size))
    streams.pass_experts(layer, stream, block.routing)
    return LayerScores(
        frequency=frequencies(block.routing, count),
        routing_weight=routing_weights(block.routing, count),
        errors=tuple(errors),
    )


def frequencies(routing: Routing, experts: int) -> tuple[float, ...]:
    """Share of the routed slots that each expert got; sums to 1."""
    counts = torch.bincount(routing.ids.flatten(), minlength=experts).double()
    return tuple((counts / counts.sum()).tolist())


def routing_weights(routing: Routing, experts: int) -> tuple[float, ...]:
    """Mean over tokens of the routing weight each expert got, 0 where not chosen; sums to 1."""
    sums = torch.zeros(experts, dtype=torch.float64)
    sums.index_add_(0, routing.ids.flatten(), routing.weights.flatten().double())
    return tuple((sums / sums.sum()).tolist())


def _errors(
    block: MoeBlock, index: int, expert: Expert, quantize: Quantizer, group_size: int
) -> tuple[float, ...]:
    """eps of one expert at each width; the Hessians are factorized once for all of them."""
    tokens, weights = block.routed(index)
    hidden, inner = expert.gate_up.shape[1], expert.down.shape[1]
    outer_hessian = mean_hessian(
        (x * root for x, root in block.calibration_inputs(index, hidden)), hidden
    )
    inner_hessian = mean_hessian(
        (expert.inner(x) * root for x, root in block.calibration_inputs(index, inner)), inner
    )
    rounded = [
        Expert(gate_up.dequantize(), down.dequantize())
        for gate_up, down in zip(
            quantize(expert.gate_up, outer_hessian, EXPERT_WIDTHS, group_size),
            quantize(expert.down, inner_hessian, EXPERT_WIDTHS, group_size),
            strict=True,
        )
    ]
    squares = torch.zeros(len(EXPERT_WIDTHS), dtype=torch.float64)
    start = 0
    for x in block.inputs(tokens):
        weight = weights[start : start + len(x), None]
        exact = expert.forward(x)
        for j, trial in enumerate(rounded):
            squares[j] += ((trial.forward(x) - exact) * weight).square().sum().double()
        start += len(x)
    return tuple(squares.sqrt().tolist())
