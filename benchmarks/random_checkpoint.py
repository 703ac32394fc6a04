"""Compressed models of any shape with random codes: for figures that no weight changes."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from engine.assembly import assemble
from engine.budget import AS_IT_IS
from engine.checkpoint import PROJECTIONS, write_dense, write_layer
from engine.config import ModelConfig
from engine.experts import PackedExperts
from engine.kernels import Arena
from engine.layout import PackedShape, arena_layout
from engine.linear import FloatLinear, PackedLinear
from engine.manifest import (
    DENSE_BITS,
    FORMAT_VERSION,
    MANIFEST_NAME,
    FileRecord,
    LayerRecord,
    Manifest,
    Recipe,
    RestBits,
    Sizes,
    Source,
    sha256_file,
)
from engine.model import Layer, Model, Norm
from engine.packing import PackedMatrix
from engine.tensor_names import dense_shapes, small_tensors


def write_random_checkpoint(
    folder: Path,
    config: ModelConfig,
    expert_bits: Sequence[int],
    group_size: int,
    rest_bits: RestBits = AS_IT_IS,
    rotated: bool = False,
) -> None:
    """Write a checkpoint, every layer with these widths, into the folder, which is made."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_json(config)))
    hidden = config.hidden_size
    queries, keys = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
    projections = {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden)}
    projections["o"] = (hidden, queries)
    router = rest_bits.router_shape(config, group_size)
    head = rest_bits.head_shape(config, group_size)
    paths = [folder / "config.json"]
    for layer in range(config.num_layers):
        attention = {
            name: _packed(PackedShape(*projections[name], DENSE_BITS, group_size))
            for name in PROJECTIONS
        }
        rest = {"input_norm.weight": _floats(hidden), "post_norm.weight": _floats(hidden)}
        if router is None:
            rest["router.weight"] = _floats(config.num_experts, hidden)
        experts = PackedExperts(_arena(config, expert_bits, group_size, rotated))
        packed = None if router is None else _packed(router)
        paths.append(write_layer(folder, layer, attention, experts, rest, packed))
    ends = {"embed.weight": _floats(config.vocab_size, hidden), "norm.weight": _floats(hidden)}
    if head is None and not config.tie_embeddings:
        ends["head.weight"] = _floats(config.vocab_size, hidden)
    paths.append(write_dense(folder, ends, None if head is None else _packed(head)))
    manifest = _manifest(config, tuple(expert_bits), group_size, rest_bits, rotated, paths)
    (folder / MANIFEST_NAME).write_text(manifest.to_json())


def random_model(
    config: ModelConfig,
    expert_bits: Sequence[int],
    group_size: int,
    device: torch.device | str,
    dtype: torch.dtype,
    rotated: bool = False,
) -> Model:
    """A model on a device, every layer with these widths; nothing is on the host or in 16 bits
    that is packed."""

    def layer(index: int) -> Layer:
        shapes, small = dense_shapes(config, group_size), small_tensors(config, index)

        def floats(name: str) -> Tensor:
            size = small[name].shape
            return (torch.ones(size) if "norm" in name else _floats(*size)).to(dtype)

        return assemble(
            config,
            index,
            {name: PackedLinear(_packed(shape)) for name, shape in shapes.items()},
            floats,
            FloatLinear(floats("router.weight")),
            PackedExperts(_arena(config, expert_bits, group_size, rotated)),
        )

    with torch.device(device):
        size = config.vocab_size, config.hidden_size
        embed, head = (_floats(*size).to(dtype) for _ in range(2))
        layers = [layer(index) for index in range(config.num_layers)]
        norm = Norm(torch.ones(config.hidden_size, dtype=dtype), config.rms_norm_eps)
        return Model(config, layers, embed, norm, FloatLinear(head), dtype)


def config_json(config: ModelConfig) -> dict[str, object]:
    return {
        "architectures": [config.architecture.name],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "num_local_experts": config.num_experts,
        "num_experts_per_tok": config.top_k,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_context,
    }


def _floats(*shape: int) -> Tensor:
    return (torch.randn(shape) * shape[-1] ** -0.5).to(torch.bfloat16)


def _words(count: int) -> Tensor:
    return torch.randint(-(2**31), 2**31, (count,), dtype=torch.int32)


def _halves(count: int, value: float) -> Tensor:
    return torch.full((count,), value, dtype=torch.float16)


def _packed(shape: PackedShape) -> PackedMatrix:
    scale, zero = shape.columns**-0.5 / 2**shape.bits, (2**shape.bits - 1) / 2
    return PackedMatrix(
        shape, _words(shape.code_words), _halves(shape.scales, scale), _halves(shape.zeros, zero)
    )


def _arena(config: ModelConfig, bits: Sequence[int], group_size: int, rotated: bool) -> Arena:
    hidden, inner = config.hidden_size, config.intermediate_size
    layout = arena_layout(tuple(bits), hidden, inner, group_size, rotated)
    scale = hidden**-0.5 / 4
    scales, zeros = _halves(layout.scales, scale), _halves(layout.zeros, 1.5)
    return Arena(layout, _words(layout.code_words), scales, zeros)


def _manifest(
    config: ModelConfig,
    bits: tuple[int, ...],
    group_size: int,
    rest_bits: RestBits,
    rotated: bool,
    paths: list[Path],
) -> Manifest:
    experts = config.num_experts
    even = (1 / experts,) * experts
    record = LayerRecord(bits, 0.5, 1.0, even, even, ((3.0, 2.0, 1.0),) * experts)
    mean = sum(bits) / experts
    recipe = Recipe(mean, "rtn", "uniform", group_size, "none", 0, 0, 0, 1.0, 1.5, 2.0)
    return Manifest(
        format_version=FORMAT_VERSION,
        name=f"random-{mean:g}bit",
        source=Source("random", "0", "0" * 64),
        recipe=replace(
            recipe, router_bits=rest_bits.router, head_bits=rest_bits.head, rotated=rotated
        ),
        layers=(record,) * config.num_layers,
        sizes=Sizes(
            expert_code_bytes=sum(p.stat().st_size for p in paths),
            expert_metadata_bytes=0,
            dense_bytes=0,
            expert_weights=config.num_layers * experts * config.expert_weights,
            total_weights=config.total_weights,
        ),
        files={p.name: FileRecord(p.stat().st_size, sha256_file(p)) for p in paths},
    )
