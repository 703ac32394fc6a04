"""Coordinate descent on finished codes: what GPTQ decided early is decided again.

GPTQ rounds an input once, before it knows how the later ones came out. Here each group in turn
first refits its scale and zero point to its codes, by least squares under the whole Hessian, and
then moves each of its codes to the best level given all others. No step raises the error, so it
can be repeated. On the demo three sweeps took the perplexity of 1-bit experts from 2.15 to 1.84
times the 16-bit one's, of 2-bit experts from 1.042 to 1.034 times.

Notation: E = W - Q, the error to be lowered is tr(E H E^T), and G = E H is (minus half) its slope.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.quantizers import grid
from compress.quantizers.gptq import quantize_gptq
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian

SWEEPS = 3
_SINGULAR = 1e-6


def quantize_refined(
    weights: Tensor, hessian: Hessian, widths: Sequence[int], group_size: int, sweeps: int = SWEEPS
) -> tuple[Codes, ...]:
    """Quantize weights [O, I] for inputs with the Hessian [I, I]: GPTQ, then ``sweeps``."""
    plain = quantize_gptq(weights, hessian, widths, group_size)
    return tuple(refine(weights, hessian, codes, sweeps) for codes in plain)


def refine(weights: Tensor, hessian: Hessian, codes: Codes, sweeps: int = SWEEPS) -> Codes:
    """Lower the H-weighted error of codes of weights [O, I]; H [I, I] is damped.

    Returns codes of the same width and groups.
    """
    state = _State(weights, hessian.damped, codes)
    for _ in range(sweeps):
        for group in range(codes.scale.shape[-1]):
            slope = state.slope(group)
            state.refit_grid(group, slope)
            state.move_codes(group, slope)
    return state.codes()


class _State:
    """Levels, grids and decoded weights while they change."""

    def __init__(self, weights: Tensor, hessian: Tensor, codes: Codes) -> None:
        self._weights = weights
        self._hessian = hessian
        self._bits = codes.bits
        self._size = codes.group_size
        self._levels = codes.codes.to(weights.dtype)
        self._scale = codes.scale.clone()
        self._zero = None if codes.zero is None else codes.zero.clone()
        self._decoded = codes.dequantize().to(weights.dtype)

    def codes(self) -> Codes:
        """The result."""
        levels = self._levels.to(torch.uint8)
        return Codes(levels, self._scale, self._zero, self._bits, self._size)

    def slope(self, group: int) -> Tensor:
        """G of a group's inputs, [O, g]."""
        return (self._weights - self._decoded) @ self._hessian[:, self._inputs(group)]

    def refit_grid(self, group: int, slope: Tensor) -> None:
        """Least-squares step of the group's scale and offset, where it lowers the error.

        The group's weights are scale * x + offset with x = levels - zero; at 1 bit there is no
        offset. Updates ``slope``.
        """
        inputs = self._inputs(group)
        own = self._hessian[inputs, inputs]  # [g, g]
        scale, zero = self._grid(group)
        levels = self._levels[:, inputs]
        if zero is None:
            signs = levels - grid.SIGN_ZERO
            a = (slope * signs).sum(-1) / ((signs @ own) * signs).sum(-1)
            trial, trial_zero = grid.to_scale(scale.to(a.dtype) + a), None
        else:
            a, b = _step(levels - zero.to(levels.dtype).unsqueeze(-1), own, slope)
            trial = grid.to_scale(scale.to(a.dtype) + a)
            trial_zero = (zero.to(a.dtype) - b / trial.to(a.dtype)).half()
        step = grid.decode(levels, trial, trial_zero) - self._decoded[:, inputs]
        change = ((step @ own) * step).sum(-1) - 2 * (slope * step).sum(-1)
        better = change < 0  # float16 can spoil what least squares found
        self._scale[:, group] = torch.where(better, trial, scale)
        if self._zero is not None and trial_zero is not None:
            self._zero[:, group] = torch.where(better, trial_zero, self._zero[:, group])
        step = torch.where(better.unsqueeze(-1), step, 0.0)
        self._decoded[:, inputs] += step
        slope -= step @ own

    def move_codes(self, group: int, slope: Tensor) -> None:
        """Move each of the group's codes, one input after the other, to the best level."""
        inputs = self._inputs(group)
        own = self._hessian[inputs, inputs]
        rounder = grid.ColumnRounder(*self._grid(group), self._bits, slope.dtype)
        # An input a row, so that every step reads and writes neighbours.
        decoded, slopes = self._decoded[:, inputs].T.contiguous(), slope.T.contiguous()  # [g, O]
        levels = torch.empty_like(decoded)
        curvature = own.diagonal()
        for i, column in enumerate(decoded):
            levels[i], value = rounder.round(torch.addcdiv(column, slopes[i], curvature[i]))
            slopes[i + 1 :].addr_(own[i, i + 1 :], value - column, alpha=-1)
            column.copy_(value)
        self._decoded[:, inputs], self._levels[:, inputs] = decoded.T, levels.T

    def _inputs(self, group: int) -> slice:
        return slice(group * self._size, (group + 1) * self._size)

    def _grid(self, group: int) -> tuple[Tensor, Tensor | None]:
        zero = None if self._zero is None else self._zero[:, group]
        return self._scale[:, group], zero


def _step(x: Tensor, own: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The step (a, b) [O] in scale and offset that lowers the error of one group most.

    It changes the error by -2 (a G.x + b G.1) + [a b] N [a b]^T, with N the 2 x 2 products of x
    [O, g] and 1 under ``own`` [g, g].
    """
    under = x @ own
    xx, x1, ones = (under * x).sum(-1), under.sum(-1), own.sum()
    gx, g1 = (slope * x).sum(-1), slope.sum(-1)
    determinant = xx * ones - x1.square()
    # One level for the whole group: x and 1 are the same direction, there is no single step.
    regular = determinant > _SINGULAR * xx * ones
    determinant = torch.where(regular, determinant, 1.0)
    a = torch.where(regular, (gx * ones - g1 * x1) / determinant, 0.0)
    return a, torch.where(regular, (g1 * xx - gx * x1) / determinant, 0.0)
