"""Files named in a message: found, read, refused, and never twice."""

import os
from pathlib import Path

import pytest

from app.attachments import LONGEST_BYTES, with_attachments
from app.estimate import estimate, estimate_words
from app.folding import MOST_LINES, folded
from app.mentions import mentions


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("ducks\n")
    (tmp_path / "two words.txt").write_text("geese\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\x00\xff")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("what is in @notes.txt", ["notes.txt"]),
        ("@notes.txt, and @notes.txt again?", ["notes.txt"]),
        ("(see @notes.txt)", ["notes.txt"]),
        ('@"two words.txt" and\n@./notes.txt.', ["two words.txt", "./notes.txt"]),
        ("me@notes.txt", []),
        ("hello @ada and @you!", []),
        ("nothing", []),
        ("@", []),
    ],
)
def test_what_is_named(text: str, names: list[str]):
    found = mentions(text)
    assert [mention.name for mention in found] == names
    assert all(mention.attachment and not mention.stops for mention in found)


@pytest.mark.parametrize(
    ("name", "stops", "words"),
    [
        ("no.txt", False, "there is no file no.txt; it stays text"),
        ("./", False, "./ is no file; it stays text"),
        ("./pipe", False, "./pipe is no file; it stays text"),
        ("picture.png", True, "picture.png is no text in UTF-8; only text can be sent to a model"),
        ("large.txt", True, "large.txt has 3.00 MB, and at most 1.00 MB can be sent"),
        ("x." + "y" * 5000, False, "it stays text"),
        ("~nobody_of_that_name/x.y", False, "it stays text"),
    ],
)
def test_what_cannot_be_attached_is_told(folder: Path, name: str, stops: bool, words: str):
    (folder / "large.txt").write_text("x" * 3 * LONGEST_BYTES)
    (mention,) = mentions(f"look: @{name}")
    assert mention.attachment is None
    assert mention.stops == stops
    assert words in mention.words


def test_a_file_that_changes_is_read_again(folder: Path):
    assert mentions("@notes.txt")[0].attachment.text == "ducks\n"
    (folder / "notes.txt").write_text("swans and ducks\n")
    assert mentions("@notes.txt")[0].attachment.text == "swans and ducks\n"


def test_what_was_attached_is_not_attached_again():
    (mention,) = mentions("what is @notes.txt about?")
    sent = with_attachments("what is @notes.txt about?", [mention.attachment])
    assert "ducks" in sent
    assert mentions(sent) == []


def test_an_estimate_is_round_and_says_what_it_is():
    assert estimate("") == 0
    assert estimate("x" * 49_380) == 12_000
    assert estimate_words("x" * 300, 1) == ""
    assert estimate_words("x" * 4_000, None) == "about 1,000 tokens"
    assert estimate_words("x" * 4_000, 1_000) == "about 1,000 tokens"
    assert estimate_words("x" * 4_000, 900) == "about 1,000 tokens, but 900 fit"


def test_long_texts_are_folded_in_the_middle():
    lines = [f"line {n}" for n in range(MOST_LINES)]
    assert folded("\n".join(lines)) == "\n".join(lines)
    assert folded("\n".join([*lines, "last"])).split("\n") == [
        *lines[:8],
        f"⋯ {MOST_LINES - 15} lines ⋯",
        *lines[-7:],
        "last",
    ]
    assert folded("x" * 5_000) == "x" * 2_000 + " ⋯ 3,000 characters ⋯"
