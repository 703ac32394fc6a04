"""Decode steps that live on a device, run uncaptured on a CPU, against the layers one by one."""

import dataclasses
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.kinds import LayerByLayer
from engine.architectures.architecture import Traits
from engine.budget import KvBits
from engine.cache import KVCache
from engine.config import ModelConfig
from engine.counters import Activity, Counters
from engine.decoding.choice import device_steps
from engine.decoding.context import Context
from engine.decoding.device import DeviceSteps
from engine.decoding.operations import Operations
from engine.decoding.plain import PlainOperations
from engine.decoding.request import Request
from engine.decoding.state import LOOK_TOKENS, DecodeState
from engine.decoding.step import DecodeStep
from engine.decoding.steps import HostSteps, Steps
from engine.errors import UsageError, WorkerError
from engine.layout import ArenaLayout
from engine.otp import OtpPruning
from engine.protocol import SamplingOptions
from engine.pruning import NO_PRUNING, OdpPruning, Pruning
from engine.sampling import Sampler
from tests.unit.device_reads import NoDeviceReads
from tests.unit.packed_models_for_tests import Shape, random_model

SHAPES = {
    "plain": Shape(),
    "window": Shape(window=3),
    "groups of 64": Shape(hidden=128, inner=192, heads=4, head_dim=32, group=64),
    "rotated": Shape(rotated=True),
    "rotated, groups of 64": Shape(hidden=128, inner=192, group=64, rotated=True),
    "packed router and head": Shape(router_bits=4, head_bits=4),
    "8-bit head": Shape(head_bits=8, vocab=33),
    "tied": Shape(tied=True),
    "top 1": Shape(top_k=1, expert_bits=(3, 1, 2)),
    "top 3 of 7": Shape(top_k=3, expert_bits=(1, 1, 2, 2, 3, 3, 4)),
    "as OLMoE": Shape(traits=Traits(norms="all", renormalised=False), top_k=3),
    "as OLMoE, clipped": Shape(traits=Traits(norms="all", clip=0.7), kv_heads=1),
    "as Qwen3-MoE": Shape(traits=Traits(norms="head"), top_k=3, rotated=True),
    "as Qwen2-MoE": Shape(traits=Traits(qkv_bias=True, renormalised=False, shared_size=96)),
}
DRAWN = Shape(layers=1, vocab=70)
GREEDY = SamplingOptions(temperature=0)
PROMPT = [5, 1, 9, 3, 30, 2]
CAPACITY = 40
LAYERS = Shape().layers
ODP = OdpPruning((0.6, 0.7), (20.0, 15.0))


def otp(shape: Shape) -> OtpPruning:
    """With random routers."""
    torch.manual_seed(9)
    size = shape.hidden + shape.top_k
    return OtpPruning(torch.randn(shape.layers, shape.top_k - 1, size) * 0.2, 0.5)


def uncaptured(run: Callable[[], None]) -> Callable[[], None]:
    return run


def on_device(context: Context, operations: Operations | None = None) -> Steps:
    return device_steps(context, operations or PlainOperations(), uncaptured)[0]


def captured_once(context: Context) -> tuple[Steps, list[None]]:
    """Steps that can be captured but once, and as many entries as were replayed."""
    replayed: list[None] = []
    captures = iter([None])

    def capture(run: Callable[[], None]) -> Callable[[], None]:
        next(captures)

        def replay() -> None:
            replayed.append(None)
            run()

        return replay

    return device_steps(context, PlainOperations(), capture)[0], replayed


def switched(calls: int, pruning: Pruning) -> Callable[[], Pruning]:
    """``pruning``, but none for the first forward passes."""
    asked = iter(range(10**6))
    return lambda: NO_PRUNING if next(asked) < calls else pruning


def reply(
    context: Context, steps: Steps, request: Request, count: int
) -> tuple[list[int], Activity]:
    """The first tokens of a reply, and what ran."""
    context.forget()
    counters = Counters(context.model)
    logits = context.prefill(request, counters)
    assert logits is not None
    draws = steps.draws(logits, request, counters)
    return list(islice(draws, count)), counters.read()


def assert_alike(
    context: Context, steps: Steps, pruning: Callable[[], Callable[[], Pruning]], count: int = 14
) -> Activity:
    """Tokens, counts and the valid part of the cache are those of the layers one by one."""

    def generally() -> Pruning:
        return LayerByLayer(asked())

    asked = pruning()
    host = HostSteps(context)
    expected, ran = reply(context, host, Request(PROMPT, GREEDY, pruning=generally), count)
    length = context.cache.length
    kept = [layer.keys[:, :, :length].clone() for layer in context.cache.layers]
    ours, counted = reply(context, steps, Request(PROMPT, GREEDY, pruning=pruning()), count)
    assert ours == expected
    assert counted == ran
    assert context.cache.length == length == len(PROMPT) + count - 1
    for layer, keys in zip(context.cache.layers, kept, strict=True):
        torch.testing.assert_close(layer.keys[:, :, :length], keys, atol=1e-3, rtol=1e-3)
    return counted


@pytest.mark.parametrize("name", SHAPES)
def test_a_step_does_what_the_layers_do(name: str) -> None:
    context = Context(random_model(SHAPES[name]), CAPACITY)
    assert_alike(context, on_device(context), lambda: lambda: NO_PRUNING)


def test_pruning_and_a_switch_in_the_middle() -> None:
    context = Context(random_model(Shape()), CAPACITY)
    steps = on_device(context)
    pruned = assert_alike(context, steps, lambda: lambda: ODP)
    assert 0.1 < pruned.prune_ratio < 0.5, "some slots are skipped, some tokens protected"
    assert sum(pruned.skipped) > sum(assert_alike(context, steps, lambda: switched(6, ODP)).skipped)
    assert_alike(context, steps, lambda: lambda: NO_PRUNING)


TOP_4 = Shape(top_k=4, expert_bits=(1, 2, 3, 2, 2, 1))
RANKS = OdpPruning((0.7, 0.5), (14.0, 20.0), ranks=((0.6, 0.2), (0.3, 0.4)))


@pytest.mark.parametrize(
    ("shape", "pruning"),
    [(TOP_4, RANKS), (Shape(), otp(Shape())), (TOP_4, otp(TOP_4))],
    ids=["ODP for every rank", "OTP", "OTP of four"],
)
def test_every_pruning_is_done_by_the_step(shape: Shape, pruning: Pruning) -> None:
    context = Context(random_model(shape), CAPACITY)
    steps, captured = captured_once(context)
    pruned = assert_alike(context, steps, lambda: lambda: pruning)
    assert 0.1 < pruned.prune_ratio < 0.7
    assert len(captured) >= 13, "nothing ran layer by layer"


@pytest.mark.parametrize(("shape", "odp"), [(Shape(), ODP), (TOP_4, RANKS)], ids=["two", "four"])
def test_mode_and_strength_may_change_at_every_token(shape: Shape, odp: OdpPruning) -> None:
    context, learned = Context(random_model(shape), CAPACITY), otp(shape)
    modes: tuple[Pruning, ...] = (NO_PRUNING, odp, learned, odp.scaled(2.0), learned.scaled(0.5))

    def in_turn() -> Callable[[], Pruning]:
        asked = iter(range(10**6))
        return lambda: modes[next(asked) // 3 % len(modes)]

    steps, captured = captured_once(context)
    assert_alike(context, steps, in_turn, 20)
    assert len(captured) >= 19


def test_a_rule_is_written_when_it_changes_and_not_for_every_token() -> None:
    context, learned = Context(random_model(Shape()), CAPACITY), otp(Shape())
    state = DecodeState.allocate(context.model)
    step = DecodeStep(context.model, context.cache, state, PlainOperations())
    steps = DeviceSteps(context, state, PlainOperations(), step.run)
    before = state.price._version
    reply(context, steps, Request(PROMPT, GREEDY, pruning=lambda: learned.scaled(0.5)), 14)
    assert state.price._version == before + 1


def test_thresholds_for_another_number_of_experts_are_refused() -> None:
    context = Context(random_model(Shape(top_k=3)), CAPACITY)
    for pruning in (ODP, otp(Shape())):
        steps = on_device(context)
        request = Request(PROMPT, GREEDY, pruning=switched(1, pruning))
        with pytest.raises(UsageError, match="--pruning off"):
            reply(context, steps, request, 3)


def test_what_no_rule_tells_runs_on_the_host_and_the_device_goes_on() -> None:
    context = Context(random_model(Shape()), CAPACITY)

    def in_the_middle() -> Callable[[], Pruning]:
        asked = iter(range(100))
        return lambda: LayerByLayer(ODP) if next(asked) // 3 == 1 else ODP

    steps = on_device(context)
    expected, _ = reply(context, HostSteps(context), Request(PROMPT, GREEDY), 14)
    request = Request(PROMPT, GREEDY, pruning=lambda: LayerByLayer(NO_PRUNING))
    assert reply(context, steps, request, 14)[0] == expected
    request = Request(PROMPT, GREEDY, pruning=in_the_middle())
    expected, ran = reply(context, steps, Request(PROMPT, GREEDY, pruning=lambda: ODP), 14)
    assert reply(context, steps, request, 14) == (expected, ran)


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(temperature=1.5, min_p=0.02, seed=3),
        SamplingOptions(temperature=1.2, min_p=0.0, top_p=0.8, top_k=20, seed=2**63 + 5),
        SamplingOptions(temperature=0.9, repetition_penalty=1.6, seed=9),
        SamplingOptions(temperature=0, repetition_penalty=3.0),
    ],
)
def test_the_same_seed_says_the_same_on_host_and_device(options: SamplingOptions) -> None:
    context = Context(random_model(Shape()), CAPACITY)
    request = Request(PROMPT, options)
    expected, _ = reply(context, HostSteps(context), request, 20)
    steps = on_device(context)
    assert reply(context, steps, request, 20)[0] == expected
    assert reply(context, steps, request, 20)[0] == expected


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 9])
def test_no_step_runs_that_the_reply_has_no_use_for(limit: int) -> None:
    context = Context(random_model(Shape()), CAPACITY)
    runs = []

    def counted(run: Callable[[], None]) -> Callable[[], None]:
        def counting() -> None:
            runs.append(run)
            run()

        return counting

    steps, _ = device_steps(context, PlainOperations(), counted)
    tokens, _ = reply(context, steps, Request(PROMPT, GREEDY, max_tokens=limit), limit + 1)
    assert (len(tokens), len(runs)) == (limit, limit - 1)


def test_steps_stop_at_the_end_of_the_context() -> None:
    capacity = len(PROMPT) + 6
    context = Context(random_model(Shape()), capacity)
    expected, _ = reply(context, HostSteps(context), Request(PROMPT, GREEDY), 7)
    state = DecodeState.allocate(context.model)
    step = DecodeStep(context.model, context.cache, state, PlainOperations())

    def within() -> None:
        assert int(state.position) < capacity
        step.run()

    steps = DeviceSteps(context, state, PlainOperations(), within)
    tokens, _ = reply(context, steps, Request(PROMPT, GREEDY), 20)
    assert tokens == expected
    assert context.cache.length == capacity


@pytest.mark.parametrize("taken", [1, 2, 4, 5, 7])
def test_leaving_early_drops_what_ran_ahead(taken: int) -> None:
    context = Context(random_model(Shape()), CAPACITY)
    steps = on_device(context)
    expected, _ = reply(context, steps, Request(PROMPT, GREEDY), 12)
    _, ran = reply(context, steps, Request(PROMPT, GREEDY), taken)
    assert ran.tokens == context.cache.length == len(PROMPT) + taken - 1
    turn = [*PROMPT, *expected[: taken - 1], 7, 8]
    counters = Counters(context.model)
    logits = context.prefill(Request(turn, GREEDY), counters)
    assert logits is not None
    assert counters.read().tokens == 2, "only what is new"
    after = list(islice(steps.draws(logits, Request(turn, GREEDY), counters), 6))
    fresh = Context(context.model, CAPACITY)
    assert after == reply(fresh, HostSteps(fresh), Request(turn, GREEDY), 6)[0]


def test_cancelling_is_heard_at_the_next_look() -> None:
    context = Context(random_model(Shape()), CAPACITY)
    wanted = iter([False] * (LAYERS + 1) + [False, False, True])  # prefill; three looks
    request = Request(PROMPT, GREEDY, cancelled=lambda: next(wanted))
    tokens, ran = reply(context, on_device(context), request, CAPACITY)
    assert len(tokens) == 1 + 2 * LOOK_TOKENS
    assert ran.tokens == context.cache.length == len(PROMPT) + len(tokens) - 1


def test_without_a_graph_the_same_steps_run_and_it_is_said() -> None:
    def refused(run: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("CUDA error: out of memory\nmore lines")

    context = Context(random_model(Shape()), CAPACITY)
    steps, note = device_steps(context, PlainOperations(), refused)
    assert note.endswith("slower: CUDA error: out of memory")
    assert_alike(context, steps, lambda: lambda: NO_PRUNING)


def test_what_is_no_number_ends_the_reply_with_an_error() -> None:
    context = Context(random_model(Shape()), CAPACITY)
    steps = on_device(context)
    logits = torch.full((context.model.config.vocab_size,), torch.nan)
    draws = steps.draws(logits, Request(PROMPT, GREEDY), Counters(context.model))
    with pytest.raises(WorkerError, match="not a number"):
        next(iter(draws))


# --- drawing ------------------------------------------------------------------------------------

OPTIONS = st.builds(
    SamplingOptions,
    temperature=st.sampled_from([0.0, 1e-30, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 3, 10, 1000]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    seed=st.integers(0, 2**64 - 1),
)


def assert_draws_like_the_host(
    operations: Operations, seed: int, options: SamplingOptions, draws: int, shape: Shape = DRAWN
) -> None:
    """With several equal logits, as models with rounded heads have; ``operations`` for a model of
    ``shape``."""
    model = random_model(shape)
    vocabulary = model.config.vocab_size
    random = np.random.default_rng(seed)
    state = DecodeState.allocate(model)
    prompt = random.integers(0, vocabulary, 5).tolist()
    host = Sampler(options, vocabulary, prompt)
    state.drawing.begin(options, prompt)
    for _ in range(draws):
        logits = random.normal(0, 2, vocabulary).round(1).astype(np.float32)
        state.activations.logits.copy_(torch.from_numpy(logits)[None])
        state.counts.copy_(torch.from_numpy(random.integers(0, 9, state.counts.shape)))
        counts = state.counts.clone().flatten()
        state.slot.zero_()
        operations.draw(state)
        expected = host.draw(logits)
        assert int(state.token) == int(state.drawing.picked) == expected
        assert state.ring[0].tolist() == [expected, *counts.tolist()]
        assert not state.counts.any()
        assert int(state.slot) == 1
        assert state.drawing.seen[expected]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), options=OPTIONS)
def test_the_device_draws_like_the_host(seed: int, options: SamplingOptions) -> None:
    assert_draws_like_the_host(PlainOperations(), seed, options, 3)


# --- nothing is read ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["window", "as OLMoE, clipped", "as Qwen2-MoE"])
def test_a_step_reads_nothing_on_the_host(name: str) -> None:
    model = random_model(SHAPES[name])
    state = DecodeState.allocate(model)
    step = DecodeStep(model, KVCache(model.config, CAPACITY), state, PlainOperations())
    with NoDeviceReads():
        step.run()


@pytest.mark.parametrize(
    "careless",
    [
        lambda ids: ids[0, 0].item(),
        lambda ids: bool(ids.any()),
        lambda ids: ids.nonzero(),
        lambda ids: ids[ids >= 0],
        lambda ids: ids.masked_select(ids >= 0),
        lambda ids: ids.unique(),
        lambda ids: torch.bincount(ids.flatten()),
        lambda ids: ids.new_tensor([3, 4]),
    ],
)
def test_the_watch_sees_what_reads(careless: Callable[[Tensor], object]) -> None:
    ids = torch.tensor([[3, -1]])
    with pytest.raises(AssertionError, match="wait for the device"), NoDeviceReads():
        careless(ids)


def without_values(part: Any) -> Any:
    """A model of tensors that have a shape and no values: reading one raises, and so does an
    operation with one of another device."""
    if isinstance(part, Tensor):
        return part.to("meta")
    if isinstance(part, list):
        return [without_values(item) for item in part]
    if dataclasses.is_dataclass(part) and not isinstance(part, ModelConfig | ArenaLayout):
        fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
        return type(part)(**{name: without_values(value) for name, value in fields.items()})
    return part


@pytest.mark.parametrize("kv_bits", [16, 8])
def test_a_step_needs_no_values_on_the_host(kv_bits: KvBits) -> None:
    model = without_values(random_model(Shape(window=3, router_bits=4, head_bits=8)))
    cache = KVCache(model.config, CAPACITY, device="meta", bits=kv_bits)
    DecodeStep(model, cache, DecodeState.allocate(model), PlainOperations()).run()


def test_a_read_without_values_raises() -> None:
    ids = DecodeState.allocate(without_values(random_model(Shape()))).activations.ids
    for careless in (Tensor.tolist, Tensor.cpu, Tensor.item):
        with pytest.raises((RuntimeError, NotImplementedError)):
            careless(ids[0, :1])
