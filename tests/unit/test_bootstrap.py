"""Intervals of means over windows, against every resample there is and against their promise."""

import itertools

import numpy as np
import pytest

from compress.evaluation.bootstrap import Estimate, mean_over_windows


def test_it_is_the_quantiles_of_all_resamples() -> None:
    values = np.array([0.3, -1.0, 2.2, 0.7, 0.1])
    every = [np.mean(drawn) for drawn in itertools.product(values, repeat=len(values))]
    low, high = np.quantile(every, (0.025, 0.975))
    found = mean_over_windows(values)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)
    assert mean_over_windows(values) == found


def test_it_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    found = [mean_over_windows(rng.normal(0.1, 1.0, size=32)) for _ in range(200)]
    inside = np.mean([estimate.low <= 0.1 <= estimate.high for estimate in found])
    assert 0.88 <= inside <= 0.99


def test_pairs_are_surer_than_the_windows_themselves() -> None:
    rng = np.random.default_rng(2)
    hardness = rng.normal(2.0, 0.5, size=32)
    better, worse = hardness + rng.normal(0, 0.01, 32), hardness + 0.05
    paired, alone = mean_over_windows(worse - better), mean_over_windows(worse)
    assert paired.low > 0
    assert paired.high - paired.low < (alone.high - alone.low) / 10


def test_one_window_has_no_interval() -> None:
    with pytest.raises(ValueError, match="one window"):
        mean_over_windows(np.array([1.0]))


def test_exp_keeps_the_interval() -> None:
    assert Estimate(0.0, -1.0, 1.0).exp() == Estimate(1.0, np.exp(-1.0), np.exp(1.0))
