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
import torch
from benchmarks.triton_code import HIDDEN, arena, matrix
from engine.kernels.triton import decode, prefill
from tests.triton_compile import compiling

x, ids, weights = torch.empty(16, HIDDEN).half(), torch.zeros(16, 2).long(), torch.zeros(16, 2)
mixed = arena(2, 3)
with compiling(90) as kernels:
    decode.packed_matvecs(x[:1], [matrix(HIDDEN, HIDDEN, 4)] * 3, [x[:1]] * 3)
    prefill.packed_matmul(x, matrix(HIDDEN, HIDDEN, 4))
with compiling(86) as more:
    decode.experts_decode(x[:1], ids[:1], weights[:1], mixed, x[:1])
    decode.half_matvec(x[:1], torch.empty(32, HIDDEN).half(), x[:1, :32])
    prefill.experts_prefill(x, ids, weights, mixed)
kernels += more
assert len(kernels) == 8
for kernel in kernels:
    assert not kernel.spilled, kernel.name
    # Codes are multiplied as denormals: nothing may take them for zero.
    assert ".ftz.f32" not in kernel.ptx.replace("ex2.approx.ftz.f32", ""), kernel.name
for kernel in kernels[:1] + kernels[2:4]:  # four rows' words in one load
    assert "ld.global.v4.b32" in kernel.ptx, kernel.name
"""


def test_rounding() -> None:
    run_compiler(ROUNDING)


def test_products() -> None:
    run_compiler(PRODUCTS)
