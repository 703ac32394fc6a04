"""The engine's process compiles while nobody waits, where a CPU is all there is."""

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
