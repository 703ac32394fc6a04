"""Turning groups of inputs, against Sylvester's matrix in float64."""

import pytest
import torch

from engine.errors import UsageError
from engine.hadamard import rotate
from engine.layout import ROTATED_GROUPS, PackedShape
from tests.unit.test_kernels import turned


@pytest.mark.parametrize("group", ROTATED_GROUPS)
def test_rotating(group: int) -> None:
    x = torch.randn(5, 3 * group)
    error = (rotate(x, group).double() - turned(x.double(), group)).abs().max()
    assert error < 1e-5


@pytest.mark.parametrize("group", ROTATED_GROUPS)
def test_rotating_twice_is_nothing(group: int) -> None:
    x = torch.randn(2, 2, 2 * group, dtype=torch.float64)
    assert torch.allclose(rotate(rotate(x, group), group), x)


def test_large_halves_do_not_overflow() -> None:
    x = torch.full((1, 128), 5000.0, dtype=torch.float16)
    found = rotate(x, 128)
    assert found[0, 0].item() == pytest.approx(5000 * 128**0.5, rel=1e-3)
    assert not found[0, 1:].any()


def test_other_groups_are_refused() -> None:
    with pytest.raises(UsageError, match="groups of 96 cannot be rotated"):
        PackedShape(32, 192, 2, 96, rotated=True)
    assert PackedShape(32, 192, 2, 96).zeros == 64
