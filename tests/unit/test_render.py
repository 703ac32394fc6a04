"""Text that is safe to print."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.render import safe_text

any_text = st.text(st.characters(), max_size=40)  # surrogates and controls included


@given(any_text)
@example("\x1b[31mred\x1b]0;title\x07\x9b2J\r\x08\x7f")
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    safe = safe_text(text)
    controls = [c for c in safe if unicodedata.category(c) in {"Cc", "Cs"} and c not in "\n\t"]
    assert controls == []
    assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069") & set(safe)
    safe.encode("utf-8")


@given(any_text)
def test_printable_characters_stay_in_place(text: str) -> None:
    kept = [c for c in text if c in "\n\t" or unicodedata.category(c) not in {"Cc", "Cs", "Cf"}]
    assert [c for c in safe_text(text) if unicodedata.category(c) != "Cf"] == kept


@given(any_text, any_text)
def test_a_stream_is_as_safe_as_the_whole(first: str, second: str) -> None:
    assert safe_text(first + second) == safe_text(first) + safe_text(second)


def test_scripts_and_emoji_that_need_joiners_survive() -> None:
    text = "नमस्ते 👩‍👩‍👧 עברית\u200f 中文\n\tcode"
    assert safe_text(text) == text


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b]8;;http://evil.example\x1b\\bank\x1b]8;;\x07", "]8;;http://evil.example\\bank]8;;"),
        ("\x1b]52;c;cm0gLXJm\x07", "]52;c;cm0gLXJm"),
        ("\x1b[2J\x1b[1;31mred\x1b[?1049h", "[2J[1;31mred[?1049h"),
        ("\x9b31mred\x9d0;title\x9c\x90q\x9c", "31mred0;titleq"),
        ("\x1bP1$r\x1b\\\x1bc", "P1$r\\c"),
        ("over\rwritten\b\b\x7f\x00\x0e\x0f", "overwritten"),
        ("access\u202e\u2066// admin\u2069\u2066", "access// admin"),
        ("\ud83d\udc00 half \udfff", " half "),
    ],
    ids=["link", "clipboard", "CSI", "C1", "DCS", "C0", "bidi", "surrogates"],
)
def test_each_way_to_steer_a_terminal_is_shown_as_text(hostile: str, shown: str) -> None:
    assert safe_text(hostile) == shown
    assert "".join(safe_text(character) for character in hostile) == shown
