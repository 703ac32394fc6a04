"""The comparison of 4-bit products: who is measured, who falls away and why."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="no build of triton for this platform")

from benchmarks import dense_backends
from benchmarks.dense_backends import Int4Mm, Ours, Product, compare, random_matrix, table
from engine.packing import PackedMatrix, dequantize

MATRIX = random_matrix(32, 64, "cpu")


@dataclass(frozen=True)
class Fake:
    """Multiplies in float32 and adds what ``off`` says."""

    off: Callable[[], float]
    name: str = "fake"
    dtype: torch.dtype = torch.float32

    def prepare(self, matrix: PackedMatrix) -> Product:
        return lambda x: x @ dequantize(matrix).T + self.off()


@dataclass(frozen=True)
class Missing:
    name: str = "missing"
    dtype: torch.dtype = torch.float16

    def prepare(self, matrix: PackedMatrix) -> Product:
        raise ModuleNotFoundError("No module named 'missing'")


def instantly(call: Callable[[], Tensor]) -> float:
    call()
    return 1.5


def test_one_that_is_missing_is_named_and_the_others_go_on() -> None:
    lost, exact = compare([Missing(), Fake(lambda: 0.0)], MATRIX, instantly)
    assert lost.problem == "ModuleNotFoundError: No module named 'missing'"
    assert lost.microseconds is None
    assert exact.microseconds == 1.5
    assert exact.same_bytes
    assert exact.error is not None
    assert exact.error < 1e-6
    assert "| missing | 32 x 64 | ModuleNotFoundError" in table([lost, exact])


def test_what_is_wrong_or_changes_is_seen() -> None:
    steps = iter(range(1000))
    wrong, restless = compare(
        [Fake(lambda: 1.0), Fake(lambda: 1e-3 * next(steps))], MATRIX, instantly
    )
    assert wrong.error is not None
    assert wrong.error > 0.01
    assert wrong.same_bytes
    assert not restless.same_bytes


def test_our_own_is_right_to_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_backends, "REPETITIONS", 2)
    (row,) = compare([Ours()], MATRIX, instantly)
    assert row.problem == ""
    assert row.error is not None
    assert row.error < 1e-3
    assert row.same_bytes


def test_torchs_own_is_asked_for_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its packing and product are CUDA's; stand-ins show what it is given."""
    seen: dict[str, Tensor] = {}

    def product(x: Tensor, packed: Tensor, group_size: int, parameters: Tensor) -> Tensor:
        codes = torch.stack([packed >> 4, packed & 15], dim=-1).flatten(1).float()
        scale, zero = parameters.float().unbind(-1)  # [G, O]
        seen["weights"] = (codes - 8) * scale.T.repeat_interleave(
            group_size, 1
        ) + zero.T.repeat_interleave(group_size, 1)
        return x @ seen["weights"].to(x.dtype).T

    monkeypatch.setattr(
        torch.ops.aten, "_convert_weight_to_int4pack", lambda codes, tiles: codes, raising=False
    )
    monkeypatch.setattr(torch.ops.aten, "_weight_int4pack_mm", product, raising=False)
    Int4Mm().prepare(MATRIX)(torch.zeros(1, 64, dtype=torch.bfloat16))
    exact = dequantize(MATRIX)
    assert (seen["weights"] - exact).abs().max() < 0.01 * exact.abs().max()
