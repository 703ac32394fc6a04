"""What the wizard's sliders and bar say, without a screen."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.widgets.context_slider import stop_words, stops
from app.widgets.fit_bar import fit_words
from compress.plan import Choice
from engine.protocol import Device

NEED = Choice(2.0, 12 * 10**9, 10**9, 10**9, 14 * 10**9, fits=True, tight=False, paper_score=None)
CARD = Device("Card", "cuda", "cuda:0", 24 * 10**9, 20 * 10**9)


@pytest.mark.parametrize(
    ("longest", "wanted", "expected"),
    [
        (32_768, [], (1024, 2048, 4096, 8192, 16_384, 32_768)),
        (5000, [], (1024, 2048, 4096, 5000)),
        (1024, [8192], (1024,)),
        (512, [], (512,)),
        (4096, [300, 5000], (300, 1024, 2048, 4096)),
    ],
)
def test_stops_are_doubles_up_to_the_models_limit(longest, wanted, expected):
    assert stops(longest, wanted) == expected


@given(st.integers(1, 1 << 21), st.lists(st.integers(1, 1 << 21), max_size=2))
def test_every_stop_is_possible_and_what_is_wanted_is_one(longest: int, wanted: list[int]):
    found = stops(longest, wanted)
    assert list(found) == sorted(set(found))
    assert found[-1] == longest
    assert {min(tokens, longest) for tokens in wanted} <= set(found)


def test_stops_are_named_in_thousands_where_they_are_such():
    assert [stop_words(tokens) for tokens in (1024, 32_768, 5000)] == ["1k", "32k", "5,000"]


@pytest.mark.parametrize(
    ("choice", "device", "words"),
    [
        (NEED, CARD, "✓ fits: 14.0 GB of 20.0 GB free, 6.00 GB left"),
        (
            replace(NEED, tight=True),
            replace(CARD, free_bytes=15 * 10**9),
            "! tightly: 14.0 GB of 15.0 GB free, 1.00 GB left",
        ),
        (
            replace(NEED, fits=False),
            replace(CARD, free_bytes=10**10),
            "✕ too big by 4.00 GB: 14.0 GB, of 10.0 GB free",
        ),
        (
            NEED,
            replace(CARD, total_bytes=0, free_bytes=0),
            "? 14.0 GB needed; what is free is unknown",
        ),
        (
            replace(NEED, fits=False),
            replace(CARD, free_bytes=0, problem="too old"),
            "✕ this device cannot be used",
        ),
    ],
)
def test_the_judgement_is_in_words(choice: Choice, device: Device, words: str):
    assert str(fit_words(choice, device)) == words
