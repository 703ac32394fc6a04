"""Tiny random Mixtrals, made by transformers, for tests that need a whole model."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM

from engine.checkpoint import PROJECTIONS, load_model, write_dense, write_layer
from engine.config import ModelConfig
from engine.experts import FloatExperts, PackedExperts
from engine.hadamard import rotate
from engine.layout import MATRICES
from engine.linear import FloatLinear, Linear
from engine.manifest import (
    FileRecord,
    LayerRecord,
    Manifest,
    Recipe,
    Sizes,
    Source,
    sha256_file,
)
from engine.packing import PackedMatrix, centre, pack

BASE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}


def save_tiny_mixtral(folder: Path, seed: int = 0, **changes: Any) -> MixtralForCausalLM:
    """Save a random model in ``folder`` as transformers does, and return it."""
    torch.manual_seed(seed)
    model = MixtralForCausalLM(MixtralConfig(**{**BASE, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return model


def round_to_nearest(
    weight: Tensor, bits: int, group_size: int, rotated: bool = False
) -> PackedMatrix:
    """Plain min-max rounding of a weight [O, I]; at 1 bit its signs and mean magnitudes. A rotated
    one is rounded to a grid around zero."""
    rows, columns = weight.shape
    if rotated:
        groups = rotate(weight.float(), group_size).view(rows, -1, group_size)
        scale = 2 * groups.abs().amax(dim=-1) / ((1 << bits) - 1)
        levels = (groups / scale[..., None] + centre(bits)).round().clamp(0, (1 << bits) - 1)
        codes = levels.to(torch.uint8).view(rows, columns)
        return pack(codes, scale, None, bits, group_size, rotated)
    groups = weight.float().view(rows, -1, group_size)  # [O, G, group]
    if bits == 1:
        codes = (groups > 0).to(torch.uint8).view(rows, columns)
        return pack(codes, 2 * groups.abs().mean(dim=-1), None, bits, group_size)
    low, high = groups.amin(dim=-1), groups.amax(dim=-1)
    scale = (high - low) / ((1 << bits) - 1)
    zero = -low / scale
    codes = (groups / scale[..., None] + zero[..., None]).round().clamp(0, (1 << bits) - 1)
    return pack(codes.to(torch.uint8).view(rows, columns), scale, zero, bits, group_size)


def write_compressed(
    original: Path,
    folder: Path,
    expert_bits: tuple[int, ...],
    group_size: int = 32,
    rotated: bool = False,
) -> Manifest:
    """Compress an original by plain rounding, every layer with the same widths."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(original / "config.json", folder)
    model = load_model(original)
    files = []
    for layer in model.layers:
        experts = layer.experts
        assert isinstance(experts, FloatExperts)
        weights = {"gate": experts.gate, "up": experts.up, "down": experts.down}
        matrices = [
            {
                name: round_to_nearest(weights[name][k], bits, group_size, rotated)
                for name in MATRICES
            }
            for k, bits in enumerate(expert_bits)
        ]
        attention = {
            name: round_to_nearest(float_weight(getattr(layer.attention, name)), 4, group_size)
            for name in PROJECTIONS
        }
        rest = {
            "router.weight": float_weight(layer.router).bfloat16(),
            "input_norm.weight": layer.input_norm.weight.bfloat16(),
            "post_norm.weight": layer.post_norm.weight.bfloat16(),
        }
        packed = PackedExperts.from_matrices(matrices)
        files.append(write_layer(folder, layer.index, attention, packed, rest))
    dense = {
        "embed.weight": model.embed.bfloat16(),
        "norm.weight": model.norm.weight.bfloat16(),
    }
    if not model.config.tie_embeddings:
        dense["head.weight"] = float_weight(model.head).bfloat16()
    files.append(write_dense(folder, dense))
    manifest = _manifest(model.config, folder, files, expert_bits, group_size, rotated)
    (folder / "mc.json").write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def float_weight(linear: Linear) -> Tensor:
    """The weight of a layer that is not packed."""
    assert isinstance(linear, FloatLinear)
    return linear.weight


def _manifest(
    config: ModelConfig,
    folder: Path,
    files: list[Path],
    expert_bits: tuple[int, ...],
    group_size: int,
    rotated: bool,
) -> Manifest:
    zeros = (0.0,) * config.num_experts
    record = LayerRecord(expert_bits, 0.5, 1.0, zeros, zeros, ((0.0, 0.0, 0.0),) * len(zeros))
    files = [folder / "config.json", *files]
    return Manifest(
        format_version=1,
        name=folder.name,
        source=Source("test", "", ""),
        recipe=Recipe(
            2.0, "rtn", "none", group_size, "none", 0, 0, 0, 1.0, 1.0, 1.0, rotated=rotated
        ),
        layers=(record,) * config.num_layers,
        sizes=Sizes(0, 0, 0, 1, 1),
        files={path.name: FileRecord(path.stat().st_size, sha256_file(path)) for path in files},
    )
