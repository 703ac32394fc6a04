"""A tiny compressed checkpoint with random weights and the demo's tokenizer, in milliseconds."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from engine.budget import AS_IT_IS
from engine.checkpoint import PROJECTIONS, write_dense, write_layer
from engine.config import ModelConfig
from engine.experts import PackedExperts
from engine.layout import MATRICES, PackedShape, matrix_shape
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
from engine.packing import PackedMatrix, pack
from tests.unit.tokenizers_for_tests import speak_as_the_demo

GROUP_SIZE = 32
EXPERT_BITS = ((3, 2, 2, 1), (1, 2, 2, 3))
CONFIG = {
    "architectures": ["MixtralForCausalLM"],
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": len(EXPERT_BITS),
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": len(EXPERT_BITS[0]),
    "num_experts_per_tok": 2,
    "max_position_embeddings": 128,
    "eos_token_id": 2,
}


def write_tiny_checkpoint(folder: Path, seed: int = 0, rest_bits: RestBits = AS_IT_IS) -> Manifest:
    """Write a whole checkpoint to ``folder`` and return its manifest."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    speak_as_the_demo(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    config = ModelConfig.from_folder(folder)

    def floats(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(torch.bfloat16)

    def packed(rows: int, columns: int, bits: int) -> PackedMatrix:
        codes = torch.randint(0, 1 << bits, (rows, columns), generator=generator)
        groups = (rows, columns // GROUP_SIZE)
        scale = torch.rand(groups, generator=generator) / 2**bits
        zero = None if bits == 1 else torch.full(groups, (2**bits - 1) / 2)
        return pack(codes.to(torch.uint8), scale, zero, bits, GROUP_SIZE)

    hidden, heads = config.hidden_size, config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    projections = {"q": (heads, hidden), "k": (keys, hidden), "v": (keys, hidden)}
    projections["o"] = (hidden, heads)

    def unless_packed(shape: PackedShape | None) -> PackedMatrix | None:
        return None if shape is None else packed(shape.rows, shape.columns, shape.bits)

    paths = []
    for index, widths in enumerate(EXPERT_BITS):
        experts = [
            {
                name: packed(*matrix_shape(name, hidden, config.intermediate_size), bits)
                for name in MATRICES
            }
            for bits in widths
        ]
        rest = {
            "input_norm.weight": torch.ones(hidden, dtype=torch.bfloat16),
            "post_norm.weight": torch.ones(hidden, dtype=torch.bfloat16),
        }
        router = unless_packed(rest_bits.router_shape(config, GROUP_SIZE))
        if router is None:
            rest["router.weight"] = floats(config.num_experts, hidden)
        attention = {name: packed(*projections[name], DENSE_BITS) for name in PROJECTIONS}
        arena = PackedExperts.from_matrices(experts)
        paths.append(write_layer(folder, index, attention, arena, rest, router))
    ends = {
        "embed.weight": floats(config.vocab_size, hidden),
        "norm.weight": torch.ones(hidden, dtype=torch.bfloat16),
    }
    head = unless_packed(rest_bits.head_shape(config, GROUP_SIZE))
    if head is None:
        ends["head.weight"] = floats(config.vocab_size, hidden)
    paths.append(write_dense(folder, ends, head))
    manifest = _manifest(config, rest_bits, paths)
    (folder / MANIFEST_NAME).write_text(manifest.to_json())
    return manifest


def _manifest(config: ModelConfig, rest_bits: RestBits, paths: list[Path]) -> Manifest:
    experts = config.num_experts
    even = (1 / experts,) * experts
    recipe = Recipe(2.0, "rtn", "uniform", GROUP_SIZE, "none", 0, 0, 0, 1.0, 1.5, 2.0)
    return Manifest(
        format_version=FORMAT_VERSION,
        name="tiny",
        source=Source("tests/tiny", "0", "0" * 64),
        recipe=replace(recipe, router_bits=rest_bits.router, head_bits=rest_bits.head),
        layers=tuple(
            LayerRecord(widths, 0.6, 1.0, even, even, ((3.0, 2.0, 1.0),) * experts)
            for widths in EXPERT_BITS
        ),
        sizes=Sizes(
            expert_code_bytes=1000,
            expert_metadata_bytes=100,
            dense_bytes=500,
            expert_weights=config.num_layers * experts * config.expert_weights,
            total_weights=config.total_weights,
        ),
        files={path.name: FileRecord(path.stat().st_size, sha256_file(path)) for path in paths},
    )
