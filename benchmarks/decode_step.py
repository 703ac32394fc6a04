"""The compiled step of decoding on a CPU: where its time goes, threads, pruning, overhead.

    python -m benchmarks.decode_step [--quick] [--json]

Models with random codes: the demo's shape, and a slice of Mixtral 8x7B at its true width (two
layers and the head, experts at 2 and 3 bits, random 16-bit embeddings). What is compared is timed
in turn within each round, figures are medians over rounds, and a ratio is the median of the rounds'
own ratios. `--quick`: a slice of one layer and a small head, fewer rounds.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit

from assets import DEMO_DIR
from benchmarks.machine import machine
from benchmarks.random_checkpoint import write_random_checkpoint
from engine.cache import KVCache
from engine.checkpoint import load_model
from engine.config import ModelConfig
from engine.counters import Counters
from engine.decoding.request import Request
from engine.experts import PackedExperts
from engine.generation import Generator
from engine.kernels.step import DecodeStep
from engine.model import Layer, Model
from engine.protocol import SamplingOptions
from engine.pruning import NO_PRUNING, DecodeRule
from engine.tokenizer import Tokenizer

GROUP_SIZE = 128
SLICE = ModelConfig(
    vocab_size=32_000,
    hidden_size=4096,
    intermediate_size=14_336,
    num_layers=2,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    num_experts=8,
    top_k=2,
    rope_theta=1e6,
    rms_norm_eps=1e-5,
    max_context=32_768,
)
SLICE_BITS = (2, 3, 2, 3, 2, 3, 2, 3)
DEMO_BITS = (2, 3, 2, 3, 2, 3, 2, 3)
PHASES = ("q, k, v", "attention", "o", "router", "gate, up", "down")
PACKED_PHASES = ("q, k, v", "o", "gate, up", "down")
EVERYTHING = "a token"
READ_BYTES = 1 << 28


@dataclass(frozen=True)
class Row:
    """One figure. ``microseconds`` and ``gigabytes_per_second`` are of one token where they apply;
    ``value`` is a share or a ratio."""

    model: str
    what: str
    context: int
    threads: int
    microseconds: float | None = None
    gigabytes_per_second: float | None = None
    value: float | None = None


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def made(scratch: Path, name: str, config: ModelConfig, bits: tuple[int, ...]) -> Model:
    torch.manual_seed(0)
    write_random_checkpoint(scratch / name, config, bits, GROUP_SIZE)
    return load_model(scratch / name)


def filled(model: Model, context: int, room: int = 64) -> KVCache:
    """A cache of ``context`` random tokens."""
    cache = KVCache(model.config, context + room)
    for layer in cache.layers:
        layer.keys[:, :, :context].normal_()
        layer.values[:, :, :context].normal_()
    cache.length = context
    return cache


def step_of(model: Model) -> DecodeStep:
    step = model.decoder.step(model)
    assert step is not None
    return step


def layer_bytes(layer: Layer, ids: Sequence[int], config: ModelConfig, context: int) -> list[int]:
    """Bytes that each phase of a layer reads, experts as they were chosen."""
    attention = layer.attention

    def size(*linears: Any) -> int:
        return sum(tensor.nbytes for linear in linears for tensor in linear.tensors())

    assert isinstance(layer.experts, PackedExperts)
    slots = layer.experts.arena.layout.slots
    gate, up, down = (
        sum(slots[k][matrix].shape.total_bytes for k in ids if k >= 0) for matrix in range(3)
    )
    cached = 2 * 4 * context * config.num_kv_heads * config.head_dim
    projections = size(attention.q, attention.k, attention.v)
    return [projections, cached, size(attention.o), size(layer.router), gate + up, down]


def phases(name: str, model: Model, context: int, threads: int, rounds: int) -> list[Row]:
    """The phases as the first thread sees them, means over layers."""
    config, step, cache = model.config, step_of(model), filled(model, context)
    stamps, rule = step.stamp(), NO_PRUNING.decode_rule(config.num_layers)
    spans, read = [], []
    with torch_threads(threads):
        for token in range(rounds + 2):
            started = time.monotonic_ns()
            step.run(token % config.vocab_size, cache, rule)
            spans.append(np.diff(np.concatenate(([started], stamps))))
            read.append(
                [
                    layer_bytes(layer, ids, config, context)
                    for layer, ids in zip(model.layers, step.ids.tolist(), strict=True)
                ]
            )
    times = np.array(spans[2:]) / 1e3  # microseconds
    of_layers = times[:, 1:-1].reshape(len(times), config.num_layers, -1).mean(axis=1)
    sizes = np.array(read[2:]).mean(axis=1)  # [rounds, phases]

    def row(what: str, micro: Any, size: Any = None) -> Row:
        rate = None if size is None else float(np.median(size / micro)) / 1e3
        return Row(name, what, context, threads, float(np.median(micro)), rate)

    rows = [row("embedding, start", times[:, 0])]
    rows += [row(what, of_layers[:, n], sizes[:, n]) for n, what in enumerate(PHASES)]
    head = sum(tensor.nbytes for tensor in model.head.tensors())
    rows += [row("head", times[:, -1], head)]
    whole = times.sum(axis=1)
    rows.append(row(EVERYTHING, whole, sizes.sum(axis=1) * config.num_layers + head))
    packed = [PHASES.index(what) for what in PACKED_PHASES]
    products = of_layers[:, packed].sum(axis=1) * config.num_layers
    shares = {
        "share of packed products": products / whole,
        "share of packed products, head aside": products / (whole - times[:, -1]),
        "share of all products": (products + times[:, -1]) / whole,
    }
    rows += [
        Row(name, what, context, threads, value=float(np.median(share)))
        for what, share in shares.items()
    ]
    return rows


def reading(threads: int) -> Row:
    """The speed at which a long vector is read: the roof of every GB/s above."""
    vector = torch.ones(READ_BYTES // 4)
    with torch_threads(threads):
        vector.sum()
        best = min(seconds(vector.sum) for _ in range(5))
    return Row("", "reading memory", 0, threads, 1e6 * best, READ_BYTES / best / 1e9)


@njit(nogil=True)
def _arithmetic(count: int) -> float:
    total = 1.0
    for n in range(count):
        total = total * 0.999999 + n
    return total


def scaling(name: str, model: Model, context: int, rounds: int) -> list[Row]:
    """Two threads over one: the step, and a loop that touches no memory."""
    step, cache = step_of(model), filled(model, context)
    rule = NO_PRUNING.decode_rule(model.config.num_layers)
    work = 20_000_000
    _arithmetic(1)

    def token(threads: int) -> float:
        with torch_threads(threads):
            return seconds(lambda: step.run(1, cache, rule))

    with ThreadPoolExecutor(2) as pool:

        def control(threads: int) -> float:
            parts = [work // threads] * threads
            return seconds(lambda: list(pool.map(_arithmetic, parts)))

        token(2), control(2)
        times = [[run(n) for run in (token, control) for n in (1, 2)] for _ in range(rounds)]
    ours = statistics.median(one / two for one, two, _, _ in times)
    controls = statistics.median(one / two for _, _, one, two in times)
    relative = statistics.median((a / b) / (c / d) for a, b, c, d in times)
    return [
        Row(name, "two threads over one", context, 2, value=ours),
        Row("", "two threads over one, arithmetic only", 0, 2, value=controls),
        Row(name, "the one over the other", context, 2, value=relative),
    ]


def pruned(name: str, model: Model, context: int, threads: int, rounds: int) -> list[Row]:
    """Time saved over bytes saved when every second slot is skipped, and when half of them are."""
    config, step, cache = model.config, step_of(model), filled(model, context)
    layers = config.num_layers
    ratios = []
    for token in range(32):
        step.run(token, cache, NO_PRUNING.decode_rule(layers))
        ratios.append(step.weights[:, 1] / step.weights[:, 0])
    middle = tuple(float(value) for value in np.median(ratios, axis=0))
    never = (float("inf"),) * layers
    rows = []
    for what, thresholds in (("half of", middle), ("all", (2.0,) * layers)):
        rule = DecodeRule(thresholds, never)
        saved = [
            _saving(model, step, cache, token, rule, context, threads) for token in range(rounds)
        ]
        sizes = statistics.mean(size for _, size in saved)
        ratio = statistics.median(time / size for time, size in saved if size > 0)
        words = f"{what} second slots skipped: "
        rows.append(Row(name, words + "bytes saved", context, threads, value=sizes))
        rows.append(Row(name, words + "time saved over that", context, threads, value=ratio))
    return rows


def _saving(
    model: Model,
    step: DecodeStep,
    cache: KVCache,
    token: int,
    rule: DecodeRule,
    context: int,
    threads: int,
) -> tuple[float, float]:
    """Shares of a token's time and bytes."""
    head = sum(tensor.nbytes for tensor in model.head.tensors())
    sizes, times = [], []
    with torch_threads(threads):
        for used in (NO_PRUNING.decode_rule(model.config.num_layers), rule):
            times.append(
                min(seconds(lambda used=used: step.run(token, cache, used)) for _ in range(3))
            )  # type: ignore[misc]
            sizes.append(
                head
                + sum(
                    sum(layer_bytes(layer, ids, model.config, context))
                    for layer, ids in zip(model.layers, step.ids.tolist(), strict=True)
                )
            )
    return 1 - times[1] / times[0], 1 - sizes[1] / sizes[0]


def overhead(model: Model, rounds: int) -> list[Row]:
    """What a token of the demo's shape costs around the step, layer by layer of the program."""
    context, tokens = 256, 100
    step, counters = step_of(model), Counters(model)
    rule = NO_PRUNING.decode_rule(model.config.num_layers)
    stamps = step.stamp()
    generator = Generator(model, Tokenizer.from_folder(DEMO_DIR), 1024)
    prompt = [(17 * place) % model.config.vocab_size for place in range(context)]
    ids, cache = torch.tensor([[5]]), filled(model, context, room=1)

    def compiled() -> float:
        step.run(5, cache, rule)
        return float(stamps[-1] - stamps[0]) / 1e9

    def forward() -> None:
        with torch.inference_mode():
            model.forward(ids, cache, NO_PRUNING, counters, last_only=True)
        cache.truncate(context)

    def reply(options: SamplingOptions) -> float:
        """Seconds a token, the prompt's pass aside; random logits may end a reply early."""
        answer = generator.start(Request(prompt, options, max_tokens=tokens))
        pieces = iter(answer)
        next(pieces)
        started, before = time.perf_counter(), answer.tokens
        for _ in pieces:
            pass
        return (time.perf_counter() - started) / max(1, answer.tokens - before)

    calls: dict[str, Callable[[], float]] = {
        "the compiled step": compiled,
        "`DecodeStep.run`": lambda: seconds(lambda: step.run(5, cache, rule)),
        "`Model.forward`": lambda: seconds(forward),
        "a token of a reply, greedy": lambda: reply(SamplingOptions(temperature=0)),
        "a token of a reply, default sampling": lambda: reply(SamplingOptions(seed=1)),
    }
    for call in calls.values():
        call()
    times = {what: [call() for _ in range(rounds)] for what, call in calls.items()}
    return [
        Row("demo", what, context, 1, 1e6 * statistics.median(values))
        for what, values in times.items()
    ]


def all_rows(scratch: Path, quick: bool) -> list[Row]:
    demo = made(scratch, "demo", ModelConfig.from_folder(DEMO_DIR), DEMO_BITS)
    rows = phases("demo", demo, 256, 1, 50 if quick else 500)
    rows += overhead(demo, 3 if quick else 15)
    rows += pruned("demo", demo, 256, 1, 20 if quick else 200)
    shape = SLICE
    if quick:
        shape = replace(SLICE, num_layers=1, vocab_size=2048)
    wide = made(scratch, "slice", shape, SLICE_BITS)
    rounds = 4 if quick else 15
    for context in (512,) if quick else (512, 8192, 32_000):
        for threads in (1, 2):
            rows += phases("slice", wide, context, threads, rounds)
    rows += [reading(threads) for threads in (1, 2)]
    rows += scaling("slice", wide, 512, rounds)
    rows += pruned("slice", wide, 512, 1, rounds)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        rows = all_rows(Path(scratch), options.quick)
    where = f"{machine()}; torch {torch.__version__}"
    if options.json:
        print(json.dumps({"machine": where, "rows": [asdict(row) for row in rows]}))
        return
    print(f"{where}\n")
    print("| model | what | context | threads | µs | GB/s | ratio |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        figures = (
            f"{row.microseconds:.4g}" if row.microseconds is not None else "",
            f"{row.gigabytes_per_second:.1f}" if row.gigabytes_per_second is not None else "",
            f"{row.value:.2f}" if row.value is not None else "",
        )
        context = row.context or ""
        print(f"| {row.model} | {row.what} | {context} | {row.threads} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
