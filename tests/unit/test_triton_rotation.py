"""Turning by levels of sums and differences, against Sylvester's matrix in float64."""

import pytest
import torch

pytest.importorskip("triton", reason="no build of triton for this platform")

from engine.kernels.triton.rotation import turn
from engine.layout import ROTATED_GROUPS
from tests.unit.test_kernels import turned

TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("group", ROTATED_GROUPS)
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_rows_are_turned_group_by_group(group: int, dtype: torch.dtype) -> None:
    """Three groups, so that a block of a power of two is not full."""
    x = torch.randn(2, 3 * group).to(dtype)
    found = torch.empty_like(x)
    turn(x, group, found)
    expected = turned(x.double(), group)
    assert (found.double() - expected).abs().max() < TOLERANCE[dtype] * expected.abs().max()


def test_a_row_of_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.kernels.triton.rotation._BLOCK", 64)
    x = torch.randn(2, 160)
    found = torch.empty_like(x)
    turn(x, 32, found)
    torch.testing.assert_close(found.double(), turned(x.double(), 32), rtol=1e-5, atol=1e-6)


def test_turning_in_place_and_back_again() -> None:
    x = torch.randn(3, 64)
    found = x.clone()
    turn(found, 32, found)
    turn(found, 32, found)
    torch.testing.assert_close(found, x)


def test_rows_before_the_first_are_left_alone() -> None:
    x = torch.randn(4, 32)
    found = torch.full_like(x, torch.nan)
    turn(x, 32, found, torch.tensor([3], dtype=torch.int32))
    assert found[:3].isnan().all()
    torch.testing.assert_close(found[3:].double(), turned(x[3:].double(), 32), rtol=1e-5, atol=1e-6)


def test_no_sum_overflows_where_the_result_does_not() -> None:
    """Alike signs would reach eight times the largest input on the way to nothing."""
    x = torch.full((1, 64), torch.finfo(torch.float32).max / 8)
    x[0, 32:] *= -1
    found = torch.empty_like(x)
    turn(x, 64, found)
    expected = turned(x.double(), 64)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0.0)
    assert found.isfinite().all()
