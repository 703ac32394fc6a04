import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import units


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (4_196_000, "4.20 MB"),
        (999_600, "1.00 MB"),
        (21_340_000_000, "21.3 GB"),
        (612_000_000, "612 MB"),
    ],
)
def test_sizes(count: int, shown: str):
    assert units.size(count) == shown


@given(st.integers(0, 10**15))
def test_sizes_have_three_digits_and_the_right_magnitude(count: int):
    number, unit = units.size(count).split()
    assert len(number.replace(".", "")) <= 4
    factor = 1000 ** ["B", "kB", "MB", "GB", "TB"].index(unit)
    assert float(number) * factor == pytest.approx(count, rel=0.006, abs=0.5)


def test_counts_shares_and_times():
    assert units.quantity(46_702_792_704) == "46.7 B"
    assert units.quantity(512) == "512"
    assert units.share(0.314) == "31 %"
    assert units.share(0.0123) == "1.2 %"
    assert units.share(0) == "0 %"
    assert [units.speed(each) for each in (0.84, 999.9, 1233.8)] == ["0.8", "999.9", "1,234"]
    assert units.clock(7.4) == "0:07"
    assert units.clock(3723) == "1:02:03"
