"""The decode step of Triton's kernels, interpreted, against plain torch; drawing, compiled too."""

from dataclasses import replace

import pytest
import torch

from engine.architectures.architecture import Traits
from engine.cache import KVCache
from engine.decoding.plain import PlainOperations
from engine.decoding.state import DecodeState
from engine.decoding.step import DecodeStep
from engine.model import Model
from engine.protocol import SamplingOptions
from engine.pruning import DecodeRule, OtpRule
from tests.triton_compile import run_compiler
from tests.unit.packed_models_for_tests import Shape, random_model
from tests.unit.test_device_steps import DRAWN, assert_draws_like_the_host

pytest.importorskip("triton", reason="no build of triton for this platform")

from engine.decoding.fused import TritonOperations

SMALL = Shape(hidden=32, inner=32, heads=2, kv_heads=1, vocab=20, layers=2, window=2)


def stepped(model: Model, triton: bool, rule: DecodeRule) -> tuple[DecodeState, KVCache]:
    """A few tokens after the first."""
    cache = KVCache(model.config, 3)
    state = DecodeState.allocate(model)
    operations = TritonOperations(model) if triton else PlainOperations()
    state.drawing.begin(SamplingOptions(seed=4), [1])
    state.set_rule(rule)
    state.token.fill_(7)
    step = DecodeStep(model, cache, state, operations)
    for _ in range(2):
        step.run()
    return state, cache


ODP = DecodeRule((0.9, 0.9), (1e9, 12.0))
AS_QWEN2 = Traits(qkv_bias=True, renormalised=False, shared_size=32)
ROUTERS = torch.linspace(-1, 1, 2 * 2 * 35).sin().view(2, 2, 35)
OTP = replace(DecodeRule.skipping_nothing(2), otp=OtpRule(ROUTERS, 0.3))


@pytest.mark.parametrize(
    ("shape", "rule"),
    [(replace(SMALL, traits=AS_QWEN2), ODP), (replace(SMALL, rotated=True, top_k=3), OTP)],
    ids=["ODP, as Qwen2-MoE", "OTP, rotated"],
)
def test_a_step_of_triton_kernels_does_what_the_plain_one_does(
    shape: Shape, rule: DecodeRule
) -> None:
    model = random_model(shape)
    (ours, our_cache), (plain, plain_cache) = (stepped(model, kind, rule) for kind in (True, False))
    assert torch.equal(ours.ring, plain.ring), "tokens and counts of every step"
    halves = ours.ring[:2, 1:].view(2, -1, 2, model.config.num_experts)  # [2, L, run or not, E]
    assert halves[:, :, 1].sum() > 0, "some slots are skipped"
    assert int(ours.position) == 2
    torch.testing.assert_close(ours.activations.logits, plain.activations.logits)
    for mine, theirs in zip(our_cache.layers, plain_cache.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys)
        torch.testing.assert_close(mine.values, theirs.values)


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(temperature=0, repetition_penalty=1.5),
        SamplingOptions(temperature=1.0, min_p=0.1, seed=2**64 - 1),
        SamplingOptions(temperature=2.0, min_p=0.0, top_k=5, seed=1),
        SamplingOptions(temperature=2.0, min_p=0.01, top_p=0.7, seed=2, repetition_penalty=0.8),
        SamplingOptions(temperature=2.0, min_p=0.0, top_p=0.9, top_k=30, seed=3),
        SamplingOptions(temperature=1e-30, top_p=0.01, top_k=1, seed=3),
    ],
)
def test_triton_draws_like_the_host(options: SamplingOptions) -> None:
    assert_draws_like_the_host(TritonOperations(random_model(DRAWN)), 0, options, 4)


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(temperature=0),
        SamplingOptions(temperature=1.5, min_p=0.0, seed=1),
        SamplingOptions(temperature=1.0, min_p=0.02, seed=2, repetition_penalty=1.3),
        SamplingOptions(temperature=3.0, min_p=0.0, top_k=100, seed=3),
        SamplingOptions(temperature=3.0, min_p=0.0, top_k=6000, top_p=0.99, seed=4),
        SamplingOptions(temperature=2.0, min_p=0.001, top_p=0.95, seed=5),
    ],
)
def test_a_vocabulary_of_several_blocks_is_drawn_from_like_the_host(
    options: SamplingOptions,
) -> None:
    """Two blocks and a part, and more tokens for top-k than one has."""
    shape = replace(SMALL, vocab=9001, layers=1)
    assert_draws_like_the_host(TritonOperations(random_model(shape)), 1, options, 3, shape)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_logits_that_are_no_numbers_are_told() -> None:
    state = DecodeState.allocate(random_model(SMALL))
    for value in (torch.nan, torch.inf):
        state.activations.logits[0, 5] = value
        for temperature in (0.0, 1.0):
            state.drawing.begin(SamplingOptions(temperature), [])
            state.slot.zero_()
            TritonOperations(random_model(SMALL)).draw(state)
            assert int(state.drawing.picked) == -1
            assert 0 <= int(state.token) < SMALL.vocab


COMPILED = """
from dataclasses import replace
import torch
from engine.config import MIXTRAL_8X7B
from engine.decoding.state import Activations, Drawing
from engine.kernels.triton import sampling
from tests.triton_compile import CAPABILITIES, compiling

def compiled(vocabulary, capability):
    config = replace(MIXTRAL_8X7B, vocab_size=vocabulary)

    class State:
        activations = Activations.allocate(config, torch.bfloat16, "cpu")
        drawing = Drawing.allocate(vocabulary, "cpu")
        token, slot = torch.zeros(2, 1, dtype=torch.int64)
        counts, ring = torch.zeros(32, 9, dtype=torch.int64), torch.zeros(4, 289, dtype=torch.int64)

    with compiling(capability) as kernels:
        sampling.draw(State, sampling.Candidates.allocate(vocabulary, "cpu"))
        sampling.leave(State)
    return kernels

for capability in CAPABILITIES:
    for vocabulary in (32_000, 65_536, 128_256, 151_936):
        kernels = compiled(vocabulary, capability)
        assert len(kernels) == 2
        assert not any(kernel.spilled for kernel in kernels), (vocabulary, kernels)
        assert all(kernel.registers <= 128 for kernel in kernels), (vocabulary, kernels)
"""


def test_drawing_compiles() -> None:
    """Large vocabularies, too, without a register spilled."""
    run_compiler(COMPILED)
