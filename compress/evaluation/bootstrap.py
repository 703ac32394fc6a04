"""Means over windows with intervals: how sure a difference between two models is."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
_SEED = 0
_LEVEL = 0.95
_CHUNK = 1_000
"""Resamples held in memory at a time."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval, ``low`` to ``high``."""

    value: float
    low: float
    high: float

    def exp(self) -> "Estimate":
        """The same of exp of the figure: the interval is made of quantiles, which exp keeps."""
        return Estimate(*(float(np.exp(x)) for x in (self.value, self.low, self.high)))


def mean_over_windows(values: NDArray[np.float64]) -> Estimate:
    """The mean of one value per window [N], N at least 2, with its percentile bootstrap interval.

    Windows are drawn with replacement, `RESAMPLES` times and with a fixed seed. Differences between
    two models on the same windows make it a paired comparison: what is hard about a window is
    taken out before anything is drawn.
    """
    count = len(values)
    if count < 2:
        raise ValueError("one window has no interval")
    rng = np.random.default_rng(_SEED)
    means = np.concatenate(
        [
            values[rng.integers(count, size=(_CHUNK, count))].mean(axis=1)
            for _ in range(RESAMPLES // _CHUNK)
        ]
    )
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Estimate(float(values.mean()), float(low), float(high))
