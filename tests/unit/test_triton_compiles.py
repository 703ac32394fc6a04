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


def test_rounding() -> None:
    run_compiler(ROUNDING)
