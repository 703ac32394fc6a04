"""The grid search against exhaustive search and against plain min-max."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compress.quantizers import grid
from compress.quantizers.hessian import Hessian
from compress.quantizers.kernels import loops
from compress.quantizers.kernels.simd import LANES
from compress.quantizers.rtn import quantize_min_max, quantize_rtn


def loss(
    weights: Tensor, importance: Tensor, scale: Tensor, zero: Tensor | None, bits: int
) -> Tensor:
    """Weighted squared error in float64, written down plainly."""
    step = scale.double()[..., None]
    offset = (2**bits - 1) / 2 if zero is None else zero.double()[..., None]
    codes = torch.round(weights.double() / step + offset).clamp(0, 2**bits - 1)
    return (importance * ((codes - offset) * step - weights) ** 2).sum(-1)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_search_is_close_to_the_best_of_all_ranges(bits: int) -> None:
    torch.manual_seed(bits)
    weights = torch.randn(24, 128).double()
    importance = torch.rand(24, 128).double()
    scale, zero = grid.fit(weights, importance, bits)
    low, high = weights.amin(-1), weights.amax(-1)
    best = torch.full((24,), torch.inf, dtype=torch.float64)
    for a in torch.linspace(0.2, 1.0, 17):
        for b in torch.linspace(0.2, 1.0, 17):
            step = ((high * b - low * a) / (2**bits - 1)).half()
            trial = loss(weights, importance, step, (-low * a / step.double()).half(), bits)
            best = torch.minimum(best, trial)
    found = loss(weights, importance, scale, zero, bits)
    assert (found / best).mean() < 1.04


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_search_around_zero_is_close_to_the_best_of_all_scales(bits: int) -> None:
    torch.manual_seed(bits)
    weights, importance = torch.randn(24, 128).double(), torch.rand(24, 128).double()
    scale, zero = grid.fit(weights, importance, bits, rotated=True)
    assert zero is None
    steps = weights.abs().amax(-1) * 2 / (2**bits - 1) * torch.linspace(0.1, 1.2, 221)[:, None]
    best = torch.stack([loss(weights, importance, step, None, bits) for step in steps]).amin(0)
    assert (loss(weights, importance, scale, zero, bits) / best).mean() < 1.01


def fit_tile(
    weights: Tensor, importance: Tensor, bits: int, rotated: bool = False
) -> tuple[Tensor, Tensor]:
    """The CPU's compiled search, on as many rows as a tile has."""
    scale, zero = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    tile = weights.T.contiguous().numpy()
    top, centred = np.float32(2**bits - 1), rotated or bits == 1
    loops.fit_tile(tile, importance.numpy(), top, centred, scale, zero)
    return torch.from_numpy(scale), torch.from_numpy(zero)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_compiled_search_finds_what_torchs_does(bits: int, rotated: bool) -> None:
    generator = torch.Generator().manual_seed(bits)
    weights = torch.randn(LANES, 128, generator=generator) ** 3
    importance = torch.rand(128, generator=generator)
    scale, zero = fit_tile(weights, importance, bits, rotated)
    found = loss(weights, importance, scale, zero, bits)
    plain = loss(weights, importance, *grid.fit(weights, importance, bits, rotated), bits)
    if rotated:
        assert (zero == (2**bits - 1) / 2).all()
    assert (found / plain).mean() < 1.001
    assert (found / plain).max() < 1.05


@given(
    bits=st.sampled_from([1, 2, 3, 4]),
    size=st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 1e3]),
    shift=st.sampled_from([0.0, -5.0, 5.0]),
    seed=st.integers(0, 2**20),
    rotated=st.booleans(),
)
def test_compiled_grids_are_float16s(
    bits: int, size: float, shift: float, seed: int, rotated: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = (torch.randn(LANES, 32, generator=generator) + shift) * size
    for value in fit_tile(weights, torch.ones(32), bits, rotated):
        assert torch.isfinite(value).all()
        assert torch.equal(value.half().float(), value)
    assert (fit_tile(weights, torch.ones(32), bits, rotated)[0] > 0).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_search_beats_min_max_in_every_group(bits: int) -> None:
    torch.manual_seed(bits)
    weights = torch.randn(64, 128) ** 3
    importance = torch.rand(128)
    found = loss(weights, importance, *grid.fit(weights, importance, bits), bits)
    plain = loss(weights, importance, *grid.fit_min_max(weights, bits), bits)
    assert (found <= plain * (1 + 1e-5)).all()
    assert found.sum() < 0.8 * plain.sum()


def test_one_bit_is_the_sign_with_the_best_magnitude() -> None:
    torch.manual_seed(0)
    weights, importance = torch.randn(5, 64), torch.rand(64)
    scale, zero = grid.fit(weights, importance, bits=1)
    assert zero is None
    magnitude = (importance * weights.abs()).sum(-1) / importance.sum()
    torch.testing.assert_close(scale.float(), 2 * magnitude, rtol=1e-3, atol=0)
    codes = grid.encode(weights, scale, None, bits=1)
    torch.testing.assert_close(codes, (weights > 0).float())
    decoded = grid.decode(codes, scale, torch.full_like(scale, 0.5))
    torch.testing.assert_close(decoded, weights.sign() * scale.float()[:, None] / 2)
    plain, _ = grid.fit_min_max(weights, bits=1)
    torch.testing.assert_close(plain.float(), 2 * weights.abs().mean(-1), rtol=1e-3, atol=0)


@given(
    bits=st.sampled_from([1, 2, 3, 4]),
    size=st.sampled_from([1e-6, 1e-3, 1.0, 1e3]),
    shift=st.sampled_from([0.0, -5.0, 5.0]),
    seed=st.integers(0, 2**20),
    rotated=st.booleans(),
)
def test_values_on_a_grid_survive(
    bits: int, size: float, shift: float, seed: int, rotated: bool
) -> None:
    """What is decoded encodes to the same codes, whatever the magnitude of the weights."""
    generator = torch.Generator().manual_seed(seed)
    weights = (torch.randn(4, 32, generator=generator) + shift) * size
    scale, zero = grid.fit(weights, torch.ones(32), bits, rotated)
    assert torch.isfinite(scale).all()
    assert (scale > 0).all()
    codes = grid.encode(weights, scale, zero, bits)
    decoded = grid.decode(codes, scale, zeros(scale, zero, bits))
    assert torch.equal(grid.encode(decoded, scale, zero, bits), codes)


def zeros(scale: Tensor, zero: Tensor | None, bits: int) -> Tensor:
    return torch.full_like(scale, (2**bits - 1) / 2) if zero is None else zero


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_nothing_stays_next_to_nothing_around_zero(bits: int) -> None:
    weights = torch.zeros(LANES, 32)
    for scale in (
        grid.fit(weights, torch.ones(32), bits, rotated=True)[0].float(),
        fit_tile(weights, torch.ones(32), bits, rotated=True)[0],
    ):
        assert (scale > 0).all()
        assert (scale < 1e-6).all()


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_flat_groups_are_finite_and_exact_where_they_can_be(bits: int) -> None:
    weights = torch.stack([torch.zeros(32), torch.full((32,), 0.5), torch.full((32,), -2.0)])
    scale, zero = grid.fit(weights, torch.zeros(32), bits)
    codes = grid.encode(weights, scale, zero, bits)
    decoded = grid.decode(codes, scale, zeros(scale, zero, bits))
    assert torch.isfinite(decoded).all()
    torch.testing.assert_close(decoded[1:], weights[1:], rtol=2**-10, atol=0)  # float16
    assert decoded[0].abs().max() < 1e-6


def test_round_to_nearest_uses_one_grid_per_group() -> None:
    torch.manual_seed(0)
    weights = torch.randn(8, 256) * torch.repeat_interleave(torch.tensor([1.0, 10.0]), 128)
    hessian = Hessian(torch.diag(torch.rand(256)))
    (codes,) = quantize_rtn(weights, hessian, (3,), group_size=128)
    assert codes.codes.shape == (8, 256)
    assert codes.scale.shape == (8, 2)
    assert (codes.scale[:, 1] > 3 * codes.scale[:, 0]).all()
    error = hessian.error(weights - codes.dequantize()).sum()
    (plain,) = quantize_min_max(weights, hessian, (3,), group_size=128)
    assert error < hessian.error(weights - plain.dequantize()).sum()
