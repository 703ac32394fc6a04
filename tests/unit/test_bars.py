import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.content import Content

from app.widgets.bars import bar, sparkline, spread, stacked_bar


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [
        (0.0, "        "),
        (0.5, "████    "),
        (1.0, "████████"),
        (1 / 64, "▏       "),
        (7.0, "████████"),
        (-1.0, "        "),
    ],
)
def test_a_bar_is_filled_to_an_eighth_of_a_cell(fraction: float, shown: str):
    assert str(bar(fraction, 8, "red")) == shown


def test_whatever_is_not_nothing_shows_in_a_stacked_bar():
    parts = [(0.5, "a", "red"), (0.0001, "b", "red"), (0.0, "c", "red")]
    assert str(stacked_bar(parts, 10)) == "aaaaab    "


@given(st.lists(st.floats(0, 1), max_size=5), st.integers(5, 60))
def test_a_stacked_bar_has_its_width(fractions: list[float], width: int):
    parts = [(fraction, "x", "red") for fraction in fractions]
    assert len(str(stacked_bar(parts, width))) == width


def test_a_sparkline_stands_on_a_fixed_scale():
    assert sparkline([0.0, 1 / 16, 0.5, 1.0], 6) == ["     █", "   ▁██"]


def test_a_sparkline_shows_the_newest():
    assert sparkline([1.0, 0.0, 0.0], 2) == ["  ", "  "]


def test_two_texts_stand_at_both_ends():
    assert str(spread(Content("left"), Content("right"), 12)) == "left   right"


def test_the_left_text_makes_room():
    assert str(spread(Content("a long text"), Content("end"), 10)) == "a lon… end"
    assert str(spread(Content("left"), Content("right"), 3)) == " right"
