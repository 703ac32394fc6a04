"""Which models the compiled step takes, and how a matrix of theirs is told to it."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.experts import PackedExperts, SharedExpert
from engine.kernels import step_table as at
from engine.layout import TILE_ROWS
from engine.linear import AdjustedLinear, FloatLinear, Linear, PackedLinear, product_of

if TYPE_CHECKING:
    from engine.model import Layer, Model, Norm

KINDS = {
    torch.float32: at.FLOAT_WEIGHTS,
    torch.float16: at.HALF_WEIGHTS,
    torch.bfloat16: at.BRAIN_WEIGHTS,
}
_LANES = 16
"""Of the step's vectors: a head must divide into them."""


def suits(model: "Model") -> bool:
    """Whether all parts are of the kinds that the step knows: packed experts, above all."""
    layers = model.layers
    return (
        model.dtype == torch.float32
        and model.config.head_dim % _LANES == 0
        and model.embed.is_cpu
        and model.embed.is_contiguous()
        and model.embed.dtype in KINDS
        and [layer.index for layer in layers] == list(range(model.config.num_layers))
        and all(_layer_suits(layer, model.config) for layer in layers)
        and all(layer.top_k == model.config.top_k for layer in layers)
        and all(layer.attention.window == model.config.sliding_window for layer in layers)
        and _norm_suits(model.norm)
        and _linear_suits(model.head)
    )


def _layer_suits(layer: "Layer", config: ModelConfig) -> bool:
    attention = layer.attention
    sizes = (*config.norm_sizes, 0)
    projections = (attention.q, attention.k, attention.v)
    return (
        isinstance(layer.experts, PackedExperts)
        and layer.renormalised == config.traits.renormalised
        and _shared_suits(layer.shared, config.traits.shared_size)
        and all(_adjusted_suits(*each, config) for each in zip(projections, sizes, strict=True))
        and _linear_suits(attention.o)
        and _linear_suits(layer.router)
        and _norm_suits(layer.input_norm)
        and _norm_suits(layer.post_norm)
    )


def _adjusted_suits(linear: Linear, size: int, config: ModelConfig) -> bool:
    """Whether a product is known whose outputs pass no more than a bias, a norm with ``size``
    weights, and the model's bound."""
    clip = linear.clip if isinstance(linear, AdjustedLinear) else None
    if clip != config.traits.clip or not _linear_suits(product_of(linear)):
        return False
    if not isinstance(linear, AdjustedLinear):
        return True
    norm = linear.norm
    known = norm is None or (len(norm) == size and linear.eps == config.rms_norm_eps)
    return known and _floats_suit(norm) and _floats_suit(linear.bias)


def _shared_suits(shared: SharedExpert | None, size: int) -> bool:
    """Whether a layer has no shared expert, or one with so many inner activations."""
    if shared is None:
        return size == 0
    matrices = (shared.gate, shared.up, shared.down)
    if not all(map(_linear_suits, matrices)) or not _floats_suit(shared.share):
        return False
    return linear_row(shared.gate)[at.ROWS] == size


def _floats_suit(tensor: Tensor | None) -> bool:
    return tensor is None or (tensor.dtype == torch.float32 and tensor.is_contiguous())


def _norm_suits(norm: "Norm") -> bool:
    return _floats_suit(norm.weight)


def _linear_suits(linear: Linear) -> bool:
    if isinstance(linear, PackedLinear):
        return True
    if not isinstance(linear, FloatLinear):
        return False
    weight = linear.weight
    whole = weight.is_contiguous() and weight.shape[1] % TILE_ROWS == 0
    return whole and weight.dtype in KINDS and not weight.requires_grad


def linear_row(linear: Linear) -> list[int]:
    """The fields of a dense layer."""
    if isinstance(linear, PackedLinear):
        matrix = linear.matrix
        shape = matrix.shape
        sizes = [at.PACKED_WEIGHTS, shape.rows, shape.columns, shape.bits, shape.group_size]
        return sizes + [part.data_ptr() for part in (matrix.codes, matrix.scales, matrix.zeros)]
    assert isinstance(linear, FloatLinear)
    weight = linear.weight
    return [KINDS[weight.dtype], *weight.shape, 0, 0, weight.data_ptr(), 0, 0]
