"""Every kernel for GPUs against float64, on the device at hand: what `benchmarks.gpu_suite` checks.

Each check yields rows with the largest error, relative to the largest value of the exact result.
Whole steps are compared in float32, where rounding cannot hide a mistake.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.random_checkpoint import random_model
from compress.quantizers.kernels import reference
from engine.architectures.architecture import Traits
from engine.attention import AttentionStatistics
from engine.budget import KvBits
from engine.cache import KVCache, Stored
from engine.config import ModelConfig
from engine.counters import Counters
from engine.decoding.choice import device_steps
from engine.decoding.context import Context
from engine.decoding.plain import PlainOperations
from engine.decoding.request import Request
from engine.decoding.state import DecodeState, LayerRule
from engine.decoding.steps import HostSteps, Steps
from engine.kernels import Arena
from engine.layout import MATRICES, PackedShape, arena_layout
from engine.otp import OtpPruning
from engine.packing import PackedMatrix, dequantize
from engine.protocol import SamplingOptions
from engine.pruning import NO_PRUNING, OdpPruning, Pruning, route
from engine.sampling import Sampler

if TYPE_CHECKING:
    from engine.decoding.fused import TritonOperations

Row = dict[str, object]
Capture = Callable[[Callable[[], None]], Callable[[], None]]

TOLERANCES = {torch.float32: 2e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
WIDTHS = (1, 2, 3, 4, 8)


@dataclass(frozen=True)
class CheckSizes:
    """How large the checks are; the smallest still cross every block of the kernels."""

    rows: int
    columns: int
    inner: int
    experts: int
    keys: int
    tokens: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]
    draws: int
    vocabularies: tuple[int, ...]
    replies: int
    model: ModelConfig


def compared(what: str, ours: Tensor, exact: Tensor, tolerance: float) -> Row:
    """A row of the table."""
    error = float((ours.double() - exact.double()).abs().max() / exact.double().abs().max())
    return {"check": what, "error": error, "limit": tolerance, "ok": error <= tolerance}


def products(sizes: CheckSizes, device: str) -> Iterator[Row]:
    """Packed and 16-bit matrices times one token and many, and experts of mixed widths."""
    from engine.kernels.triton.products import TritonKernels

    kernels = TritonKernels()
    for dtype in sizes.dtypes:
        for tokens in sizes.tokens:
            x = torch.randn(tokens, sizes.columns, device=device).to(dtype)
            for bits in WIDTHS:
                matrix = _matrix(sizes.rows, sizes.columns, bits, device)
                exact = x.double() @ dequantize(matrix).double().T
                what = f"{bits} bits, {tokens} tokens, {dtype}"
                yield compared(what, kernels.matmul(x, matrix), exact, TOLERANCES[dtype])
            weight = torch.randn(sizes.rows, sizes.columns, device=device).to(torch.bfloat16)
            exact = x.double() @ weight.double().T
            ours = kernels.half_matmul(x, weight)
            yield compared(f"16 bits, {tokens} tokens, {dtype}", ours, exact, TOLERANCES[dtype])
            for rotated in (False, True):
                yield _experts(kernels, sizes, x, rotated, device)


def _matrix(rows: int, columns: int, bits: int, device: str) -> PackedMatrix:
    shape = PackedShape(rows, columns, bits, 128)
    return PackedMatrix(
        shape,
        torch.randint(-(2**31), 2**31, (shape.code_words,), dtype=torch.int32, device=device),
        torch.rand(shape.scales, device=device).half() * columns**-0.5 / 2**bits,
        torch.rand(shape.zeros, device=device).half() * (2**bits - 1),
    )


def _experts(kernels: object, sizes: CheckSizes, x: Tensor, rotated: bool, device: str) -> Row:
    """Some slots are skipped."""
    bits = tuple(1 + index % 3 for index in range(sizes.experts))
    arena = _arena(sizes.columns, sizes.inner, bits, rotated, device)
    ids = torch.randint(-1, sizes.experts, (len(x), 2), device=device)
    weights = torch.rand(len(x), 2, device=device)
    exact = torch.zeros(len(x), sizes.columns, dtype=torch.float64, device=device)
    for expert in range(sizes.experts):
        gate, up, down = (dequantize(arena.matrix(expert, name)).double() for name in MATRICES)
        inner = F.silu(x.double() @ gate.T) * (x.double() @ up.T)
        share = weights.masked_fill(ids != expert, 0.0).sum(dim=1, keepdim=True)
        exact += share * (inner @ down.T)
    ours = kernels.experts(x, ids, weights, arena)  # type: ignore[attr-defined]
    kind = "rotated experts" if rotated else "experts"
    what = f"{kind} of 1 to 3 bits, {len(x)} tokens, {x.dtype}"
    return compared(what, ours, exact, 2 * TOLERANCES[x.dtype])


def _arena(hidden: int, inner: int, bits: tuple[int, ...], rotated: bool, device: str) -> Arena:
    layout = arena_layout(bits, hidden, inner, 128, rotated)
    return Arena(
        layout,
        torch.randint(-(2**31), 2**31, (layout.code_words,), dtype=torch.int32, device=device),
        torch.rand(layout.scales, device=device).half() * hidden**-0.5,
        torch.rand(layout.zeros, device=device).half() * 2,
    )


def attention(sizes: CheckSizes, device: str) -> Iterator[Row]:
    """One token over a cache of both widths, and prompts with what each token receives."""
    from engine.kernels.triton import attention as kernels
    from engine.kernels.triton import prompt_attention

    heads, kv_heads, dim = 8, 2, 128
    for dtype in sizes.dtypes:
        for bits in (16, 8):
            for length in (1, sizes.keys // 3, sizes.keys):
                q = torch.randn(heads, dim, device=device).to(dtype)
                cache = _filled(sizes.keys, kv_heads, dim, dtype, bits, device).layers[0]
                position = torch.tensor([length - 1], dtype=torch.int32, device=device)
                exact, own = (
                    torch.empty(1, heads * dim, device=device),
                    torch.empty(1, device=device),
                )
                PlainOperations().decode_attention(q, cache, position, None, exact, own)
                out, our_own = torch.empty_like(exact), torch.empty_like(own)
                scratch = kernels.DecodeScratch.allocate(heads, dim, device)
                kernels.decode_attention(q, cache, position, None, scratch, out, our_own)
                what = f"a token over {length} keys of {bits} bits, {dtype}"
                yield compared(what, out, exact, TOLERANCES[dtype])
                yield compared(f"{what}: itself", our_own, own, TOLERANCES[dtype])
        tokens, start = sizes.keys // 2 - 1, sizes.keys // 3
        q = torch.randn(1, heads, tokens, dim, device=device).to(dtype)
        keys, values = torch.randn(2, 1, kv_heads, start + tokens, dim, device=device).to(dtype)
        mixed, lse = prompt_attention.flash_prefill(q, Stored(keys), Stored(values), start, None)
        exact, map_ = _exact_attention(q, keys, values, start)
        what = f"a prompt of {tokens} after {start}, {dtype}"
        yield compared(what, mixed, exact, TOLERANCES[dtype])
        received, _ = prompt_attention.received(q, Stored(keys), lse, start, None)
        new = map_.mean(dim=1)[:, :, start:].sum(dim=1)  # [B, T]
        yield compared(f"{what}: received", received, new, TOLERANCES[dtype])


def _filled(
    tokens: int, heads: int, dim: int, dtype: torch.dtype, bits: KvBits, device: str
) -> KVCache:
    """A cache full of random keys and values."""
    config = ModelConfig(8, 8, 8, 1, heads, heads, dim, 2, 2, 1e6, 1e-5, tokens)
    cache = KVCache(config, tokens, device=device, dtype=dtype, bits=bits)
    keys, values = torch.randn(2, 1, heads, tokens, dim, device=device).to(dtype)
    cache.layers[0].write(0, keys, values)
    return cache


def _exact_attention(q: Tensor, keys: Tensor, values: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """In float64: the mixed values [B, N, T, D] and the map [B, N, T, S]."""
    repeat = q.shape[1] // keys.shape[1]
    k, v = (part.double().repeat_interleave(repeat, dim=1) for part in (keys, values))
    scores = q.double() @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    places = torch.arange(k.shape[2], device=q.device)
    hidden = places > start + torch.arange(q.shape[2], device=q.device)[:, None]
    map_ = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
    return map_ @ v, map_


def drawing(sizes: CheckSizes, device: str) -> Iterator[Row]:
    """The token drawn on the device is the host's."""
    for vocabulary in sizes.vocabularies:
        state, operations = drawing_state(sizes.model, vocabulary, device)
        for options in (
            SamplingOptions(temperature=0.0),
            SamplingOptions(seed=1),
            SamplingOptions(temperature=1.2, top_k=50, top_p=0.9, min_p=0.0, seed=2),
            SamplingOptions(repetition_penalty=1.2, seed=3),
        ):
            host = Sampler(options, vocabulary, [1, 2, 3])
            state.drawing.begin(options, [1, 2, 3])
            wrong = 0
            for _ in range(sizes.draws):
                state.activations.logits.normal_(0, 3)
                state.slot.zero_()
                operations.draw(state)
                wrong += host.draw(state.activations.logits[0].cpu().numpy()) != int(state.token)
            # A number may fall between two tokens' shares, where rounding decides.
            limit = sizes.draws // 100
            what = f"draws from {vocabulary:,}, {options}"
            yield {"check": what, "error": wrong, "limit": limit, "ok": wrong <= limit}


def drawing_state(
    config: ModelConfig, vocabulary: int, device: str
) -> tuple[DecodeState, "TritonOperations"]:
    """What it takes to draw from a vocabulary; the model behind it is a narrow one."""
    from engine.decoding.fused import TritonOperations

    narrow = replace(
        config, vocab_size=vocabulary, hidden_size=128, intermediate_size=128, num_layers=1
    )
    model = random_model(narrow, (2,) * config.num_experts, 128, device, torch.float32)
    return DecodeState.allocate(model), TritonOperations(model)


def routing(sizes: CheckSizes, device: str) -> Iterator[Row]:
    """A token's experts, by every pruning, against the general path in float64."""
    from engine.kernels.triton import routing as kernels

    for (experts, top_k), dtype in itertools.product(ROUTES, sizes.dtypes):
        weight = torch.randn(experts, sizes.columns, device=device).to(dtype) * 0.05
        scratch = kernels.Scratch.allocate(experts, top_k, device)
        for name, pruning in random_prunings(1, sizes.columns, top_k, device).items():
            wrong, slots, error = 0, 0, 0.0
            for _ in range(sizes.tokens[-1]):
                x = torch.randn(1, sizes.columns, device=device).to(dtype)
                own = torch.rand(1, device=device)
                ids = torch.empty(1, top_k, dtype=torch.int64, device=device)
                weights, counts = torch.empty(1, top_k, device=device), ids.new_zeros(2 * experts)
                rule, choice = layer_rule(pruning, sizes.columns, top_k, device), (ids, weights)
                kernels.route(x, weight, True, rule, own, scratch, kernels.Choice(*choice, counts))
                found = route((x.double() @ weight.double().T).float(), top_k)
                seen = AttentionStatistics(own[None], own[None], decoding=True)
                expected = pruning.prune(0, found, x, seen)
                wrong += int((ids != expected.ids).sum())
                error = max(error, float((weights - expected.weights).abs().max()))
                slots += top_k
            # A ratio may lie on its threshold, where rounding decides.
            what, limit = f"top {top_k} of {experts}, {name}, {dtype}", slots // 100
            yield {"check": what, "error": wrong, "limit": limit, "ok": wrong <= limit}
            if not wrong:
                yield {
                    "check": f"{what}: weights",
                    "error": error,
                    "limit": 1e-4,
                    "ok": error <= 1e-4,
                }


ROUTES = ((8, 2), (60, 4), (128, 8))
"""Experts and how many of them: Mixtral, Qwen1.5-MoE, Qwen3-MoE."""


def random_prunings(layers: int, hidden: int, top_k: int, device: str) -> dict[str, Pruning]:
    """Off, ODP with a threshold for every rank, and OTP, each skipping some of a random model."""
    levels = tuple(0.8 - 0.5 * rank / top_k for rank in range(top_k - 1))
    odp = OdpPruning(
        (levels[0],) * layers, (1e3,) * layers, ranks=(levels[1:],) * layers if top_k > 2 else ()
    )
    routers = torch.randn(layers, top_k - 1, hidden + top_k, device=device) * hidden**-0.5
    return {"pruning off": NO_PRUNING, "ODP": odp, "OTP": OtpPruning(routers, 0.5)}


def layer_rule(pruning: Pruning, hidden: int, top_k: int, device: str) -> LayerRule:
    """A pruning of one layer as a step has it."""
    rule = pruning.decode_rule(1)
    assert rule is not None
    routers = torch.zeros(top_k - 1, hidden + top_k, device=device)
    price = torch.zeros(1, device=device)
    if rule.otp is not None:
        routers, price = rule.otp.routers[0], price + rule.otp.price
    return LayerRule(rule.levels(top_k)[0].to(device), routers, price)


def kinds(config: ModelConfig) -> dict[str, ModelConfig]:
    """Models of a size, as Mixtral and as the others."""
    top_k = min(4, config.num_experts)
    traits = {
        "OLMoE": Traits(norms="all", clip=2.0, renormalised=False),
        "Qwen3-MoE": Traits(norms="head"),
        "Qwen2-MoE": Traits(
            qkv_bias=True, renormalised=False, shared_size=config.intermediate_size
        ),
    }
    others = {name: replace(config, top_k=top_k, traits=has) for name, has in traits.items()}
    return {"Mixtral": config, **others}


def steps(sizes: CheckSizes, device: str, capture: Capture) -> Iterator[Row]:
    """Replies drawn in captured steps are those of the layers one by one, and counted alike, while
    the pruning changes at every token."""
    from engine.decoding.fused import TritonOperations

    widths, bits = _mixed_bits(sizes.model.num_experts), (16, 8)
    models = [(name, config, True) for name, config in kinds(sizes.model).items()]
    for name, config, rotated in (("Mixtral", sizes.model, False), *models):
        model = random_model(config, widths, 128, device, torch.float32, rotated)
        prunings = random_prunings(config.num_layers, config.hidden_size, config.top_k, device)
        for kv_bits in bits if name == "Mixtral" and rotated else bits[:1]:
            context = Context(model, config.max_context, kv_bits)
            ours, note = device_steps(context, TritonOperations(model), capture)
            expected = _reply(context, HostSteps(context), prunings, sizes.replies)
            found = _reply(context, ours, prunings, sizes.replies)
            what = f"{sizes.replies} tokens, {name}{', rotated' if rotated else ''}"
            yield {
                "check": f"{what}, KV {kv_bits} bits ({note})",
                "error": int(found != expected),
                "limit": 0,
                "ok": found == expected,
            }


def _mixed_bits(experts: int) -> tuple[int, ...]:
    return tuple(1 + index % 3 for index in range(experts))


def _reply(context: Context, steps: Steps, prunings: Mapping[str, Pruning], count: int) -> object:
    """The tokens of a greedy reply and what ran for them, by each of the prunings in turn."""
    context.forget()
    turns = itertools.cycle(prunings.values())
    counters = Counters(context.model)
    prompt = [(7 * place) % context.model.config.vocab_size for place in range(9)]
    request = Request(prompt, SamplingOptions(temperature=0.0), pruning=lambda: next(turns))
    logits = context.prefill(request, counters)
    assert logits is not None
    tokens = list(islice(steps.draws(logits, request, counters), count))
    activity = counters.read()
    return tokens, activity.runs, activity.skips


def rounding(sizes: CheckSizes, device: str) -> Iterator[Row]:
    """Compressing: the sweep over a group's inputs."""
    from compress.quantizers.kernels import triton

    for top in (1, 3, 15):
        targets = torch.randn(sizes.rows, 128, device=device)
        couplings = 0.05 * torch.randn(128, 128, device=device).triu(1)
        scale = torch.rand(sizes.rows, device=device) + 0.3
        zero = torch.rand(sizes.rows, device=device) * top
        ours = triton.sweep(targets, None, couplings, scale, zero, top)
        exact = reference.sweep(
            targets.double(), None, couplings.double(), scale.double(), zero.double(), top
        )
        share = float((ours.double() != exact.double()).double().mean())
        # A level half-way between two may fall either way, and moves what comes after it.
        yield {
            "check": f"sweep, {top + 1} levels",
            "error": share,
            "limit": 1e-3,
            "ok": share < 1e-3,
        }
