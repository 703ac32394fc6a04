"""Kernels through the real compiler for GPUs that are not here; the interpreter forgives much."""

import pytest

from tests.triton_compile import run_compiler

pytest.importorskip("triton", reason="no build of triton for this platform")

ROUNDING = """
import torch
from compress.quantizers.kernels import triton
from tests.triton_compile import CAPABILITIES, compiling

targets, couplings, grid = torch.empty(64, 128), torch.empty(128, 128), torch.empty(64)
for capability in CAPABILITIES:
    with compiling(capability) as kernels:
        for base in (None, targets):
            triton.sweep(targets, base, couplings, grid, grid, 3)
    assert len(kernels) == 2
    assert not any(kernel.spilled for kernel in kernels)
"""


PRODUCTS = """
import re
import torch
from benchmarks.triton_code import HIDDEN, arena, matrix
from engine.kernels.triton import decode, elementwise, prefill
from tests.triton_compile import compiling

x, ids, weights = torch.empty(16, HIDDEN).half(), torch.zeros(16, 2).long(), torch.zeros(16, 2)
rotated = arena(2, 3, rotated=True)
with compiling(90) as kernels:
    decode.packed_matvecs(x[:1], [matrix(HIDDEN, HIDDEN, 4)] * 3, [x[:1]] * 3)
    decode.experts_decode(x[:1], ids[:1], weights[:1], rotated, x[:1])
    prefill.packed_matmul(x, matrix(HIDDEN, HIDDEN, 4))
with compiling(86) as more:
    decode.experts_decode(x[:1], ids[:1], weights[:1], arena(2, 3), x[:1])
    decode.half_matvec(x[:1], torch.empty(32, HIDDEN).half(), x[:1, :32])
    prefill.experts_prefill(x, ids, weights, rotated)
    elementwise.rms_norm(x, x[0], 0.0, x, None, x, 128)
kernels += more
assert len(kernels) == 12
for kernel in kernels:
    assert not kernel.spilled, kernel.name
    # Codes are multiplied as denormals: nothing may take them for zero.
    others = re.sub("(ex2|rsqrt).approx.ftz.f32", "", kernel.ptx)
    assert ".ftz.f32" not in others, kernel.name
for kernel in kernels[:3] + kernels[4:6]:  # four rows' words in one load
    assert "ld.global.v4.b32" in kernel.ptx, kernel.name
"""


WARMING = """
from dataclasses import replace
import torch
from engine import attention, kernels
from engine.architectures.architecture import Traits
from engine.config import MIXTRAL_8X7B
from engine.counters import Counters
from engine.decoding import warming
from engine.decoding.context import Context
from engine.decoding.fused import TritonOperations
from engine.decoding.state import DecodeState
from engine.decoding.step import DecodeStep
from engine.kernels.triton import prompt_attention
from engine.kernels.triton.products import TritonKernels
from engine.pruning import NO_PRUNING, OdpPruning
from tests.triton_compile import compiling

kernels._select = lambda kind: (TritonKernels(), "triton")
attention._kernels = lambda kind: prompt_attention
small = {"vocab_size": 64, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
traits = Traits("all", qkv_bias=True, clip=8.0, renormalised=False, shared_size=512)
few = {"num_heads": 4, "num_kv_heads": 2, "top_k": 3, "max_context": 4096}
config = replace(MIXTRAL_8X7B, **small, **few, traits=traits)
sizes = warming.Sizes(config, torch.bfloat16, (1,), 128, rotated=True)
cpu = torch.device("cpu")
with compiling(86) as compiled:
    warming.warm_prompts_and_steps(sizes, cpu, (2, 17))
    before = len(compiled)
    assert before > 15, before
    one = warming._stand_in(sizes, 1, cpu)
    config = replace(one.config, num_layers=2)
    model = replace(one, config=config, layers=[*one.layers, replace(one.layers[0], index=1)])
    context = Context(model, 1111)
    for pruning in (NO_PRUNING, OdpPruning((0.5,) * 2, (1.0,) * 2, ranks=((0.5,),) * 2)):
        for lengths in ([1, 1, 3], [17, 33], [40, 1, 19]):
            context.forget()
            for tokens in lengths:
                context.forward([0] * tokens, pruning, Counters(model))
    operations = TritonOperations(model)
    DecodeStep(model, context.cache, DecodeState.allocate(model), operations).run()
    assert len(compiled) == before, [kernel.name for kernel in compiled[before:]]
    assert not any(kernel.spilled for kernel in compiled)
"""


def test_nothing_is_compiled_behind_the_warming() -> None:
    """Prompts and caches of any length, and steps, of a model with all that there is."""
    run_compiler(WARMING)


def test_rounding() -> None:
    run_compiler(ROUNDING)


def test_products() -> None:
    run_compiler(PRODUCTS)
