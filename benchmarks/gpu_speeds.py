"""How fast a packed model of Mixtral 8x7B's shape runs on a GPU, and where a token's time goes."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import assets
from benchmarks.gpu_checks import (
    ROUTES,
    Capture,
    Row,
    drawing_state,
    layer_rule,
    random_prunings,
)
from benchmarks.random_checkpoint import random_model
from engine.budget import KvBits
from engine.config import ModelConfig
from engine.counters import Counters
from engine.decoding.adjustments import Adjustments
from engine.decoding.fused import TritonOperations
from engine.decoding.request import Request
from engine.decoding.state import DecodeState
from engine.devices import release_memory
from engine.experts import PackedExperts
from engine.generation import Generator
from engine.kernels.triton import routing
from engine.linear import FloatLinear, PackedLinear
from engine.model import Model
from engine.protocol import SamplingOptions
from engine.speed import copy_bandwidth, measure
from engine.tokenizer import Tokenizer

ROUNDS = 7


@dataclass(frozen=True)
class SpeedSizes:
    """What is timed; ``contexts`` are tokens of prompt before the decoded ones; so many
    ``repetitions`` of a product are compared."""

    model: ModelConfig
    expert_bits: tuple[int, ...]
    rotated: bool
    dtype: torch.dtype
    contexts: tuple[int, ...]
    prompt: int
    tokens: int
    vocabularies: tuple[int, ...]
    repetitions: int


def whole_model(sizes: SpeedSizes, device: str, listener: Callable[[str], None]) -> Iterator[Row]:
    """Decoding and prefill by every pruning, both widths of the cache. With random codes it skips
    what it happens to: MB/token says how much."""
    model = random_model(sizes.model, sizes.expert_bits, 128, device, sizes.dtype, sizes.rotated)
    config = sizes.model
    prunings = random_prunings(config.num_layers, config.hidden_size, config.top_k, device)
    tokenizer = Tokenizer.from_folder(assets.DEMO_DIR)
    yield {"model": "bytes of weights", "bytes": model.memory_bytes()}
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()  # random numbers took more than weights from a file
    bits: KvBits
    for bits in (16, 8):
        capacity = max(*sizes.contexts, sizes.prompt) + sizes.tokens + 1
        generator = Generator(model, tokenizer, capacity, bits)
        for prompt in dict.fromkeys((*sizes.contexts, sizes.prompt)):
            for name, pruning in prunings.items():
                listener(f"KV {bits} bits, prompt {prompt}, {name}")
                speed = measure(generator, pruning, prompt, sizes.tokens, listener)
                yield {
                    "model": generator.decoding,
                    "KV bits": bits,
                    "prompt": prompt,
                    "pruning": name,
                    "decode tokens/s": speed.decode_tokens_per_second,
                    "prefill tokens/s": speed.prefill_tokens_per_second,
                    "MB/token": speed.bytes_per_token / 1e6,
                    "share of copying": speed.copy_fraction,
                    "peak GB": speed.peak_bytes / 1e9,
                }
        del generator
        release_memory()  # the captured step's, too


def kernels(sizes: SpeedSizes, device: str, capture: Capture) -> Iterator[Row]:
    """Each kernel of a step, once for every layer, replayed as a graph: no launch is timed."""
    model = random_model(sizes.model, sizes.expert_bits, 128, device, sizes.dtype, sizes.rotated)
    context = max(sizes.contexts)
    generator = Generator(model, Tokenizer.from_folder(assets.DEMO_DIR), context)
    state, operations = DecodeState.allocate(model), TritonOperations(model)
    state.position.fill_(context - 1)
    state.activations.ids.copy_(torch.arange(sizes.model.top_k)[None])
    state.activations.weights.fill_(1 / sizes.model.top_k)
    copying = copy_bandwidth(torch.device(device))
    for part in _parts(model, generator, state, operations):
        seconds = _seconds(capture, part.run, device)
        speed = part.bytes_read / seconds
        yield {
            "kernel": part.name,
            "launches": part.launches,
            "us each": 1e6 * seconds / part.launches,
            "GB/s": speed / 1e9,
            "share of copying": speed / copying,
        }


@dataclass(frozen=True)
class _Part:
    """``run`` launches a kernel ``launches`` times and reads ``bytes_read`` of weights or keys."""

    name: str
    launches: int
    bytes_read: int
    run: Callable[[], None]


def _parts(
    model: Model, generator: Generator, state: DecodeState, operations: TritonOperations
) -> Iterator[_Part]:
    a, layers = state.activations, model.layers
    count = len(layers)

    def experts() -> None:
        for layer in layers:
            assert isinstance(layer.experts, PackedExperts)
            arena = layer.experts.arena
            inputs = a.turned if arena.layout.rotated else a.normed
            operations.experts_decode(inputs, a.ids, a.weights, arena, a.moved)

    def projections() -> None:
        for layer in layers:
            attention = layer.attention
            for linear, x, out in (
                (attention.q, a.normed, a.q),
                (attention.k, a.normed, a.k),
                (attention.v, a.normed, a.v),
                (attention.o, a.mixed, a.moved),
            ):
                if isinstance(linear, PackedLinear):
                    operations.packed_matvec(x, linear.matrix, out)
                else:  # another's products were faster
                    out.copy_(linear.forward(x))

    def attend() -> None:
        for cache in generator.cache.layers:
            operations.decode_attention(a.rotated, cache, state.position, None, a.mixed, a.own)

    def norms() -> None:
        for layer in layers:
            norm = layer.input_norm
            operations.rms_norm(a.residual, norm.weight, norm.eps, a.normed, a.moved)

    def turning_norms() -> None:
        for layer in layers:
            norm = layer.post_norm
            operations.rms_norm_turned(
                a.residual, norm.weight, norm.eps, a.normed, a.moved, a.turned, 128
            )

    def rotations() -> None:
        for layer, cache in zip(layers, generator.cache.layers, strict=True):
            adjustments, place = Adjustments.of(layer.attention), state.position
            operations.rope_write(
                a.q, a.k, a.v, adjustments, place, model.rope.frequencies, cache, a.rotated
            )

    def routes(price: Tensor) -> None:
        for layer in layers:
            router = layer.router
            assert isinstance(router, FloatLinear)
            rule = replace(state.layer_rule(layer.index), price=price)
            ids, weights = torch.empty_like(a.ids), torch.empty_like(a.weights)
            given = a.normed, router.weight, layer.renormalised, rule, a.own
            operations.route(*given, ids, weights, state.counts[0])

    def head() -> None:
        assert isinstance(model.head, FloatLinear)
        operations.half_matvec(a.normed, model.head.weight, a.logits)

    chosen = range(model.config.top_k)
    active = sum(layer.experts.expert_bytes()[index] for layer in layers for index in chosen)
    yield _Part("experts (2 launches)", count, active, experts)
    yield _Part("q, k, v, o", 4 * count, _bytes(_tensors(model)), projections)
    yield _Part("attention (2 launches)", count, generator.cache.memory_bytes(), attend)
    gains = _bytes(layer.input_norm.weight for layer in layers)
    yield _Part("norm", count, gains, norms)
    yield _Part("norm, turned too", count, gains, turning_norms)
    yield _Part("rotate and store", count, 0, rotations)
    read = _bytes(t for layer in layers for t in layer.router.tensors())
    free, dear = torch.zeros_like(state.price), torch.ones_like(state.price)
    yield _Part("route", count, read, lambda: routes(free))
    yield _Part("route, OTP", count, read + state.routers.nbytes, lambda: routes(dear))
    yield _Part("head", 1, _bytes(model.head.tensors()), head)
    yield _Part("draw (2 launches)", 1, a.logits.nbytes, lambda: _draw(state, operations))


def routes(sizes: SpeedSizes, device: str, capture: Capture) -> Iterator[Row]:
    """Choosing the experts of one token, by how many there are and what is skipped."""
    for experts, top_k in ROUTES:
        hidden = sizes.model.hidden_size
        x = torch.randn(1, hidden, device=device).to(sizes.dtype)
        router = torch.randn(experts, hidden, device=device).to(sizes.dtype)
        ids = torch.empty(1, top_k, dtype=torch.int64, device=device)
        weights, own = torch.empty(1, top_k, device=device), torch.rand(1, device=device)
        choice = routing.Choice(ids, weights, ids.new_zeros(2 * experts))
        scratch = routing.Scratch.allocate(experts, top_k, device)
        for name, pruning in random_prunings(1, hidden, top_k, device).items():
            rule = layer_rule(pruning, hidden, top_k, device)
            given = x, router, True, rule, own, scratch, choice

            def run() -> None:
                for _ in range(sizes.repetitions):
                    routing.route(*given)  # noqa: B023

            each = _seconds(capture, run, device) / sizes.repetitions
            yield {"experts": experts, "top k": top_k, "pruning": name, "us": 1e6 * each}


DRAWS = {
    "greedy": SamplingOptions(temperature=0.0),
    "min-p": SamplingOptions(seed=1),
    "top-k": SamplingOptions(temperature=1.0, top_k=40, min_p=0.0, seed=1),
    "top-p": SamplingOptions(temperature=1.0, top_p=0.95, min_p=0.0, seed=1),
    "nothing cut": SamplingOptions(temperature=1.0, min_p=0.0, seed=1),
}


def draws(sizes: SpeedSizes, device: str, capture: Capture) -> Iterator[Row]:
    """One draw from each vocabulary, by what cuts it."""
    for vocabulary in sizes.vocabularies:
        state, operations = drawing_state(sizes.model, vocabulary, device)
        state.activations.logits.normal_(0, 3)
        for name, options in DRAWS.items():
            state.drawing.begin(options, [1, 2, 3])
            seconds = _seconds(capture, lambda: _draw(state, operations), device)  # noqa: B023
            yield {"draw": name, "vocabulary": vocabulary, "us": 1e6 * seconds}


def _draw(state: DecodeState, operations: TritonOperations) -> None:
    state.slot.zero_()
    operations.draw(state)


def _tensors(model: Model) -> Iterator[Tensor]:
    for layer in model.layers:
        yield from layer.attention.tensors()


def _bytes(tensors: Iterator[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _seconds(capture: Capture, run: Callable[[], None], device: str) -> float:
    """The median time of all launches of ``run``."""
    with torch.inference_mode():
        run()
    replay = capture(run)
    times = []
    for _ in range(ROUNDS + 2):
        _wait(device)
        started = time.perf_counter()
        with torch.inference_mode():
            replay()
        _wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def launches(sizes: SpeedSizes, device: str) -> Iterator[Row]:
    """What the host asks of the device for one token, by the profiler's count."""
    config = replace(sizes.model, num_layers=min(2, sizes.model.num_layers))
    model = random_model(config, sizes.expert_bits, 128, device, sizes.dtype, sizes.rotated)
    generator = Generator(model, Tokenizer.from_folder(assets.DEMO_DIR), 32)
    request = Request([1, 2, 3], SamplingOptions(temperature=0.0))
    counters = Counters(model)
    logits = generator.prefill(request, counters)
    assert logits is not None
    draws = generator.steps.draws(logits, request, counters)
    list(islice(draws, 9))
    tokens = 8
    activities = [ProfilerActivity.CPU]
    if device != "cpu":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as found:
        list(islice(draws, tokens))
    for name in ("cudaGraphLaunch", "cudaLaunchKernel", "cuLaunchKernelEx", "cudaMemcpyAsync"):
        total = sum(event.count for event in found.key_averages() if event.key == name)
        yield {"call": name, "per token": total / tokens}
