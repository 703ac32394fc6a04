"""What the planner promises beside what the engine then allocates.

    python -m benchmarks.fit [--quick] [--json] [--device cpu|cuda:N]

A model is loaded and runs the last chunk of a full context, with ODP and without, and a token
more. On a CPU the tensors of weights and KV cache count, and the peak of everything that torch
allocated while it ran; on a GPU the memory that torch reserved, and what CUDA takes beside it.
The demo is the original and a 2.5-bit one of its shape; the others are two layers of Mixtral 8x7B
in full width with random codes (1.2 GB). `--quick`: one layer of a quarter of the width instead.
"""

import argparse
import dataclasses
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

import assets
from benchmarks.machine import machine
from benchmarks.random_checkpoint import write_random_checkpoint
from engine import budget
from engine.budget import Budget, DeviceKind, KvBits
from engine.cache import KVCache
from engine.checkpoint import load_model
from engine.config import MIXTRAL_8X7B, ModelConfig
from engine.manifest import is_compressed, open_manifest
from engine.model import Model
from engine.pruning import NO_PRUNING, OdpPruning, Pruning

WIDE, NARROW = (3, 3, 3, 2, 2, 2, 3, 2), (1, 1, 1, 2, 2, 2, 1, 2)
"""Widths of the experts: 2.5 and 1.5 bits."""


@dataclass(frozen=True)
class Row:
    """Bytes promised and allocated for one model at ``context`` tokens."""

    model: str
    device: str
    context: int
    promised: int
    allocated: int

    @property
    def error(self) -> float:
        """How much too high the promise is, as a share of what was allocated."""
        return self.promised / self.allocated - 1


def fit(folder: Path, context: int, device: torch.device, kv_bits: KvBits = 16) -> Row:
    """Load and run the checkpoint in ``folder``, original or compressed, and compare."""
    config = ModelConfig.from_folder(folder)
    kind: DeviceKind = "cuda" if device.type == "cuda" else "cpu"
    promised = _promise(folder, config, context, kind, kv_bits).total
    if kind == "cuda":
        promised += budget.CUDA_CONTEXT_BYTES
        allocated = _cuda_bytes(folder, context, device, kv_bits)
    else:
        allocated = _cpu_bytes(folder, context, kv_bits)
    return Row(folder.name, str(device), context, promised, allocated)


def _promise(
    folder: Path, config: ModelConfig, context: int, kind: DeviceKind, kv_bits: KvBits
) -> Budget:
    if not is_compressed(folder):
        return budget.original_budget(config, context, kind, kv_bits)
    manifest = open_manifest(folder)
    widths = [layer.expert_bits for layer in manifest.layers]
    recipe = manifest.recipe
    return budget.compressed_budget(
        config, widths, recipe.group_size, context, kind, recipe.rest, kv_bits, recipe.rotated
    )


def _use(model: Model, cache: KVCache) -> None:
    """Fill the context to its end, twice."""
    config, device = model.config, model.embed.device
    chunk = min(budget.PREFILL_CHUNK["cuda" if model.embed.is_cuda else "cpu"], cache.capacity - 1)
    tokens = torch.randint(config.vocab_size, (1, chunk), device=device)
    odp = OdpPruning((0.5,) * config.num_layers, (1.0,) * config.num_layers)
    modes: tuple[Pruning, ...] = (odp, NO_PRUNING)
    with torch.inference_mode():
        for pruning in modes:
            # As if the rest of the context had gone before: its zeros take the same room.
            cache.length = cache.capacity - 1 - chunk
            model.forward(tokens, cache, pruning, last_only=True)
            model.forward(tokens[:, :1], cache, pruning, last_only=True)


def _cpu_bytes(folder: Path, context: int, kv_bits: KvBits) -> int:
    """The tensors of the model and its cache, and the most that torch held beside them."""
    model = load_model(folder)
    cache = KVCache(model.config, context, dtype=model.dtype, bits=kv_bits)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        _use(model, cache)
    results = recorded.profiler.kineto_results  # type: ignore[union-attr]
    changes = [event for event in results.events() if event.name() == "[memory]"]
    held = most = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        most = max(most, held)
    return model.memory_bytes() + cache.memory_bytes() + most


def _cuda_bytes(folder: Path, context: int, device: torch.device, kv_bits: KvBits) -> int:
    """The most that torch reserved, and what is taken beside it: CUDA's own, on an idle card."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    model = load_model(folder, device)
    _use(model, KVCache(model.config, context, device=device, dtype=model.dtype, bits=kv_bits))
    free, total = torch.cuda.mem_get_info(device)
    beside = total - free - torch.cuda.memory_reserved(device)
    return torch.cuda.max_memory_reserved(device) + beside


def rows(scratch: Path, device: torch.device, quick: bool) -> list[Row]:
    """All models, those that have to be made first in the folder ``scratch``."""
    demo = ModelConfig.from_folder(assets.DEMO_DIR)
    shape = scratch / "demo's shape, 2.5 bits"
    write_random_checkpoint(shape, demo, WIDE, budget.GROUP_SIZE)
    found = [fit(folder, demo.max_context, device) for folder in (assets.DEMO_DIR, shape)]
    piece, name = (quarter(), "a quarter") if quick else (full_width(), "full width")
    folder = scratch / f"Mixtral 8x7B, {name}, {piece.num_layers} of 32 layers, 1.5 bits"
    write_random_checkpoint(folder, piece, NARROW, budget.GROUP_SIZE)
    return found + [fit(folder, context, device) for context in (2048, 8192, 32_768)]


def full_width() -> ModelConfig:
    """Two layers of Mixtral 8x7B."""
    return dataclasses.replace(MIXTRAL_8X7B, num_layers=2)


def quarter() -> ModelConfig:
    """One layer, a quarter as wide."""
    heads = {"num_heads": MIXTRAL_8X7B.num_heads // 4, "num_kv_heads": 2}
    widths = {"hidden_size": 1024, "intermediate_size": 3584}
    return dataclasses.replace(MIXTRAL_8X7B, num_layers=1, **widths, **heads)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a narrow slice instead of a wide one")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", default="cpu", type=torch.device, help="cpu or cuda:N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = rows(Path(scratch), options.device, options.quick)
    if options.json:
        table = [{**asdict(row), "error": row.error} for row in found]
        print(json.dumps({"machine": machine(), "rows": table}))
        return
    print(f"{machine()}\n\n| model | device | context | promised | allocated | error |")
    print("|---|---|---|---|---|---|")
    for row in found:
        print(
            f"| {row.model} | {row.device} | {row.context} | {row.promised / 1e6:.2f} MB | "
            f"{row.allocated / 1e6:.2f} MB | {row.error:+.2%} |"
        )


if __name__ == "__main__":
    main()
