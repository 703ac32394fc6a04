"""How much two texts agree, against the plain definition."""

from collections.abc import Sequence
from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from app.agreement import Agreement, agreement

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "dd", "ä"]), max_size=12)


def longest_common(left: Sequence[str], right: Sequence[str]) -> int:
    @cache
    def of(i: int, j: int) -> int:
        if i == len(left) or j == len(right):
            return 0
        if left[i] == right[j]:
            return 1 + of(i + 1, j + 1)
        return max(of(i + 1, j), of(i, j + 1))

    return of(0, 0)


@given(TEXTS, TEXTS, st.sampled_from([" ", "\n", "  \t"]))
def test_it_is_what_the_definition_says(left: list[str], right: list[str], space: str) -> None:
    ours, theirs = space.join(left), " ".join(right)
    found = agreement(ours, theirs)
    count = len(left) + len(right)
    assert found.share == (2 * longest_common(left, right) / count if count else 1.0)
    assert left[: found.same] == right[: found.same]
    assert found.words == (
        left[found.same] if found.same < len(left) else "",
        right[found.same] if found.same < len(right) else "",
    )
    assert found.whole == (left == right)
    for text, word, start in zip((ours, theirs), found.words, found.starts, strict=True):
        assert text[start:].startswith(word)
        assert start == len(text) if not word else text[:start].split() == left[: found.same]


def test_places_of_the_first_other_word() -> None:
    assert agreement("one two\nthree", "one  two four five") == Agreement(
        2, ("three", "four"), (8, 9), 4 / 7
    )


def test_thousands_of_words_take_no_time() -> None:
    text = " ".join(str(number % 977) for number in range(8000))
    assert agreement(text, f"x {text}").share == 16000 / 16001
