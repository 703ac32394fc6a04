"""The engine's process compiles while nobody waits, where a CPU is all there is."""

import subprocess
import sys

import pytest
import torch

from engine import worker
from engine.protocol import Device

CPU = Device("Abacus", "cpu", "cpu", 8, 8)
GPU = Device("Card", "cuda", "cuda:0", 8, 8)


@pytest.mark.parametrize(("found", "warmed"), [((CPU,), ["cpu"]), ((GPU, CPU), [])])
def test_kernels_of_a_cpu_are_compiled_at_the_start(
    monkeypatch: pytest.MonkeyPatch, found: tuple[Device, ...], warmed: list[str]
) -> None:
    seen: list[str] = []

    class Kernels:
        def __init__(self, device: torch.device) -> None:
            self.name = device.type

        def warm(self) -> None:
            seen.append(self.name)

    monkeypatch.setattr(worker.devices, "detect", lambda: found)
    monkeypatch.setattr(worker, "select", Kernels)
    worker._warm()
    assert seen == warmed


def test_nothing_is_compiled_behind_the_warming() -> None:
    """In a process of its own: here other tests have compiled before."""
    subprocess.run([sys.executable, "-c", AFTER_WARMING], check=True, timeout=120)


AFTER_WARMING = """
import torch
from numba.core.dispatcher import Dispatcher
from engine.kernels import loops
from engine.kernels.cpu import CpuKernels
from engine.experts import PackedExperts
from engine.layout import MATRICES, PackedShape, matrix_shape
from engine.packing import PackedMatrix

def compiled():
    return {name: len(each.signatures) for name, each in vars(loops).items()
            if isinstance(each, Dispatcher)}

def packed(rows, columns):
    shape = PackedShape(rows, columns, 3, 64)
    return PackedMatrix(
        shape, torch.zeros(shape.code_words, dtype=torch.int32),
        torch.zeros(shape.scales).half(), torch.zeros(shape.zeros).half())

kernels = CpuKernels()
kernels.warm()
before = compiled()
assert sum(before.values()) > 5
arena = PackedExperts.from_matrices(
    [{name: packed(*matrix_shape(name, 64, 128)) for name in MATRICES}] * 2).arena
for tokens in (1, 2, 3, 4, 9, 40):
    x = torch.zeros(tokens, 64)
    kernels.matmul(x, packed(96, 64))
    kernels.half_matmul(x, torch.zeros(32, 64, dtype=torch.bfloat16))
    kernels.experts(x, torch.zeros(tokens, 2, dtype=torch.int64), torch.ones(tokens, 2), arena)
assert compiled() == before, (before, compiled())
"""
