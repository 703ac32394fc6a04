"""How fast a model runs, and what share of the memory's speed that is."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch

from engine.counters import Activity, Counters
from engine.decoding.request import Request
from engine.errors import ContextFullError
from engine.generation import Generator
from engine.protocol import SamplingOptions
from engine.pruning import Pruning

_REPEATS = 3
_BANDWIDTH_BYTES = 1 << 28
"""Larger than any cache."""


@dataclass(frozen=True)
class Speed:
    """Medians over a few runs; decoding includes drawing the tokens.

    ``bandwidth_fraction``: bytes of weights a token needs, times tokens per second, over what the
    memory really delivers, measured in the same run by reading; ``copy_fraction``: by copying,
    where a byte counts twice. ``peak_bytes``: the most memory that was taken, on a CPU by the whole
    process with the mapped files, on a GPU by torch there.
    """

    decode_tokens_per_second: float
    prefill_tokens_per_second: float
    bytes_per_token: int
    bandwidth_fraction: float
    memory_bytes_per_second: float
    prompt_tokens: int
    tokens: int
    prune_ratio: float
    weights_bytes_per_second: float
    copy_fraction: float
    copy_bytes_per_second: float
    peak_bytes: int


@dataclass(frozen=True)
class _Run:
    """Seconds of one prompt and its reply, and what the reply activated."""

    prefill: float
    decode: float
    activity: Activity


def measure(
    generator: Generator,
    pruning: Pruning,
    prompt_tokens: int,
    tokens: int,
    listener: Callable[[str], None],
) -> Speed:
    """Prefill and decode a few times; ``listener`` hears what is being done.

    Raises ContextFullError when prompt and reply do not fit the context.
    """
    capacity = generator.cache.capacity
    if prompt_tokens + tokens > capacity:
        raise ContextFullError(
            f"{prompt_tokens} + {tokens} tokens do not fit a context of {capacity}; "
            "ask for fewer by --prompt and --tokens"
        )
    runs = []
    for repeat in range(_REPEATS + 1):
        listener(f"run {repeat} of {_REPEATS}" if repeat else "warming up")
        runs.append(_run(generator, pruning, prompt_tokens, tokens))
    decode = tokens / statistics.median(run.decode for run in runs[1:])
    weights = statistics.median(run.activity.activated_bytes for run in runs[1:])
    device = generator.model.embed.device
    peak = peak_bytes(device)
    listener("measuring the memory")
    read, copy = read_bandwidth(device), copy_bandwidth(device)
    return Speed(
        decode_tokens_per_second=decode,
        prefill_tokens_per_second=prompt_tokens / statistics.median(r.prefill for r in runs[1:]),
        bytes_per_token=round(weights),
        bandwidth_fraction=weights * decode / read,
        memory_bytes_per_second=read,
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        prune_ratio=statistics.median(run.activity.prune_ratio for run in runs[1:]),
        weights_bytes_per_second=weights * decode,
        copy_fraction=weights * decode / copy,
        copy_bytes_per_second=copy,
        peak_bytes=peak,
    )


def _run(generator: Generator, pruning: Pruning, prompt_tokens: int, tokens: int) -> _Run:
    """A prompt and a reply, drawn as replies are: on a GPU, in steps on the device."""
    generator.forget()
    counters = Counters(generator.model)
    vocabulary = generator.model.config.vocab_size
    request = Request(
        prompt=[(17 * place) % vocabulary for place in range(prompt_tokens)],
        sampling=SamplingOptions(temperature=0.0),
        max_tokens=tokens + 1,
        pruning=lambda: pruning,
    )
    started = time.perf_counter()
    logits = generator.prefill(request, counters)
    assert logits is not None  # nobody cancels it
    drawn = generator.steps.draws(logits, request, counters)
    next(drawn)  # waits for a GPU
    prefilled, before = time.perf_counter(), counters.read()
    for _ in islice(drawn, tokens):
        pass
    ended = time.perf_counter()
    return _Run(prefilled - started, ended - prefilled, counters.read().since(before))


def read_bandwidth(device: torch.device) -> float:
    """Bytes per second at which a long vector is read, the best of a few times."""
    vector = torch.ones(_BANDWIDTH_BYTES // 4, device=device)
    return _BANDWIDTH_BYTES / _best_seconds(lambda: float(vector.sum()))


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second that are read and written when a long vector is copied, likewise."""
    source = torch.ones(_BANDWIDTH_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    return 2 * _BANDWIDTH_BYTES / _best_seconds(lambda: float(target.copy_(source)[-1]))


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has taken so far; see `Speed`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    per_unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * per_unit


def _best_seconds(call: Callable[[], float]) -> float:
    """Least time of a call; that it returns a number makes it wait for a GPU."""
    best = float("inf")
    for _ in range(2 * _REPEATS):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best
