"""Text that is safe to print."""

import unicodedata

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
    assert not {"\u202d", "\u202e"} & set(safe)
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
