"""The stream of text: pieces add up to the whole, characters are whole, stop strings stay in."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.stream import Detokenizer, StopStrings
from tests.unit.tokenizers_for_tests import BACKENDS, ours

KINDS = list(BACKENDS)
TOKENIZERS = {kind: ours(kind) for kind in KINDS}


def pieces_of(kind: str, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(TOKENIZERS[kind])
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


@settings(deadline=None)
@given(text=st.text(), kind=st.sampled_from(KINDS))
@example(text=" ab 🙂\n  é ab", kind="sentencepiece-like")
@example(text="  leading", kind="byte-level")
def test_pieces_of_an_encoded_text_add_up_to_it(text: str, kind: str) -> None:
    ids = TOKENIZERS[kind].encode(text)
    pieces = pieces_of(kind, ids)
    assert "".join(pieces) == TOKENIZERS[kind].decode(ids).removeprefix(" ")
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(deadline=None)
@given(text=st.text(min_size=1), cut=st.integers(1, 40), kind=st.sampled_from(KINDS))
@example(text="ab ab", cut=1, kind="sentencepiece-like")
@example(text="🙂🙂", cut=5, kind="sentencepiece-like")
def test_a_text_goes_on_after_the_id_where_it_was_cut(text: str, cut: int, kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    if len(ids) <= cut or "\ufffd" in tokenizer.decode(ids[:cut]):
        return
    detokenizer = Detokenizer(tokenizer, after=ids[:cut])
    rest = "".join([*(detokenizer.push(token) for token in ids[cut:]), detokenizer.flush()])
    assert tokenizer.decode(ids[:cut]) + rest == tokenizer.decode(ids)


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 263), max_size=20))
def test_any_bytes_add_up_to_what_decoding_them_at_once_gives(ids: list[int]) -> None:
    assert "".join(pieces_of("byte-level", ids)) == TOKENIZERS["byte-level"].decode(
        ids
    ).removeprefix(" ")


@pytest.mark.parametrize("kind", KINDS)
def test_a_character_over_four_tokens_comes_out_at_once(kind: str) -> None:
    ids = TOKENIZERS[kind].encode("🙂")
    assert len(ids) >= 4
    assert [piece for piece in pieces_of(kind, ids) if piece] == ["🙂"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_character_is_shown_as_such_at_the_end(kind: str) -> None:
    ids = TOKENIZERS[kind].encode("a🙂")[:-1]
    pieces = pieces_of(kind, ids)
    assert "".join(pieces).startswith("a\ufffd")
    assert "\ufffd" not in "".join(pieces[:-1])


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(ends)]


@given(
    text=st.text(alphabet="abc", max_size=30),
    stops=st.lists(st.text(alphabet="abc", max_size=4), max_size=3),
    places=st.lists(st.integers(0, 30)),
)
@example(text="aabc", stops=["aab", "abc"], places=[1, 2, 3])
@example(text="abab", stops=["abac", "ba"], places=[1, 2, 3])
def test_text_ends_before_the_stop_string_that_is_complete_first(
    text: str, stops: list[str], places: list[int]
) -> None:
    stream = StopStrings(stops)
    shown = ""
    for piece in cut(text, places):
        shown += stream.push(piece)
        # Nothing that came out may have to be taken back.
        assert text.startswith(shown)
    shown += stream.flush()

    ends = [end for end in range(len(text) + 1) if any(s and text[:end].endswith(s) for s in stops)]
    assert stream.stopped == bool(ends)
    if ends:
        longest = max(len(s) for s in stops if s and text[: ends[0]].endswith(s))
        assert shown == text[: ends[0] - longest]
    else:
        assert shown == text


def test_no_part_of_a_stop_string_is_shown_early_and_the_rest_is_swallowed() -> None:
    stream = StopStrings(["<|end|>"])
    assert [stream.push(piece) for piece in ("one <|", "en", "e <|end", "|> two", "x")] == [
        "one ",
        "",
        "<|ene ",
        "",
        "",
    ]
    assert stream.stopped
    assert stream.flush() == ""
