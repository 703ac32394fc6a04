"""Decoding beside the memory's speed: contexts, batches, pruning; the demo beside transformers.

    python -m benchmarks.decode [--quick] [--json] [--threads N]

The demo's shape and two layers of Mixtral 8x7B in full width, both with random codes at 2.5 bits:
no weight changes the speed. The context is filled with random keys and values, and tokens are run
one after another, without drawing (`mc-chat bench` draws). GB/s: bytes of weights that the tokens
pass, each expert once per token, over the time; the share is of what a sum over a long vector read
in the same round. Thresholds of ODP are quantiles of the ratio w1 / w0 over a prompt of the very
model: the median, as a compression learns it, with 2 % protected; "aggressive" is the upper
quartile, unprotected. Modes and implementations take turns, and ratios are medians of the rounds'
own. The demo itself in transformers decodes with its KV cache, on the threads that suit it: one.
`--quick`: fewer tokens and contexts, a quarter of the width.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

import assets
from benchmarks import fit
from benchmarks.machine import machine
from benchmarks.random_checkpoint import write_random_checkpoint
from engine import budget
from engine.cache import KVCache
from engine.checkpoint import load_model
from engine.config import ModelConfig
from engine.counters import Counters
from engine.model import Model
from engine.pruning import NO_PRUNING, OdpPruning, Pruning, RatioPruning, Routing
from engine.speed import peak_bytes

CPU = torch.device("cpu")
CONTEXTS = (128, 512, 1024, 4096, 16_384)
BATCHES = (1, 2, 4, 8)
BATCH_CONTEXT = 512
LEARNING_TOKENS = 128
VECTOR_BYTES = 1 << 28

Step = Callable[[Tensor], Tensor]
"""Runs tokens [B, 1]; logits [B, 1, V]."""


@dataclass(frozen=True)
class Row:
    """``tokens_per_second`` of all sequences of a batch; ``time_saved``, ``bytes_saved``: shares of
    the unpruned step in the same rounds."""

    model: str
    context: int
    batch: int
    pruning: str
    tokens_per_second: float
    prune_ratio: float
    gigabytes_per_second: float
    share: float
    time_saved: float
    bytes_saved: float


@dataclass(frozen=True)
class Rival:
    """Tokens per second of the demo, and ours (the demo's shape, unpruned) over theirs."""

    name: str
    tokens_per_second: float
    ratio: float


@dataclass(frozen=True)
class Found:
    """All of one model; ``memory``: bytes per second read, median; ``peak``: bytes of the process,
    the vector that measures the memory included."""

    rows: list[Row]
    rivals: list[Rival]
    memory: float
    peak: int


class Memory:
    """Reads a vector that is larger than any cache."""

    def __init__(self) -> None:
        self._vector = torch.ones(VECTOR_BYTES // 4)
        self.measured: list[float] = []

    def bytes_per_second(self) -> float:
        """The better of two readings."""
        took = []
        for _ in range(2):
            started = time.perf_counter()
            float(self._vector.sum())
            took.append(time.perf_counter() - started)
        self.measured.append(VECTOR_BYTES / min(took))
        return self.measured[-1]


class Ratios:
    """Hears the ratios w1 / w0 of each layer."""

    def __init__(self) -> None:
        self.by_layer: dict[int, Tensor] = {}

    def record(self, layer: int, routing: Routing) -> None:
        """See `RoutingCounter.record`."""
        self.by_layer[layer] = routing.weights[:, 1] / routing.weights[:, 0]

    def quantile(self, share: float) -> tuple[float, ...]:
        """That of each layer."""
        return tuple(float(ratios.quantile(share)) for _, ratios in sorted(self.by_layer.items()))


def modes(model: Model) -> dict[str, Pruning]:
    """By name, the unpruned one first."""
    heard = Ratios()
    tokens = torch.randint(model.config.vocab_size, (1, LEARNING_TOKENS))
    with torch.inference_mode():
        model.forward(tokens, counters=heard, last_only=True)
    nobody = (float("inf"),) * model.config.num_layers
    return {
        "off": NO_PRUNING,
        "odp": OdpPruning(heard.quantile(0.5), nobody),
        "aggressive": RatioPruning(heard.quantile(0.75)),
    }


def filled_cache(model: Model, context: int, batch: int, more: int) -> KVCache:
    cache = KVCache(model.config, context + more, batch, dtype=model.dtype)
    for layer in cache.layers:
        layer.keys.normal_()
        layer.values.normal_()
    cache.length = context
    return cache


def tokens_of(model: Model, batch: int, count: int) -> Sequence[Tensor]:
    return torch.randint(model.config.vocab_size, (count, batch, 1)).unbind()


def seconds(step: Step, tokens: Sequence[Tensor]) -> float:
    started = time.perf_counter()
    with torch.inference_mode():
        for token in tokens:
            step(token)
    return time.perf_counter() - started


def measure(
    name: str, model: Model, context: int, batch: int, count: int, rounds: int, memory: Memory
) -> list[Row]:
    """One context and batch, the memory and each kind of pruning in turn."""
    cache = filled_cache(model, context, batch, count)
    choices, counters = modes(model), Counters(model)
    times: dict[str, list[float]] = {mode: [] for mode in choices}
    activities, reads = {}, []
    for done in range(rounds + 1):  # the first warms up
        tokens = tokens_of(model, batch, count)
        read = memory.bytes_per_second()
        if done:
            reads.append(read)
        for mode, pruning in choices.items():
            cache.truncate(context)
            before = counters.read()
            spent = seconds(
                lambda token, p=pruning: model.forward(token, cache, p, counters), tokens
            )
            activities[mode] = counters.read().since(before)
            if done:
                times[mode].append(spent)
    rows = []
    for mode, spent in times.items():
        middle, activity = statistics.median(spent), activities[mode]
        passed = batch * count * activity.activated_bytes
        kept = statistics.median(a / b for a, b in zip(spent, times["off"], strict=True))
        bytes_kept = activity.activated_bytes / activities["off"].activated_bytes
        rows.append(
            Row(
                model=name,
                context=context,
                batch=batch,
                pruning=mode,
                tokens_per_second=batch * count / middle,
                prune_ratio=activity.prune_ratio,
                gigabytes_per_second=passed / middle / 1e9,
                share=statistics.median(
                    passed / took / read for took, read in zip(spent, reads, strict=True)
                ),
                time_saved=1 - kept,
                bytes_saved=1 - bytes_kept,
            )
        )
    return rows


def rivals(ours: Model, count: int, rounds: int) -> list[Rival]:
    """The demo in transformers, 16-bit and float32, after as many tokens as ours."""
    from transformers import AutoModelForCausalLM, DynamicCache

    context = CONTEXTS[0]
    dtypes = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    models = {
        name: AutoModelForCausalLM.from_pretrained(assets.DEMO_DIR, dtype=dtype).eval()
        for name, dtype in dtypes.items()
    }
    prompt = torch.randint(ours.config.vocab_size, (1, context))
    times: dict[str, list[float]] = {name: [] for name in ("ours", *models)}
    for done in range(rounds + 1):
        tokens = tokens_of(ours, 1, count)
        cache = filled_cache(ours, context, 1, count)
        spent = {"ours": seconds(lambda token, c=cache: ours.forward(token, c), tokens)}
        for name, model in models.items():
            past = DynamicCache(config=model.config)
            with torch.inference_mode():
                model(prompt, past_key_values=past)
            spent[name] = seconds(
                lambda token, m=model, p=past: m(token, past_key_values=p).logits, tokens
            )
        if done:
            for name, value in spent.items():
                times[name].append(value)
    return [
        Rival(
            f"transformers, {name}",
            count / statistics.median(times[name]),
            statistics.median(b / a for a, b in zip(times["ours"], times[name], strict=True)),
        )
        for name in models
    ]


def demo(quick: bool, threads: int) -> Found:
    """The demo's shape, on one thread."""
    torch.set_num_threads(1)
    config = ModelConfig.from_folder(assets.DEMO_DIR)
    contexts = [context for context in CONTEXTS if context < config.max_context]
    found = run("demo's shape", config, contexts, 32 if quick else 64, 5 if quick else 15, quick)
    with tempfile.TemporaryDirectory() as scratch:
        model = slice_of(Path(scratch), config)
        return dataclasses.replace(found, rivals=rivals(model, 64, 3 if quick else 9))


def wide(quick: bool, threads: int) -> Found:
    """Two layers of Mixtral 8x7B, or a narrow one."""
    torch.set_num_threads(threads)
    config = fit.quarter() if quick else fit.full_width()
    name = f"Mixtral 8x7B, {'a quarter' if quick else 'full width'}, {config.num_layers} layers"
    return run(name, config, CONTEXTS, 8, 3 if quick else 5, quick)


def run(
    name: str, config: ModelConfig, contexts: Sequence[int], count: int, rounds: int, quick: bool
) -> Found:
    with tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(0)
        model = slice_of(Path(scratch), config)
        memory = Memory()
        chosen = [BATCH_CONTEXT] if quick else contexts
        cases = [(context, 1) for context in chosen]
        cases += [(BATCH_CONTEXT, batch) for batch in BATCHES[1:]]
        rows = [
            row
            for context, batch in cases
            for row in measure(name, model, context, batch, count, rounds, memory)
        ]
        return Found(rows, [], statistics.median(memory.measured), peak_bytes(CPU))


def slice_of(scratch: Path, config: ModelConfig) -> Model:
    folder = scratch / "model"
    write_random_checkpoint(folder, config, fit.WIDE, budget.GROUP_SIZE)
    return load_model(folder)


def main() -> None:
    """Print the tables. Each model has a process of its own, whose peak is the model's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        found = [pool.submit(one, options.quick, options.threads).result() for one in (demo, wide)]
    where = f"{machine()}; {options.threads} threads (the demo: 1), torch {torch.__version__}"
    if options.json:
        print(json.dumps({"machine": where, "models": [asdict(one) for one in found]}))
        return
    print(f"{where}\n")
    print("| model | context | batch | ODP | tokens/s | skipped | GB/s | of memory | time saved |")
    print("|---|---|---|---|---|---|---|---|---|")
    for one in found:
        for row in one.rows:
            saved = "" if row.pruning == "off" else f"{row.time_saved:.1%} of {row.bytes_saved:.1%}"
            print(
                f"| {row.model} | {row.context} | {row.batch} | {row.pruning} "
                f"| {row.tokens_per_second:.1f} | {row.prune_ratio:.0%} "
                f"| {row.gigabytes_per_second:.2f} | {row.share:.0%} | {saved} |"
            )
    print("\n(time saved: the step's, of the bytes saved.)\n")
    for one in found:
        name = one.rows[0].model
        print(f"{name}: memory read at {one.memory / 1e9:.1f} GB/s, peak {one.peak / 1e9:.2f} GB")
        for rival in one.rivals:
            print(f"{rival.name}: {rival.tokens_per_second:.0f} tokens/s, ours x {rival.ratio:.2f}")


if __name__ == "__main__":
    main()
