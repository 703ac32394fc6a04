"""Prompts beside transformers: a layer of Mixtral 8x7B in full width, ours packed, theirs float32.

    python -m benchmarks.prefill [--quick] [--json] [--threads N]

Both have random weights and run the same prompt to the logits of its last token; ours in chunks of
256 tokens as replies do, theirs at once. They take turns; ratios are medians of the rounds' own.
Processor seconds stand beside wall-clock ones, since cores may be shared. The dense one takes 6 GB
of memory. `--quick`: a quarter of the width.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import fit
from benchmarks.machine import machine
from benchmarks.random_checkpoint import config_json, write_random_checkpoint
from engine import budget
from engine.cache import KVCache
from engine.checkpoint import load_model
from engine.config import ModelConfig
from engine.model import Model
from engine.pruning import NO_PRUNING, OdpPruning, Pruning

CHUNK = budget.PREFILL_CHUNK["cpu"]


@dataclass(frozen=True)
class Row:
    """Tokens per second, medians; ``ratio``: ours / theirs; seconds of processor time per run."""

    prompt: int
    pruning: str
    tokens_per_second: float
    dense_tokens_per_second: float
    ratio: float
    processor_seconds: float
    dense_processor_seconds: float


@dataclass(frozen=True)
class Spent:
    """One run, in seconds."""

    wall: float
    processor: float


def dense_model(config: ModelConfig) -> Any:
    """transformers' model of the same shape with weights that are neither zero nor subnormal."""
    from transformers import MixtralConfig, MixtralForCausalLM

    settings = MixtralConfig(**config_json(config))
    with torch.device("meta"):
        model = MixtralForCausalLM(settings)
    model = model.to_empty(device="cpu").float().eval()
    # Buffers were not computed on the meta device.
    model.model.rotary_emb = type(model.model.rotary_emb)(settings)
    noise = torch.randn(1 << 16) * config.hidden_size**-0.5
    for parameter in model.parameters():
        for part in parameter.data.flatten().split(len(noise)):
            part.copy_(noise[: len(part)])  # drawing all of them would take a minute
    return model


def ours(model: Model, prompt: Tensor, pruning: Pruning) -> None:
    cache = KVCache(model.config, prompt.shape[1], dtype=model.dtype)
    for chunk in prompt.split(CHUNK, dim=1):
        model.forward(chunk, cache, pruning, last_only=True)


def spend(call: Callable[[], object]) -> Spent:
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return Spent(time.perf_counter() - wall, time.process_time() - processor)


def measure(model: Model, dense: Any, prompts: Sequence[int], rounds: int) -> list[Row]:
    odp = OdpPruning((0.5,) * model.config.num_layers, (1.0,) * model.config.num_layers)
    rows = []
    warm = torch.zeros(1, 8, dtype=torch.int64)
    ours(model, warm, odp), dense(warm)
    for count in prompts:
        prompt = torch.randint(model.config.vocab_size, (1, count))
        spent: dict[str, list[Spent]] = {"off": [], "odp": [], "dense": []}
        for _ in range(rounds):
            runs = {
                "off": spend(lambda p=prompt: ours(model, p, NO_PRUNING)),
                "odp": spend(lambda p=prompt: ours(model, p, odp)),
                "dense": spend(lambda p=prompt: dense(p, logits_to_keep=1)),
            }
            for name, run in runs.items():
                spent[name].append(run)
        rows += [row(count, mode, spent[mode], spent["dense"]) for mode in ("off", "odp")]
    return rows


def row(count: int, mode: str, mine: Sequence[Spent], dense: Sequence[Spent]) -> Row:
    return Row(
        prompt=count,
        pruning=mode,
        tokens_per_second=count / statistics.median(run.wall for run in mine),
        dense_tokens_per_second=count / statistics.median(run.wall for run in dense),
        ratio=statistics.median(b.wall / a.wall for a, b in zip(mine, dense, strict=True)),
        processor_seconds=statistics.median(run.processor for run in mine),
        dense_processor_seconds=statistics.median(run.processor for run in dense),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = fit.quarter() if options.quick else fit.full_width()
    config = dataclasses.replace(config, num_layers=1)
    prompts, rounds = ((128, 512), 3) if options.quick else ((32, 128, 512, 1024), 3)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        folder = Path(scratch) / "slice"
        write_random_checkpoint(folder, config, fit.WIDE, budget.GROUP_SIZE)
        rows = measure(load_model(folder), dense_model(config), prompts, rounds)
    where = f"{machine()}; {options.threads} threads, torch {torch.__version__}"
    if options.json:
        print(json.dumps({"machine": where, "rows": [asdict(row) for row in rows]}))
        return
    print(f"{where}; hidden size {config.hidden_size}, 1 layer\n")
    print("| prompt | ODP | tokens/s | transformers, float32 | ratio | processor s | theirs |")
    print("|---|---|---|---|---|---|---|")
    for one in rows:
        print(
            f"| {one.prompt} | {one.pruning} | {one.tokens_per_second:.0f} "
            f"| {one.dense_tokens_per_second:.0f} | {one.ratio:.2f} "
            f"| {one.processor_seconds:.2f} | {one.dense_processor_seconds:.2f} |"
        )


if __name__ == "__main__":
    main()
