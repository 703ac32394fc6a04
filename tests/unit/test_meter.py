"""Speed and time left, with a clock of our own."""

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.hub import Meter


class Clock:
    """Seconds that pass when they are told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def run(meter: Meter, clock: Clock, seconds: float, speed: Callable[[], float]) -> list[float]:
    """Ten updates a second; the time left after each."""
    left = []
    for _ in range(round(10 * seconds)):
        clock.now += 0.1
        meter.update(meter.done + round(speed() / 10))
        if meter.eta_seconds is not None:
            left.append(meter.eta_seconds)
    return left


def test_nothing_is_told_before_it_can_be() -> None:
    clock = Clock()
    meter = Meter(1_000_000, 0, clock)
    assert (meter.bytes_per_second, meter.eta_seconds) == (0.0, None)
    clock.now += 0.5
    meter.update(500_000)
    assert (meter.bytes_per_second, meter.eta_seconds) == (0.0, None)


@given(st.integers(1_000, 10**9), st.floats(1.5, 300))
def test_a_steady_speed_is_told_exactly_from_the_start(speed: int, seconds: float) -> None:
    clock = Clock()
    meter = Meter(speed * 1000, 0, clock)
    run(meter, clock, seconds, lambda: speed)
    assert meter.bytes_per_second == pytest.approx(speed, rel=0.01)
    assert meter.eta_seconds == pytest.approx((meter.total - meter.done) / speed, rel=0.01)


def test_bytes_that_were_there_before_are_not_speed() -> None:
    clock = Clock()
    meter = Meter(10**9, 9 * 10**8, clock)
    run(meter, clock, 5, lambda: 10**6)
    assert meter.bytes_per_second == pytest.approx(10**6, rel=0.01)
    assert meter.eta_seconds == pytest.approx(95, rel=0.01)


def test_the_time_left_is_steady_while_the_speed_is_not() -> None:
    clock, chance = Clock(), random.Random(0)
    meter = Meter(10**9, 0, clock)
    left = run(meter, clock, 60, lambda: chance.choice((0, 0, 3 * 10**6)))[200:]
    jumps = [abs(b - a) / a for a, b in itertools.pairwise(left)]
    assert max(jumps) < 0.05


def test_a_new_speed_is_believed_after_a_while() -> None:
    clock = Clock()
    meter = Meter(10**9, 0, clock)
    run(meter, clock, 30, lambda: 10**6)
    run(meter, clock, 30, lambda: 10**5)
    assert meter.bytes_per_second == pytest.approx(10**5, rel=0.5)


def test_a_stall_ends_in_no_time_at_all_and_a_restart_is_no_negative_speed() -> None:
    clock = Clock()
    meter = Meter(10**9, 0, clock)
    run(meter, clock, 10, lambda: 10**6)
    run(meter, clock, 200, lambda: 0)
    assert meter.eta_seconds is None
    meter.update(0)
    assert meter.bytes_per_second >= 0
