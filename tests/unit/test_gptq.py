"""GPTQ against its definition, against brute force and against round to nearest."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from compress.quantizers import QUANTIZERS, grid, quantizer
from compress.quantizers.gptq import compensate
from compress.quantizers.hessian import DAMPING, Hessian, mean_hessian
from compress.quantizers.refine import quantize_refined, refine
from compress.quantizers.rtn import quantize_rtn
from engine.errors import SourceError, UsageError
from engine.packing import dequantize, pack


def correlated(seed: int, inputs: int, tokens: int = 400) -> tuple[Tensor, Tensor]:
    """Weights [6, inputs] and activations [tokens, inputs] that are correlated."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator).double() / inputs**0.5
    x = torch.randn(tokens, inputs, generator=generator).double() @ mixing
    return torch.randn(6, inputs, generator=generator).double() * 0.1, x


def plain_gptq(weights: Tensor, hessian: Tensor, bits: int, group_size: int) -> Tensor:
    """The definition, in float64: after each input, the rest moves to the optimum given H^-1
    of what is left (Gaussian elimination, no Cholesky). Returns the quantized weights."""
    size = len(hessian)
    damped = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(size).double()
    inverse = torch.linalg.inv(damped)
    left, out = weights.clone(), torch.zeros_like(weights)
    for start in range(0, size, group_size):
        block = slice(start, start + group_size)
        conditional = inverse.clone()  # diagonal of U^2 within the block, input by input
        importance = torch.empty(group_size).double()
        for i in range(group_size):
            at = start + i
            importance[i] = 1 / conditional[at, at]
            row = conditional[at] / conditional[at, at]
            conditional = conditional - torch.outer(conditional[:, at], row)
        scale, zero = grid.fit(left[:, block], importance, bits)
        for at in range(start, start + group_size):
            level = grid.encode(left[:, at : at + 1], scale, zero, bits)
            out[:, at] = grid.decode(level, scale, zero)[:, 0]
            error = (left[:, at] - out[:, at]) / inverse[at, at]
            left = left - torch.outer(error, inverse[at])
            inverse = inverse - torch.outer(inverse[:, at], inverse[at]) / inverse[at, at]
    return out


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_compensation_inside_and_across_groups_is_gptqs(bits: int) -> None:
    weights, x = correlated(bits, inputs=96)
    hessian = Hessian(x.T @ x / len(x))
    order, _ = hessian.elimination(group_size=32)
    ours = compensate(weights, hessian, bits, group_size=32).dequantize().double()
    ordered = hessian.matrix[order][:, order]
    reference = plain_gptq(weights[:, order], ordered, bits, group_size=32)
    torch.testing.assert_close(ours[:, order], reference, rtol=1e-5, atol=1e-7)


def test_factor_inverts_the_damped_hessian_important_inputs_first() -> None:
    _, x = correlated(0, inputs=48)
    hessian = Hessian(x.T @ x / len(x))
    order, factor = hessian.elimination(group_size=16)
    damping = DAMPING * hessian.diagonal.mean() * torch.eye(48).double()
    damped = (hessian.matrix + damping)[order][:, order]
    product = factor.T @ factor @ damped
    torch.testing.assert_close(product, torch.eye(48).double(), rtol=0, atol=1e-9)
    assert torch.equal(factor, factor.triu())
    energy = hessian.diagonal[order].view(3, 16)
    assert (energy.diff(dim=1) <= 0).all()
    assert (energy.mean(dim=1).diff() <= 0).all()
    assert (order.view(3, 16) // 16).float().std(dim=1).max() == 0  # groups stay together


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_refinement_never_raises_the_error_and_ends_where_no_code_can_improve(bits: int) -> None:
    weights, x = correlated(bits, inputs=64)
    hessian = Hessian(x.T @ x / len(x))
    codes = compensate(weights, hessian, bits, group_size=32)
    damped = Hessian(hessian.damped)
    errors = [damped.error(weights - codes.dequantize()).sum()]
    for _ in range(4):
        codes = refine(weights, hessian, codes, sweeps=1)
        errors.append(damped.error(weights - codes.dequantize()).sum())
    assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.97 * errors[0]
    settled = refine(weights, hessian, codes, sweeps=30)
    least = damped.error(weights - settled.dequantize())
    for at in range(64):
        for level in range(2**bits):
            moved = settled.codes.clone()
            moved[:, at] = level
            other = replace(settled, codes=moved).dequantize()
            assert (damped.error(weights - other) >= least * (1 - 1e-6)).all()


@pytest.mark.parametrize("name", ["gptq", "refined"])
@pytest.mark.parametrize("tokens", [20, 2000])
def test_error_is_below_round_to_nearests(name: str, tokens: int) -> None:
    for seed in range(4):
        weights, x = correlated(seed, inputs=128, tokens=tokens)
        hessian = Hessian((x.T @ x / len(x)).float())
        every = quantizer(name)(weights.float(), hessian, (1, 2, 3, 4), 64)
        for ours, nearest in zip(
            every, quantize_rtn(weights.float(), hessian, (1, 2, 3, 4), 64), strict=True
        ):
            error, bound = (
                ((weights - codes.dequantize()) @ x.T).square().sum() for codes in (ours, nearest)
            )
            assert error < (0.85 if name == "gptq" else 0.8) * bound


def test_close_to_the_best_of_all_codes() -> None:
    """Six inputs at 2 bits: all 4^6 codes of a row on the grid that was chosen."""
    torch.manual_seed(0)
    x = torch.randn(200, 6).double() @ torch.randn(6, 6).double()
    weights = torch.randn(8, 6).double()
    hessian = Hessian(x.T @ x / len(x))
    (ours,) = quantize_refined(weights, hessian, (2,), group_size=6)
    error = hessian.error(weights - ours.dequantize())
    codes = torch.tensor(list(itertools.product(range(4), repeat=6))).double()  # [4096, 6]
    assert ours.zero is not None
    levels = codes - ours.zero.double()[:, None]  # [8, 4096, 6], one grid per row
    every = levels * ours.scale.double()[:, None]
    best = hessian.error(weights[:, None] - every).amin(-1)
    assert (error >= best * (1 - 1e-9)).all()
    assert error.sum() < 1.6 * best.sum()


def test_dead_and_constant_inputs_are_handled() -> None:
    weights, x = correlated(1, inputs=64)
    x[:, 5] = 0.0
    dead = Hessian((x.T @ x / len(x)).float())
    (codes,) = quantize_refined(weights.float(), dead, (2,), group_size=32)
    assert torch.isfinite(codes.dequantize()).all()
    assert (codes.dequantize()[:, 5] - weights[:, 5]).abs().max() < codes.scale.float().max()
    (shifted,) = quantize_refined((weights * 1e-6 + 5).float(), dead, (2,), group_size=32)
    assert (shifted.dequantize() - 5).abs().max() < 0.01
    nothing = Hessian(torch.zeros(64, 64))
    (blind,) = quantize_refined(weights.float(), nothing, (2,), 32)
    assert torch.isfinite(blind.dequantize()).all()


def test_damaged_activations_are_refused() -> None:
    with pytest.raises(SourceError, match="finite"):
        Hessian(torch.full((4, 4), torch.nan))


def test_mean_hessian_takes_chunks() -> None:
    x = torch.randn(50, 8)
    hessian = mean_hessian(iter(torch.split(x, 7)), 8)
    torch.testing.assert_close(hessian.matrix, x.T @ x / 50)
    assert torch.equal(mean_hessian(iter(()), 8).matrix, torch.zeros(8, 8))


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_every_quantizers_codes_survive_packing(name: str, bits: int) -> None:
    weights, x = correlated(7, inputs=128)
    hessian = Hessian((x.T @ x / len(x)).float())
    (codes,) = quantizer(name)(weights.float(), hessian, (bits,), 64)
    packed = pack(codes.codes, codes.scale, codes.zero, bits, 64)
    assert torch.equal(dequantize(packed), codes.dequantize())
    relative = (
        hessian.error(weights.float() - codes.dequantize()).sum()
        / hessian.error(weights.float()).sum()
    )
    assert relative < (0.5, 0.35, 0.06, 0.02)[bits - 1]


def test_unknown_quantizer_names_the_choices() -> None:
    with pytest.raises(UsageError, match="gptq"):
        quantizer("awq")
