"""What a load on a GPU prepares and decides: kernels compiled ahead, whose 4-bit products run."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.dense_backends import Ours, compare, random_matrix
from benchmarks.gpu_checks import Row
from benchmarks.gpu_speeds import SpeedSizes
from benchmarks.random_checkpoint import random_model
from engine.checkpoint import attention_shapes
from engine.counters import Counters
from engine.decoding import dense
from engine.decoding.context import Context
from engine.decoding.warming import Sizes, warm_prompts_and_steps
from engine.kernels.foreign import BACKENDS
from engine.pruning import NO_PRUNING

GROUP_SIZE = 128
LIMIT_SECONDS = 0.5
"""How much longer a first prompt may take than a second one, once all is compiled."""


def warming(sizes: SpeedSizes, device: str, prompts: tuple[int, ...]) -> Iterator[Row]:
    """How long it takes to compile ahead, and whether a first prompt then waits for anything."""
    place, config = torch.device(device), sizes.model
    needs = Sizes(config, sizes.dtype, (max(sizes.expert_bits),), GROUP_SIZE, sizes.rotated)
    for name in ("compiled ahead", "once more"):
        seconds = _seconds(lambda: warm_prompts_and_steps(needs, place, prompts), device)
        yield {"warming": name, "seconds": seconds}
    shallow = replace(config, num_layers=min(2, config.num_layers))
    model = random_model(shallow, sizes.expert_bits, GROUP_SIZE, device, sizes.dtype, sizes.rotated)
    context = Context(model, sizes.prompt + 1)

    def prompt() -> None:
        context.forget()
        context.forward([0] * sizes.prompt, NO_PRUNING, Counters(model))

    first, second = _seconds(prompt, device), _seconds(prompt, device)
    yield {
        "check": "seconds that a first prompt takes longer",
        "error": first - second,
        "limit": LIMIT_SECONDS,
        # A CPU has kernels of its own, which nothing has compiled here.
        "ok": device == "cpu" or first - second <= LIMIT_SECONDS,
    }


def dense_products(sizes: SpeedSizes, device: str) -> Iterator[Row]:
    """Each backend's products of one token, and what a load would choose."""
    shapes = attention_shapes(sizes.model, GROUP_SIZE)
    q, k, v, o = (
        random_matrix(shapes[name].rows, shapes[name].columns, device)
        for name in ("q", "k", "v", "o")
    )
    clock = dense.Clock(_timed, _timed) if device == "cpu" else dense.cuda_clock()

    def microseconds(call: Callable[[], Tensor]) -> float:
        def run() -> None:
            call()

        return 1e6 * clock.launched(run)

    for matrix in (q, k):
        for row in compare(
            (Ours(), *BACKENDS), matrix, microseconds, sizes.dtype, sizes.repetitions
        ):
            yield {
                "backend": row.backend,
                "matrix": row.shape,
                "us": row.microseconds,
                "error": row.error,
                "same bytes": row.same_bytes,
                "problem": row.problem,
            }
    yield {"chosen": str(dense.compare((q, k, v, o), sizes.dtype, BACKENDS, clock))}


def _timed(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _seconds(run: Callable[[], None], device: str) -> float:
    """Of one run, to the end of what it has launched."""
    if device == "cpu":
        return _timed(run)

    def finished() -> None:
        run()
        torch.cuda.synchronize()

    return _timed(finished)
