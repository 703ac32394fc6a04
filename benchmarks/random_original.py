"""Original checkpoints of any shape with random weights, in the layout of the hub's Mixtrals:
sharded safetensors in bfloat16 with an index, the demo's tokenizer."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from assets import DEMO_DIR
from benchmarks.random_checkpoint import config_json
from compress.source import tensor_names
from engine.config import MIXTRAL_8X7B, ModelConfig

SHARD_BYTES = 5 * 10**9
"""What transformers cuts shards to."""


def mixtral_slice(layers: int) -> ModelConfig:
    """So many layers of Mixtral 8x7B at their true width, with the demo's vocabulary."""
    vocabulary = json.loads((DEMO_DIR / "config.json").read_text())["vocab_size"]
    return replace(MIXTRAL_8X7B, num_layers=layers, vocab_size=vocabulary)


def write_random_original(
    folder: Path, config: ModelConfig, shard_bytes: int = SHARD_BYTES, seed: int = 0
) -> None:
    """Write a checkpoint into the folder, which is made."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    (folder / "config.json").write_text(json.dumps(config_json(config)))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO_DIR / name, folder)
    weight_map: dict[str, str] = {}
    written: list[Path] = []
    for shard in _shards(config, shard_bytes, generator):
        path = folder / f"shard-{len(written)}"
        save_file(shard, path, metadata={"format": "pt"})
        written.append(path)
        weight_map |= dict.fromkeys(shard, path.name)
    names = {}
    for number, path in enumerate(written, start=1):
        names[path.name] = f"model-{number:05d}-of-{len(written):05d}.safetensors"
        path.rename(folder / names[path.name])
    total = sum((folder / name).stat().st_size for name in names.values())
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: names[shard] for name, shard in weight_map.items()},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _shards(
    config: ModelConfig, shard_bytes: int, generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    held = 0
    for name in sorted(tensor_names(config), key=_hub_order):
        tensor = _random(_shape(name, config), name, generator)
        if shard and held + tensor.nbytes > shard_bytes:
            yield shard
            shard, held = {}, 0
        shard[name] = tensor
        held += tensor.nbytes
    yield shard


def _hub_order(name: str) -> tuple[int, int, str]:
    """Embeddings, the layers in order, norm and head: as transformers saves them."""
    parts = name.split(".")
    if parts[1] == "layers":
        return 1, int(parts[2]), name
    return (0, 0, name) if "embed" in name else (2, 0, name)


def _shape(name: str, config: ModelConfig) -> tuple[int, ...]:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
    shapes: dict[str, tuple[int, ...]] = {
        "w1": (inner, hidden), "w2": (hidden, inner), "w3": (inner, hidden),
        "q_proj": (queries, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden),
        "o_proj": (hidden, queries), "gate": (config.num_experts, hidden),
        "embed_tokens": (config.vocab_size, hidden), "lm_head": (config.vocab_size, hidden),
    }  # fmt: skip
    return shapes.get(name.split(".")[-2], (hidden,))


def _random(shape: tuple[int, ...], name: str, generator: torch.Generator) -> Tensor:
    if "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    scale = 1.0 if "embed" in name else shape[-1] ** -0.5
    return (torch.randn(shape, generator=generator) * scale).to(torch.bfloat16)
