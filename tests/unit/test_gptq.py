"""GPTQ against its definition, against brute force and against round to nearest."""

import itertools

import pytest
import torch
from torch import Tensor

from compress import quantizer_names
from compress.quantizers import QUANTIZERS, draft, grid, quantizer
from compress.quantizers.gptq import draft_gptq, quantize_gptq
from compress.quantizers.hessian import DAMPING, Hessian, HessianSum
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
            offset = torch.full_like(scale, 0.5) if zero is None else zero
            out[:, at] = grid.decode(level, scale, offset)[:, 0]
            error = (left[:, at] - out[:, at]) / inverse[at, at]
            left = left - torch.outer(error, inverse[at])
            inverse = inverse - torch.outer(inverse[:, at], inverse[at]) / inverse[at, at]
    return out


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_compensation_inside_and_across_groups_is_gptqs(bits: int, dtype: torch.dtype) -> None:
    """In float64 plain torch, in float32 the CPU's loops."""
    weights, x = correlated(bits, inputs=96)
    hessian = Hessian(x.T @ x / len(x))
    order = hessian.elimination(group_size=32).order
    cast = Hessian(hessian.matrix.to(dtype))
    (ours,) = quantize_gptq(weights.to(dtype), cast, (bits,), group_size=32)
    ordered = hessian.matrix[order][:, order]
    reference = plain_gptq(weights[:, order], ordered, bits, group_size=32)
    torch.testing.assert_close(
        ours.dequantize().double()[:, order], reference, rtol=1e-5, atol=1e-7
    )


def test_elimination_factorizes_the_damped_hessian_important_inputs_first() -> None:
    _, x = correlated(0, inputs=48)
    hessian = Hessian(x.T @ x / len(x))
    order, groups, couplings, within, pivots = hessian.elimination(group_size=16)
    back = order.flip(0)
    damping = DAMPING * hessian.diagonal.mean() * torch.eye(48).double()
    lower = (couplings * pivots[:, None]).T
    damped = (hessian.matrix + damping)[back][:, back]
    torch.testing.assert_close(lower @ lower.T, damped, rtol=0, atol=1e-9)
    assert torch.equal(couplings, couplings.triu())
    for index, inverse in enumerate(within):
        block = slice(48 - 16 * (index + 1), 48 - 16 * index)
        own = couplings[block, block].T.flip(0, 1)
        torch.testing.assert_close(own @ inverse, torch.eye(16).double(), rtol=0, atol=1e-9)
    energy = hessian.diagonal[order].view(3, 16)
    assert (energy.diff(dim=1) <= 0).all()
    assert (energy.mean(dim=1).diff() <= 0).all()
    assert torch.equal(order.view(3, 16) // 16, torch.tensor(groups)[:, None].expand(3, 16))


def test_hessians_that_float32_cannot_factorize_are_damped_more() -> None:
    slightly = torch.ones(32, 32) + 0.05 * torch.eye(32)
    slightly[0, 1] = slightly[1, 0] = 1.1  # -0.05 in the direction (1, -1): indefinite
    order, _, couplings, _, pivots = Hessian(slightly).elimination(16)
    back = order.flip(0)
    lower = (couplings * pivots[:, None]).T
    added = lower @ lower.T - slightly[back][:, back]
    torch.testing.assert_close(added, 0.1 * 1.05 * torch.eye(32), rtol=0, atol=1e-5)
    hopeless = torch.eye(32)
    hopeless[0, 1] = hopeless[1, 0] = 1e6
    with pytest.raises(SourceError, match="calibration"):
        Hessian(hopeless).elimination(16)


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_refinement_never_raises_the_error_and_ends_where_no_code_can_improve(
    bits: int, dtype: torch.dtype
) -> None:
    weights, x = correlated(bits, inputs=64)
    hessian = Hessian(x.T @ x / len(x))
    damped = Hessian(hessian.matrix + hessian.damping() * torch.eye(64).double())
    cast, inexact = Hessian(hessian.matrix.to(dtype)), 1e-9 if dtype == torch.float64 else 1e-5
    drafts = draft_gptq(weights.to(dtype), cast, (bits,), group_size=32)

    def error() -> Tensor:
        return damped.error(weights - drafts[0].finish().dequantize())

    errors = [error().sum()]
    for _ in range(4):
        refine(weights.to(dtype), cast, drafts, sweeps=1)
        errors.append(error().sum())
    assert all(after <= before * (1 + inexact) for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.97 * errors[0]
    refine(weights.to(dtype), cast, drafts, sweeps=30)
    least = error()
    codes = drafts[0].codes
    for at in range(64):
        kept = codes[:, at].clone()
        for level in range(2**bits):
            codes[:, at] = level
            assert (error() >= least * (1 - max(1e-6, inexact))).all()
        codes[:, at] = kept


@pytest.mark.parametrize("name", ["rotated", "gptq", "refined", "rtn"])
def test_the_cpus_loops_agree_with_plain_torch(name: str) -> None:
    """Codes may differ where float32 rounds a tie the other way, and then so do their errors."""
    weights, x = correlated(3, inputs=256, tokens=1000)
    weights = weights.repeat(30, 1) + 0.01 * torch.randn(180, 256).double()  # tiles and a rest
    hessian = Hessian((x.T @ x / len(x)).float())
    exact = Hessian(hessian.matrix.double())
    widths = (1, 2, 3, 4)
    ours = quantizer(name)(weights.float(), hessian, widths, 64)
    for fast, slow in zip(ours, quantizer(name)(weights, exact, widths, 64), strict=True):
        assert (fast.codes != slow.codes).float().mean() < 0.02
        errors = [exact.error(weights - codes.dequantize()).sum() for codes in (fast, slow)]
        assert errors[0] == pytest.approx(errors[1], rel=0.002)


@pytest.mark.parametrize("name", ["gptq", "refined"])
def test_chunks_and_widths_do_not_change_the_codes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, x = correlated(5, inputs=128)
    weights = weights.repeat(40, 1).float()
    hessian = Hessian((x.T @ x / len(x)).float())
    together = quantizer(name)(weights, hessian, (1, 2, 3), 64)
    monkeypatch.setattr(draft, "CHUNK_ELEMENTS", 70 * 128)
    for whole, bits in zip(together, (1, 2, 3), strict=True):
        (alone,) = quantizer(name)(weights, hessian, (bits,), 64)
        assert (alone.codes != whole.codes).float().mean() < 1e-3
        assert alone.bits == bits


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


def test_a_hessian_is_the_mean_over_rows_that_come_in_chunks() -> None:
    x = torch.randn(50, 8)
    total = HessianSum(8, x.device)
    for chunk in torch.split(x, 7):
        total.add(chunk)
    torch.testing.assert_close(total.mean().matrix, x.T @ x / 50)
    assert torch.equal(HessianSum(8, x.device).mean().matrix, torch.zeros(8, 8))


@pytest.mark.parametrize("name", sorted(QUANTIZERS))
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_every_quantizers_codes_survive_packing(name: str, bits: int) -> None:
    weights, x = correlated(7, inputs=128)
    quantize = quantizer(name)
    hessian = Hessian((x.T @ x / len(x)).float())
    turned = quantize.turn(x, 64)
    own = Hessian((turned.T @ turned / len(x)).float())
    (codes,) = quantize(quantize.turn(weights.float(), 64), own, (bits,), 64)
    packed = pack(codes.codes, codes.scale, codes.zero, bits, 64, codes.rotated)
    assert torch.equal(dequantize(packed), codes.dequantize())
    relative = (
        hessian.error(weights.float() - codes.dequantize()).sum()
        / hessian.error(weights.float()).sum()
    )
    assert relative < (0.5, 0.35, 0.06, 0.02)[bits - 1]


def test_unknown_quantizer_names_the_choices() -> None:
    with pytest.raises(UsageError, match="gptq"):
        quantizer("awq")


def test_the_names_that_planning_knows_are_the_quantizers() -> None:
    assert tuple(QUANTIZERS) == quantizer_names.QUANTIZER_NAMES
    assert quantizer_names.DEFAULT_QUANTIZER in QUANTIZERS
    for name, found in QUANTIZERS.items():
        assert quantizer_names.is_rotated(name) == found.rotated
