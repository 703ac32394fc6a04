"""The grid a group of weights is rounded to: W = (q - zero) * scale, q in 0 .. 2^bits - 1.

Plain min-max wastes the few levels of 2 and 3 bits on the outermost weights. Here each group
searches shrunken ranges for the least importance-weighted squared error and then refits scale and
zero point to the chosen codes by least squares. Scales and zero points are rounded to float16, as
they are stored, BEFORE any code is computed, so that codes are right for what is read back.
At 1 bit the code is a sign: zero is 1/2 and not stored, scale is twice the magnitude
(METHOD: B = sign(W), stored as (B + 1) / 2).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SIGN_ZERO = 0.5
_SHRINKS = tuple(1.0 - 0.05 * step for step in range(14))
_REFITS = 4
_SMALLEST_SCALE = 2.0**-24
_LARGEST_SCALE = 65504.0


@dataclass(frozen=True)
class Codes:
    """A batch of matrices as codes: W = (codes - zero) * scale.

    codes uint8 [..., O, I]; scale float16 [..., O, G]; zero float16 [..., O, G], None at 1 bit.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    bits: int
    group_size: int

    def dequantize(self) -> Tensor:
        """The weights these codes stand for, float32 [..., O, I]."""
        levels = split_groups(self.codes, self.group_size).float()  # [..., O, G, g]
        return decode(levels, self.scale, self.zero).flatten(-2)  # [..., O, I]

    def split_rows(self, rows: int) -> "tuple[Codes, Codes]":
        """The first ``rows`` rows and the others."""

        def part(which: slice) -> Codes:
            zero = None if self.zero is None else self.zero[..., which, :]
            codes, scale = self.codes[..., which, :], self.scale[..., which, :]
            return Codes(codes, scale, zero, self.bits, self.group_size)

        return part(slice(None, rows)), part(slice(rows, None))


def split_groups(matrix: Tensor, group_size: int) -> Tensor:
    """[..., I] to [..., G, g]: groups lie side by side along the inputs."""
    return matrix.reshape(*matrix.shape[:-1], -1, group_size)


def fit(weights: Tensor, importance: Tensor, bits: int) -> tuple[Tensor, Tensor | None]:
    """Search scale and zero point of each group for the least weighted squared error.

    weights float [..., g]; importance float, >= 0, broadcastable to it: the error that counts is
    sum(importance * (W - Q)^2). Returns scale and zero, float16 [...]; zero is None at 1 bit.
    """
    if bits == 1:
        return _fit_sign(weights, importance), None
    top = 2**bits - 1
    # Zero stays within the range: a constant group then has a finite scale.
    low = weights.amin(-1).clamp(max=0.0)
    high = weights.amax(-1).clamp(min=0.0)
    scale, zero = _half(low, high - low, top)
    loss = _loss(weights, importance, scale, zero, top)
    for shrink in _SHRINKS[1:]:
        trial = _half(low * shrink, (high - low) * shrink, top)
        scale, zero, loss = _keep_better(weights, importance, top, (scale, zero, loss), trial)
    for _ in range(_REFITS):
        trial = _refit(weights, importance, scale, zero, top)
        scale, zero, loss = _keep_better(weights, importance, top, (scale, zero, loss), trial)
    return scale, zero


def fit_min_max(weights: Tensor, bits: int) -> tuple[Tensor, Tensor | None]:
    """The plain grid from the smallest to the largest weight, for comparison; shapes as `fit`."""
    if bits == 1:
        return _fit_sign(weights, torch.ones_like(weights)), None
    low = weights.amin(-1).clamp(max=0.0)
    return _half(low, weights.amax(-1).clamp(min=0.0) - low, 2**bits - 1)


def encode(weights: Tensor, scale: Tensor, zero: Tensor | None, bits: int) -> Tensor:
    """Nearest codes, as floats [..., g], of weights [..., g] on the grid scale, zero [...]."""
    offset = SIGN_ZERO if zero is None else zero.unsqueeze(-1).to(weights.dtype)
    levels = weights / scale.unsqueeze(-1).to(weights.dtype) + offset
    return levels.round_().clamp_(0, 2**bits - 1)


def decode(levels: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """(levels - zero) * scale for levels [..., g] on the grid scale, zero [...]."""
    offset = SIGN_ZERO if zero is None else zero.unsqueeze(-1).to(levels.dtype)
    return (levels - offset) * scale.unsqueeze(-1).to(levels.dtype)


def _fit_sign(weights: Tensor, importance: Tensor) -> Tensor:
    """Twice the weighted mean magnitude, the least-squares optimum for signs; float16 [...]."""
    importance = importance.expand_as(weights)
    total = importance.sum(-1)
    # A group that no input reaches has no weighted mean: take the plain one.
    weighted = (weights.abs() * importance).sum(-1) / total.clamp(min=torch.finfo(total.dtype).tiny)
    return _half_scale(2.0 * torch.where(total > 0, weighted, weights.abs().mean(-1)))


def _half(low: Tensor, width: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The float16 grid whose codes 0 .. top span low .. low + width."""
    scale = _half_scale(torch.where(width > 0, width / top, 1.0))
    return scale, (-low / scale.to(low.dtype)).half()


def _half_scale(scale: Tensor) -> Tensor:
    """Round to float16, never to zero or infinity."""
    return scale.clamp(_SMALLEST_SCALE, _LARGEST_SCALE).half()


def _loss(weights: Tensor, importance: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    """Weighted squared error of rounding to the grid, [...]."""
    step = scale.to(weights.dtype)
    exact = weights / step.unsqueeze(-1) + zero.unsqueeze(-1).to(weights.dtype)
    error = exact.round().clamp_(0, top).sub_(exact)
    return error.square_().mul_(importance).sum(-1) * step.square()


def _keep_better(
    weights: Tensor,
    importance: Tensor,
    top: int,
    best: tuple[Tensor, Tensor, Tensor],
    trial: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Per group, the better of two grids: (scale, zero, loss)."""
    loss = _loss(weights, importance, *trial, top)
    better = loss < best[2]
    return (
        torch.where(better, trial[0], best[0]),
        torch.where(better, trial[1], best[1]),
        torch.where(better, loss, best[2]),
    )


def _refit(
    weights: Tensor, importance: Tensor, scale: Tensor, zero: Tensor, top: int
) -> tuple[Tensor, Tensor]:
    """Weighted least-squares line W = scale * q + offset through the present codes q."""
    step, offset = scale.to(weights.dtype).unsqueeze(-1), zero.to(weights.dtype).unsqueeze(-1)
    levels = (weights / step + offset).round_().clamp_(0, top)
    share = importance.expand_as(weights)
    share = share / share.sum(-1, keepdim=True).clamp(min=torch.finfo(share.dtype).tiny)
    mean_level = (share * levels).sum(-1, keepdim=True)
    mean_weight = (share * weights).sum(-1, keepdim=True)
    spread = levels - mean_level
    variance = (share * spread.square()).sum(-1)
    slope = (share * spread * weights).sum(-1) / variance.clamp(min=1e-12)
    # One level used by the whole group, or a falling line: nothing to learn from it.
    usable = (variance > 1e-12) & (slope > _SMALLEST_SCALE)
    fitted = _half_scale(torch.where(usable, slope, scale.to(slope.dtype)))
    centre = mean_level.squeeze(-1) - mean_weight.squeeze(-1) / fitted.to(slope.dtype)
    return fitted, torch.where(usable, centre, zero.to(centre.dtype)).half()
