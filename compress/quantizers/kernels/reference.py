"""The group steps in plain torch: any device, any precision."""

from collections.abc import Callable

import torch
from torch import Tensor

from compress.quantizers import grid
from compress.quantizers.draft import Draft

Sweep = Callable[[Tensor, Tensor | None, Tensor, Tensor, Tensor, int], Tensor]
"""(targets [R, g]; base [R, g]; couplings [g, g]; scale and zero [R]; top) to levels [R, g], as
floats: once input i has become v, the target of each later j falls by (v - base[:, i]) C_ij.
Without a base, by (v - its target) C_ij."""

_SINGULAR = 1e-6


def sweep(
    targets: Tensor,
    base: Tensor | None,
    couplings: Tensor,
    scale: Tensor,
    zero: Tensor,
    top: int,
) -> Tensor:
    """See `Sweep`. One input after the other: right everywhere, fast nowhere."""
    # An input a row, so that every step reads and writes neighbours.
    left, levels = targets.T.clone(), torch.empty_like(targets.T)
    for i, target in enumerate(left):
        levels[i] = (target / scale).add_(zero).round_().clamp_(0, top)
        moved = (levels[i] - zero).mul_(scale).sub_(target if base is None else base[:, i])
        left[i + 1 :].addr_(couplings[i, i + 1 :], moved, alpha=-1)
    return levels.T


class TorchGroups:
    """Elementwise work in torch around one kernel that goes through the inputs of a group."""

    def __init__(self, inputs: Sweep = sweep) -> None:
        self._sweep = inputs

    def compensate(
        self,
        weights: Tensor,
        columns: Tensor,
        couplings: Tensor,
        importance: Tensor,
        draft: Draft,
        group: int,
        changes: Tensor,
    ) -> None:
        """See `GroupKernels`."""
        base = weights[:, columns]
        targets = base + changes
        scale, zero = (
            half.to(weights.dtype) if half is not None else draft.zero[:, group].clone()
            for half in grid.fit(targets, importance, draft.bits, draft.rotated)
        )
        levels = self._sweep(targets, None, couplings, scale, zero, 2**draft.bits - 1)
        draft.codes[:, columns] = levels.to(torch.uint8)
        draft.scale[:, group], draft.zero[:, group] = scale, zero
        changes.copy_(base - grid.decode(levels, scale, zero))

    def descend(
        self,
        weights: Tensor,
        own: Tensor,
        couplings: Tensor,
        draft: Draft,
        group: int,
        slopes: Tensor,
    ) -> None:
        """See `GroupKernels`."""
        size = len(own)
        inputs = slice(group * size, (group + 1) * size)
        levels = draft.codes[:, inputs].to(weights.dtype)
        scale, zero = draft.scale[:, group].clone(), draft.zero[:, group].clone()
        slopes -= _refit(levels, own, slopes, scale, zero, draft.centred) @ own
        base = grid.decode(levels, scale, zero)
        targets = base + slopes / own.diagonal()
        levels = self._sweep(targets, base, couplings, scale, zero, 2**draft.bits - 1)
        draft.codes[:, inputs] = levels.to(torch.uint8)
        draft.scale[:, group], draft.zero[:, group] = scale, zero
        slopes.copy_(weights[:, inputs] - grid.decode(levels, scale, zero))


def _refit(
    levels: Tensor, own: Tensor, slope: Tensor, scale: Tensor, zero: Tensor, centred: bool
) -> Tensor:
    """Least-squares step of scale and zero [R], in place, where it lowers the error.

    The group's weights are scale * x + offset with x = levels - zero; a ``centred`` grid has no
    offset. Returns how what the levels [R, g] stand for has changed.
    """
    x = levels - zero.unsqueeze(-1)
    a, b = _step(x, own, slope, centred)
    trial = grid.to_scale(scale + a).to(scale.dtype)
    trial_zero = zero if centred else (zero - b / trial).half().to(zero.dtype)
    step = grid.decode(levels, trial, trial_zero) - grid.decode(levels, scale, zero)
    change = ((step @ own) * step).sum(-1) - 2 * (slope * step).sum(-1)
    better = change < 0  # float16 can spoil what least squares found
    scale.copy_(torch.where(better, trial, scale))
    zero.copy_(torch.where(better, trial_zero, zero))
    return torch.where(better.unsqueeze(-1), step, 0.0)


def _step(x: Tensor, own: Tensor, slope: Tensor, centred: bool) -> tuple[Tensor, Tensor]:
    """The step (a, b) [R] in scale and offset that lowers the error of one group most.

    It changes the error by -2 (a G.x + b G.1) + [a b] N [a b]^T, with N the 2 x 2 products of x
    [R, g] and 1 under ``own`` [g, g].
    """
    under = x @ own
    xx, gx = (under * x).sum(-1), (slope * x).sum(-1)
    if centred:
        return gx / xx, torch.zeros_like(gx)
    x1, ones, g1 = under.sum(-1), own.sum(), slope.sum(-1)
    determinant = xx * ones - x1.square()
    # One level for the whole group: x and 1 are the same direction, there is no single step.
    regular = determinant > _SINGULAR * xx * ones
    determinant = torch.where(regular, determinant, 1.0)
    a = torch.where(regular, (gx * ones - g1 * x1) / determinant, 0.0)
    return a, torch.where(regular, (g1 * xx - gx * x1) / determinant, 0.0)
