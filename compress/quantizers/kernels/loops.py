"""The loops of rounding a group of inputs, compiled by numba: a tile of rows stays in the cache
from the grid search to the codes.

A tile is [g, LANES], an input a row, so that every inner loop runs along rows of the matrix and
becomes vector instructions. Constants are float32: a Python number would turn all into float64.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from compress.quantizers.kernels.simd import LANES, add_combination

EXACT: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
FUSED = EXACT | {"fastmath": {"contract"}}
"""Multiply and add in one instruction; nothing else is reordered."""

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_ROUNDER = np.float32(1.5 * 2**23)
"""Added and taken away again, it leaves a small number rounded to the nearest whole one."""

_SPLITTER = np.float32(2**13 + 1)
_SUBNORMAL, _UNIT = np.float32(2.0**-14), np.float32(2.0**24)
_SMALLEST_SCALE, _LARGEST_SCALE = np.float32(2.0**-24), np.float32(65504.0)
_FLAT, _SINGULAR, _TINY = np.float32(1e-12), np.float32(1e-6), np.float32(2.0**-126)
_INFINITY = np.float32(np.inf)
_REFITS = 2
_SHRINKS = np.array([1.0 - 0.08 * step for step in range(1, 9)], np.float32)
_MOVES = np.array((0.12, 0.06, 0.03, -0.03, -0.06), np.float32)
_STRETCHES = np.array((1.06, 0.94, 1.03, 0.97), np.float32)


@njit(**EXACT)
def _to_half(value: np.float32) -> np.float32:
    """The nearest float16, as a float32; infinite beyond its range (Dekker's splitting)."""
    product = value * _SPLITTER
    normal = product - (product - value)
    small = ((value * _UNIT + _ROUNDER) - _ROUNDER) / _UNIT
    rounded = small if abs(value) < _SUBNORMAL else normal
    return _INFINITY * value if abs(rounded) > _LARGEST_SCALE else rounded


@njit(**EXACT)
def _to_scale(value: np.float32) -> np.float32:
    """Like `grid.to_scale`."""
    low = _SMALLEST_SCALE if value < _SMALLEST_SCALE else value
    scale: np.float32 = _to_half(_LARGEST_SCALE if low > _LARGEST_SCALE else low)
    return scale


@njit(**EXACT)
def _nearest(exact: np.float32, top: np.float32) -> np.float32:
    """The level 0 .. top nearest to ``exact``."""
    above = exact if exact > _ZERO else _ZERO
    within = above if above < top else top
    return (within + _ROUNDER) - _ROUNDER


@njit(**FUSED)
def _losses(
    tile: Floats, importance: Floats, scale: Floats, zero: Floats, top: np.float32, loss: Floats
) -> None:
    """loss[r] = the weighted squared error of rounding row r to its grid."""
    inverse = _ONE / scale
    loss[:] = _ZERO
    for i in range(len(tile)):
        weights, weight = tile[i], importance[i]
        for r in range(LANES):
            exact = weights[r] * inverse[r] + zero[r]
            error = _nearest(exact, top) - exact
            loss[r] += weight * error * error
    for r in range(LANES):
        loss[r] *= scale[r] * scale[r]


@njit(**FUSED)
def _try(
    tile: Floats,
    importance: Floats,
    top: np.float32,
    trial: tuple[Floats, Floats],
    best: tuple[Floats, Floats, Floats],
) -> None:
    """Take the trial's scale and zero for the rows where they lose less than the best ones."""
    scale, zero = trial
    best_scale, best_zero, best_loss = best
    loss = np.empty(LANES, np.float32)
    _losses(tile, importance, scale, zero, top, loss)
    for r in range(LANES):
        better = loss[r] < best_loss[r]
        best_scale[r] = scale[r] if better else best_scale[r]
        best_zero[r] = zero[r] if better else best_zero[r]
        best_loss[r] = loss[r] if better else best_loss[r]


@njit(**FUSED)
def _spanning(low: Floats, width: Floats, top: np.float32, scale: Floats, zero: Floats) -> None:
    """The float16 grids whose codes 0 .. top span low .. low + width."""
    for r in range(LANES):
        step = _to_scale(width[r] / top if width[r] > _ZERO else _ONE)
        scale[r] = step
        zero[r] = _to_half(-low[r] / step)


@njit(**FUSED)
def _fit_line(
    tile: Floats,
    importance: Floats,
    top: np.float32,
    best: tuple[Floats, Floats, Floats],
    scale: Floats,
    zero: Floats,
) -> None:
    """The weighted least-squares line W = scale * q + offset through the present codes."""
    best_scale, best_zero, _ = best
    total, inverse = _ZERO, _ONE / best_scale
    level, square = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    weight, product = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    for i in range(len(tile)):
        row, share = tile[i], importance[i]
        total += share
        for r in range(LANES):
            # Counted from the middle, so that the squares do not cancel.
            q = _nearest(row[r] * inverse[r] + best_zero[r], top) - _HALF * top
            level[r] += share * q
            square[r] += share * q * q
            weight[r] += share * row[r]
            product[r] += share * q * row[r]
    total = total if total > _TINY else _TINY
    for r in range(LANES):
        mean, mean_weight = level[r] / total, weight[r] / total
        variance = square[r] / total - mean * mean
        flat = variance if variance > _FLAT else _FLAT
        slope = (product[r] / total - mean * mean_weight) / flat
        # One level for the whole group, or a falling line: there is nothing to learn from it.
        usable = variance > _FLAT and slope > _SMALLEST_SCALE
        step = _to_scale(slope if usable else best_scale[r])
        fitted = _to_half(mean + _HALF * top - mean_weight / step)
        scale[r] = step if usable else best_scale[r]
        zero[r] = fitted if usable else best_zero[r]


@njit(**FUSED)
def _fit_signs(tile: Floats, importance: Floats, scale: Floats) -> None:
    """Twice the weighted mean magnitude; the plain one where no input counts."""
    total = _ZERO
    weighted, plain = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    for i in range(len(tile)):
        row, share = tile[i], importance[i]
        total += share
        for r in range(LANES):
            weighted[r] += share * abs(row[r])
            plain[r] += abs(row[r])
    count = np.float32(len(tile))
    for r in range(LANES):
        scale[r] = _to_scale(_TWO * (weighted[r] / total if total > _ZERO else plain[r] / count))


@njit(**FUSED)
def _fit_around_zero(
    tile: Floats, importance: Floats, top: np.float32, scale: Floats, zero: Floats
) -> None:
    """The search of `grid.fit` for a rotated matrix."""
    middle = _HALF * top
    zero[:] = middle
    widest = np.zeros(LANES, np.float32)
    for i in range(len(tile)):
        row = tile[i]
        for r in range(LANES):
            widest[r] = abs(row[r]) if abs(row[r]) > widest[r] else widest[r]
    for r in range(LANES):
        widest[r] = widest[r] / middle
        scale[r] = _to_scale(widest[r])
    loss, trial_scale = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    trial, best = (trial_scale, zero), (scale, zero, loss)
    _losses(tile, importance, scale, zero, top, loss)
    for shrink in _SHRINKS:
        for r in range(LANES):
            trial_scale[r] = _to_scale(widest[r] * shrink)
        _try(tile, importance, top, trial, best)
    for stretch in _STRETCHES:
        for r in range(LANES):
            trial_scale[r] = _to_scale(scale[r] * stretch)
        _try(tile, importance, top, trial, best)
    square, product = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for _ in range(_REFITS):
        square[:], product[:] = _ZERO, _ZERO
        inverse = _ONE / scale
        for i in range(len(tile)):
            row, share = tile[i], importance[i]
            for r in range(LANES):
                x = _nearest(row[r] * inverse[r] + middle, top) - middle
                square[r] += share * x * x
                product[r] += share * x * row[r]
        for r in range(LANES):
            step = product[r] / (square[r] if square[r] > _TINY else _TINY)
            trial_scale[r] = _to_scale(step) if square[r] > _ZERO else scale[r]
        _try(tile, importance, top, trial, best)


@njit(**FUSED)
def fit_tile(
    tile: Floats,
    importance: Floats,
    top: np.float32,
    centred: bool,
    scale: Floats,
    zero: Floats,
) -> None:
    """Scale and zero [LANES] of a tile's rows: the search of `grid.fit`, with its candidates."""
    if top == _ONE:
        zero[:] = _HALF
        _fit_signs(tile, importance, scale)
        return
    if centred:
        _fit_around_zero(tile, importance, top, scale, zero)
        return
    low, high = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    for i in range(len(tile)):
        row = tile[i]
        for r in range(LANES):
            low[r] = row[r] if row[r] < low[r] else low[r]
            high[r] = row[r] if row[r] > high[r] else high[r]
    width = high - low
    loss = np.empty(LANES, np.float32)
    trial_scale, trial_zero = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    trial, best = (trial_scale, trial_zero), (scale, zero, loss)
    _spanning(low, width, top, scale, zero)
    _losses(tile, importance, scale, zero, top, loss)
    for shrink in _SHRINKS:
        _spanning(low * shrink, width * shrink, top, trial_scale, trial_zero)
        _try(tile, importance, top, trial, best)
    for move in _MOVES:
        low, width = -zero * scale, scale * top
        _spanning(low + move * width, (_ONE - move) * width, top, trial_scale, trial_zero)
        _try(tile, importance, top, trial, best)
        low, width = -zero * scale, scale * top
        _spanning(low, (_ONE - move) * width, top, trial_scale, trial_zero)
        _try(tile, importance, top, trial, best)
    for _ in range(_REFITS):
        _fit_line(tile, importance, top, best, trial_scale, trial_zero)
        _try(tile, importance, top, trial, best)


@njit(**FUSED)
def _round_tile(
    targets: Floats,
    base: Floats,
    couplings: Floats,
    grid: tuple[Floats, Floats],
    top: np.float32,
    levels: Floats,
) -> None:
    """Round the inputs of a tile one after the other.

    Once input i has become v, the target of each later input j falls by (v - base[i]) C_ij;
    ``couplings`` [g, g] is C^T, strictly lower. ``targets`` [g, LANES] is used up; ``base``, which
    may be ``targets`` itself, becomes v.
    """
    scale, zero = grid
    inverse = _ONE / scale
    size = len(targets)
    missing = np.empty((size, LANES), np.float32)  # base - v
    for i in range(size):
        add_combination(couplings, i * size, missing, 0, i, targets, i)
        target, own, level, miss = targets[i], base[i], levels[i], missing[i]
        for r in range(LANES):
            level[r] = _nearest(target[r] * inverse[r] + zero[r], top)
            value = (level[r] - zero[r]) * scale[r]
            miss[r] = own[r] - value
            own[r] = value


@njit(**FUSED)
def compensate_rows(
    first: int,
    last: int,
    weights: Floats,
    columns: Ints,
    couplings: Floats,
    importance: Floats,
    top: np.float32,
    centred: bool,
    codes: Bytes,
    scales: Floats,
    zeros: Floats,
    group: int,
    changes: Floats,
) -> None:
    """GPTQ's step for one group of inputs, of rows ``first`` to ``last``; see `GroupKernels`."""
    size = len(columns)
    targets, levels = np.zeros((size, LANES), np.float32), np.empty((size, LANES), np.float32)
    scale, zero = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for start in range(first, last, LANES):
        count = min(LANES, last - start)
        for r in range(count):
            for i in range(size):
                targets[i, r] = weights[start + r, columns[i]] + changes[start + r, i]
        fit_tile(targets, importance, top, centred, scale, zero)
        _round_tile(targets, targets, couplings, (scale, zero), top, levels)
        for r in range(count):
            scales[start + r, group], zeros[start + r, group] = scale[r], zero[r]
            for i in range(size):
                column = columns[i]
                codes[start + r, column] = np.uint8(levels[i, r])
                changes[start + r, i] = weights[start + r, column] - targets[i, r]


@njit(**FUSED)
def _refit(
    levels: Floats,
    base: Floats,
    slope: Floats,
    own: Floats,
    centred: bool,
    scale: Floats,
    zero: Floats,
) -> None:
    """Least-squares step of a tile's scales and zeros, where it lowers the error.

    ``slope`` [g, LANES] holds G and is kept so; ``base`` [g, LANES] becomes what the levels stand
    for.
    """
    size = len(levels)
    for i in range(size):
        level, x = levels[i], base[i]
        for r in range(LANES):
            x[r] = level[r] - zero[r]
    ones = _ZERO
    across = np.zeros(size, np.float32)  # own times 1
    under = np.zeros((size, LANES), np.float32)  # own times x
    for i in range(size):
        add_combination(own, i * size, base, 0, size, under, i)
        for j in range(size):
            across[i] += own[i, j]
        ones += across[i]
    xx, x1 = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    gx, g1 = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    for i in range(size):
        x, down, to = base[i], slope[i], under[i]
        for r in range(LANES):
            xx[r] += to[r] * x[r]
            x1[r] += to[r]
            gx[r] += down[r] * x[r]
            g1[r] += down[r]
    stretch, shift = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for r in range(LANES):
        if centred:
            trial = _to_scale(scale[r] + gx[r] / xx[r])
            trial_zero = zero[r]
        else:
            determinant = xx[r] * ones - x1[r] * x1[r]
            # One level for the whole group: x and 1 are the same direction, no single step.
            regular = determinant > _SINGULAR * xx[r] * ones
            safe = determinant if regular else _ONE
            a = (gx[r] * ones - g1[r] * x1[r]) / safe if regular else _ZERO
            b = (g1[r] * xx[r] - gx[r] * x1[r]) / safe if regular else _ZERO
            trial = _to_scale(scale[r] + a)
            trial_zero = _to_half(zero[r] - b / trial)
        # The change of what x stands for is stretch * x + shift.
        p, q = trial - scale[r], trial * (zero[r] - trial_zero)
        change = p * p * xx[r] + _TWO * p * q * x1[r] + q * q * ones
        better = change < _TWO * (p * gx[r] + q * g1[r])  # float16 can spoil least squares
        stretch[r], shift[r] = (p, q) if better else (_ZERO, _ZERO)
        scale[r] = trial if better else scale[r]
        zero[r] = trial_zero if better else zero[r]
    for i in range(size):
        level, value, down, to = levels[i], base[i], slope[i], under[i]
        for r in range(LANES):
            value[r] = (level[r] - zero[r]) * scale[r]
            down[r] -= stretch[r] * to[r] + shift[r] * across[i]


@njit(**FUSED)
def descend_rows(
    first: int,
    last: int,
    weights: Floats,
    own: Floats,
    couplings: Floats,
    top: np.float32,
    centred: bool,
    codes: Bytes,
    scales: Floats,
    zeros: Floats,
    group: int,
    slopes: Floats,
) -> None:
    """A step of coordinate descent for one group, of rows ``first`` to ``last``; see
    `GroupKernels`."""
    size = len(own)
    column = group * size
    base, slope = np.zeros((size, LANES), np.float32), np.zeros((size, LANES), np.float32)
    levels = np.zeros((size, LANES), np.float32)
    scale, zero = np.ones(LANES, np.float32), np.zeros(LANES, np.float32)
    for start in range(first, last, LANES):
        count = min(LANES, last - start)
        for r in range(count):
            scale[r], zero[r] = scales[start + r, group], zeros[start + r, group]
            for i in range(size):
                levels[i, r] = np.float32(codes[start + r, column + i])
                slope[i, r] = slopes[start + r, i]
        _refit(levels, base, slope, own, centred, scale, zero)
        for i in range(size):
            down, value, curvature = slope[i], base[i], _ONE / own[i, i]
            for r in range(LANES):
                down[r] = value[r] + down[r] * curvature
        _round_tile(slope, base, couplings, (scale, zero), top, levels)
        for r in range(count):
            scales[start + r, group], zeros[start + r, group] = scale[r], zero[r]
            for i in range(size):
                codes[start + r, column + i] = np.uint8(levels[i, r])
                slopes[start + r, i] = weights[start + r, column + i] - base[i, r]
