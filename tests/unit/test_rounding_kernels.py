"""Going through a group's inputs: the Triton kernel beside plain torch, and devices kept apart."""

import os
import subprocess
import sys

import pytest
import torch

from compress.quantizers.draft import Draft
from compress.quantizers.gptq import compensate
from compress.quantizers.hessian import Elimination
from compress.quantizers.kernels import reference
from compress.quantizers.refine import descend

INTERPRETED = """
import torch
from compress.quantizers.kernels import reference, triton

torch.manual_seed(0)
for rows, size, top in ((37, 64, 3), (16, 128, 1), (5, 32, 15)):
    targets, own = torch.randn(rows, size), torch.randn(rows, size)
    couplings = 0.05 * torch.randn(size, size).triu(1)
    scale, zero = torch.rand(rows) + 0.3, torch.rand(rows) * top
    for base in (None, own):
        given = (targets, base, couplings, scale, zero)
        exact = (None if x is None else x.double() for x in given)
        levels = triton.sweep(*given, top)
        assert torch.equal(levels.double(), reference.sweep(*exact, top)), (rows, base is None)
"""


def test_triton_agrees_with_plain_torch() -> None:
    """In a process of its own: triton reads how to run when it is first imported."""
    pytest.importorskip("triton", reason="no build of triton for this platform")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, check=True)


def test_sweep_moves_later_targets_by_what_earlier_ones_missed() -> None:
    """Two inputs, by hand: the first lands 0.3 above its base, half of which the second loses."""
    targets, base = torch.tensor([[1.2, 2.0]]), torch.tensor([[0.7, 1.0]])
    couplings = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    scale, zero = torch.ones(1), torch.zeros(1)
    levels = reference.sweep(targets, base, couplings, scale, zero, 3)
    assert levels.tolist() == [[1.0, 1.0]]  # 2.0 - 2 * (1 - 0.7) = 1.4
    levels = reference.sweep(targets, None, couplings, scale, zero, 3)
    assert levels.tolist() == [[1.0, 2.0]]  # 2.0 - 2 * (1 - 1.2) = 2.4


@pytest.mark.parametrize("bits", [1, 2])
def test_nothing_leaves_the_device_of_the_weights(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors of the device "meta" refuse to meet others, and to be read by the host."""
    kernels = reference.TorchGroups()
    monkeypatch.setattr("compress.quantizers.gptq.kernels_for", lambda weights: kernels)
    monkeypatch.setattr("compress.quantizers.refine.kernels_for", lambda weights: kernels)
    with torch.device("meta"):
        weights, matrix = torch.empty(8, 64), torch.empty(64, 64)
        order, within = torch.empty(64, dtype=torch.int64), torch.empty(2, 32, 32)
        drafts = (Draft.empty(weights, bits, 32),)
    compensate(weights, Elimination(order, (1, 0), matrix, within, matrix[0]), drafts, 32)
    descend(weights, matrix, matrix, matrix[0, 0], drafts, sweeps=2)
    assert drafts[0].finish().scale.device.type == "meta"
    elsewhere = Elimination(order, (1, 0), matrix, torch.empty(2, 32, 32), matrix[0])
    with pytest.raises(RuntimeError, match="device"):
        compensate(weights, elsewhere, drafts, 32)
