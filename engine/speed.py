"""How fast a model runs, and what share of the memory's speed that is."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.counters import Counters
from engine.errors import ContextFullError
from engine.generation import Generator
from engine.pruning import Pruning

_REPEATS = 3
_BANDWIDTH_BYTES = 1 << 28
"""Larger than any cache."""


@dataclass(frozen=True)
class Speed:
    """Medians over a few runs. ``bandwidth_fraction``: bytes of weights a token needs, times
    tokens per second, over what the memory really delivers, measured in the same run."""

    decode_tokens_per_second: float
    prefill_tokens_per_second: float
    bytes_per_token: int
    bandwidth_fraction: float
    memory_bytes_per_second: float
    prompt_tokens: int
    tokens: int


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
    prefill, decode, weights = (statistics.median(values) for values in zip(*runs[1:], strict=True))
    listener("measuring the memory")
    bandwidth = _read_bandwidth(generator.model.embed.device)
    return Speed(
        decode_tokens_per_second=decode,
        prefill_tokens_per_second=prefill,
        bytes_per_token=round(weights),
        bandwidth_fraction=weights * decode / bandwidth,
        memory_bytes_per_second=bandwidth,
        prompt_tokens=prompt_tokens,
        tokens=tokens,
    )


def _run(
    generator: Generator, pruning: Pruning, prompt_tokens: int, tokens: int
) -> tuple[float, float, float]:
    """Prefill tokens/s, decode tokens/s, and bytes of weights per decoded token."""
    generator.forget()
    counters = Counters(generator.model)
    vocabulary = generator.model.config.vocab_size
    prompt = [(17 * place) % vocabulary for place in range(prompt_tokens)]
    started = time.monotonic()
    for first in range(0, prompt_tokens, generator.prefill_chunk):
        chunk = prompt[first : first + generator.prefill_chunk]
        token = int(generator.forward(chunk, pruning, counters).argmax())  # waits for a GPU
    prefilled, before = time.monotonic(), counters.read()
    for _ in range(tokens):
        token = int(generator.forward([token], pruning, counters).argmax())
    ended = time.monotonic()
    activity = counters.read().since(before)
    return (
        prompt_tokens / (prefilled - started),
        tokens / (ended - prefilled),
        activity.activated_bytes,
    )


def _read_bandwidth(device: torch.device) -> float:
    """Bytes per second at which a long vector is read, the best of a few times."""
    vector = torch.ones(_BANDWIDTH_BYTES // 4, device=device)
    best = float("inf")
    for _ in range(2 * _REPEATS):
        started = time.monotonic()
        float(vector.sum())
        best = min(best, time.monotonic() - started)
    return _BANDWIDTH_BYTES / best
