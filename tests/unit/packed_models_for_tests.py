"""Small random packed models, made in memory, and what they are in float64."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.architectures.architecture import AS_MIXTRAL, Traits
from engine.attention import Attention
from engine.config import ModelConfig
from engine.experts import PackedExperts, SharedExpert
from engine.layout import MATRICES, matrix_shape
from engine.linear import AdjustedLinear, FloatLinear, Linear, PackedLinear, product_of
from engine.model import Layer, Model, Norm
from engine.packing import dequantize
from tests.unit.models_for_tests import round_to_nearest


@dataclass(frozen=True)
class Shape:
    """What differs from model to model. Widths in bits; 16 and 32 are floating types."""

    hidden: int = 64
    inner: int = 96
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    expert_bits: tuple[int, ...] = (1, 2, 3, 2)
    top_k: int = 2
    vocab: int = 70
    layers: int = 2
    group: int = 32
    window: int | None = None
    router_bits: int = 32
    head_bits: int = 16
    embed_type: torch.dtype = torch.bfloat16
    tied: bool = False
    rotated: bool = False
    traits: Traits = AS_MIXTRAL

    @property
    def config(self) -> ModelConfig:
        """As a model's configuration."""
        return ModelConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_layers=self.layers,
            num_heads=self.heads,
            num_kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            num_experts=len(self.expert_bits),
            top_k=self.top_k,
            rope_theta=1e4,
            rms_norm_eps=1e-5,
            max_context=4096,
            sliding_window=self.window,
            tie_embeddings=self.tied,
            traits=self.traits,
        )


def random_model(shape: Shape, seed: int = 0) -> Model:
    """A model of a shape, on a CPU."""
    torch.manual_seed(seed)
    config = shape.config
    embed = _random(shape.vocab, shape.hidden).to(shape.embed_type)
    layers = [_layer(shape, index) for index in range(shape.layers)]
    head = FloatLinear(embed) if shape.tied else _linear(shape.head_bits, shape, shape.vocab)
    return Model(config, layers, embed, _norm(shape.hidden), head)


def _layer(shape: Shape, index: int) -> Layer:
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    experts = [
        {
            name: round_to_nearest(
                _random(*matrix_shape(name, shape.hidden, shape.inner)),
                bits,
                shape.group,
                shape.rotated,
            )
            for name in MATRICES
        }
        for bits in shape.expert_bits
    ]
    return Layer(
        index=index,
        input_norm=_norm(shape.hidden),
        attention=Attention(
            _adjusted_linear(shape, queries, shape.config.norm_sizes[0]),
            _adjusted_linear(shape, keys, shape.config.norm_sizes[1]),
            _adjusted_linear(shape, keys, 0),
            _linear(4, shape, shape.hidden, queries),
            head_dim=shape.head_dim,
            window=shape.window,
        ),
        post_norm=_norm(shape.hidden),
        router=_linear(shape.router_bits, shape, len(shape.expert_bits)),
        experts=PackedExperts.from_matrices(experts),
        top_k=shape.top_k,
        renormalised=shape.traits.renormalised,
        shared=_shared(shape) if shape.traits.shared_size else None,
    )


def _adjusted_linear(shape: Shape, rows: int, size: int) -> Linear:
    """Queries, keys or values, with a norm of ``size`` weights."""
    linear, traits = _linear(4, shape, rows), shape.traits
    if not (size or traits.qkv_bias or traits.clip):
        return linear
    return AdjustedLinear(
        linear,
        bias=torch.randn(rows) * 0.5 if traits.qkv_bias else None,
        norm=torch.rand(size) + 0.5 if size else None,
        eps=shape.config.rms_norm_eps,
        clip=traits.clip,
    )


def _shared(shape: Shape) -> SharedExpert:
    size = shape.traits.shared_size
    return SharedExpert(
        _linear(4, shape, size),
        _linear(4, shape, size),
        _linear(4, shape, shape.hidden, size),
        _random(1, shape.hidden),
    )


def _linear(bits: int, shape: Shape, rows: int, columns: int | None = None) -> Linear:
    weight = _random(rows, columns or shape.hidden)
    if bits == 32:
        return FloatLinear(weight)
    if bits == 16:
        return FloatLinear(weight.half())
    return PackedLinear(round_to_nearest(weight, bits, shape.group))


def _random(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns) * 2 * columns**-0.5


def _norm(size: int) -> Norm:
    return Norm(torch.rand(size) + 0.5, 1e-5)


def exact_logits(model: Model, tokens: Tensor, skipped: Tensor) -> Tensor:
    """Logits [V] after tokens [T] in float64, without a cache, all matrices unpacked.

    The last token's second slot is skipped in the layers where ``skipped`` [L] is true.
    """
    config = model.config
    x = model.embed[tokens].double()  # [T, H]
    for index, layer in enumerate(model.layers):
        normed = _normed(x, layer.input_norm)
        x = x + _attended(layer.attention, normed, config.rope_theta)
        normed = _normed(x, layer.post_norm)
        chances = (normed @ _weight(layer.router).T).softmax(dim=-1)
        weights, ids = chances.topk(config.top_k)
        if layer.renormalised:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        if skipped[index]:
            weights[-1] = torch.tensor([weights[-1].sum(), 0.0])
        x = x + _mixed(layer, normed, ids, weights)
    return _weight(model.head) @ _normed(x[-1], model.norm)


def _mixed(layer: Layer, normed: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    assert isinstance(layer.experts, PackedExperts)
    out = torch.zeros_like(normed)
    for token, row in enumerate(ids.tolist()):
        for slot, expert in enumerate(row):
            gate, up, down = (
                dequantize(layer.experts.matrix(expert, name)).double() for name in MATRICES
            )
            inner = F.silu(gate @ normed[token]) * (up @ normed[token])
            out[token] += weights[token, slot] * (down @ inner)
    if layer.shared is not None:
        shared = layer.shared
        gate, up, down = map(_weight, (shared.gate, shared.up, shared.down))
        share = (normed @ shared.share.double().T).sigmoid()
        out += share * ((F.silu(normed @ gate.T) * (normed @ up.T)) @ down.T)
    return out


def _attended(attention: Attention, x: Tensor, theta: float) -> Tensor:
    """Position by position and head by head."""
    length, dim = len(x), attention.head_dim
    q, k, v = (
        _adjusted(x @ _weight(product_of(linear)).T, linear).view(length, -1, dim)
        for linear in (attention.q, attention.k, attention.v)
    )
    q, k = _rotated(q, theta), _rotated(k, theta)
    sharing = q.shape[1] // k.shape[1]
    out = torch.empty_like(q)
    for position in range(length):
        first = 0 if attention.window is None else max(0, position + 1 - attention.window)
        for head in range(q.shape[1]):
            keys = k[first : position + 1, head // sharing]
            scores = keys @ q[position, head] * dim**-0.5
            out[position, head] = scores.softmax(dim=0) @ v[first : position + 1, head // sharing]
    return out.flatten(1) @ _weight(attention.o).T


def _adjusted(x: Tensor, linear: Linear) -> Tensor:
    if not isinstance(linear, AdjustedLinear):
        return x
    if linear.bias is not None:
        x = x + linear.bias
    if linear.norm is not None:
        norm = Norm(linear.norm, linear.eps)
        x = _normed(x.view(len(x), -1, len(norm.weight)), norm).flatten(1)
    return x if linear.clip is None else x.clamp(-linear.clip, linear.clip)


def _rotated(x: Tensor, theta: float) -> Tensor:
    """Pairs (i, i + D / 2) as complex numbers, turned."""
    half = x.shape[-1] // 2
    angles = torch.arange(len(x)).double()[:, None] * theta ** (-torch.arange(half).double() / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(
        torch.ones_like(angles), angles
    ).unsqueeze(1)
    return torch.cat((turned.real, turned.imag), dim=-1)


def _normed(x: Tensor, norm: Norm) -> Tensor:
    size = (x.square().mean(dim=-1, keepdim=True) + norm.eps).sqrt()
    return x / size * norm.weight.double()


def _weight(linear: Linear) -> Tensor:
    if isinstance(linear, PackedLinear):
        return dequantize(linear.matrix).double()
    assert isinstance(linear, FloatLinear)
    return linear.weight.double()
