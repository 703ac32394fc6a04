"""Files that go with a message."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.attachments import LONGEST_BYTES, Attachment, attach, piped, with_attachments
from engine.errors import UsageError


def test_a_file_is_read_as_it_is(tmp_path: Path):
    path = tmp_path / "größe.txt"
    path.write_bytes("\ufeffeins\r\nzwei".encode())
    assert attach(str(path)) == Attachment("größe.txt", "eins\r\nzwei")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x89PNG\r\n\x1a\n", "is no text in UTF-8"),
        (b"a\0b", "is no text in UTF-8"),
        (b"a" * (LONGEST_BYTES + 1), "has more than 1.00 MB, which no context holds"),
        (b"\xff" * (LONGEST_BYTES + 1), "has more than 1.00 MB and is no text"),
    ],
)
def test_what_is_no_text_or_too_long_is_refused(tmp_path: Path, content: bytes, says: str):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UsageError) as raised:
        attach(str(path))
    assert says in str(raised.value)
    assert str(path) in str(raised.value)


def test_what_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match="nothing cannot be read: No such file"):
        attach(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        attach(str(tmp_path))


def test_a_blank_pipe_is_no_attachment():
    assert piped(io.StringIO(" \n")) is None
    assert piped(io.StringIO("diff\n")) == Attachment("", "diff\n")
    with pytest.raises(UsageError, match="what is piped in has more than"):
        piped(io.StringIO("ä" * (LONGEST_BYTES // 2 + 1)))


def test_the_prompt_comes_last_and_alone_it_is_itself():
    assert with_attachments("Hello", []) == "Hello"
    files = [Attachment("a.py", "x = 1\n"), Attachment("", "\n+ diff\n")]
    assert with_attachments("Why?", files) == "a.py:\n```\nx = 1\n```\n\n+ diff\n\nWhy?"
    assert with_attachments("", files[1:]) == "+ diff"


@given(st.text(st.sampled_from("`~ a\n\t")))
def test_no_text_ends_its_fence(text: str):
    message = with_attachments("", [Attachment("file", text)])
    fence = message.split("\n")[1]
    inside = message.removeprefix(f"file:\n{fence}\n").removesuffix(f"\n{fence}")
    assert inside in (text, text.removesuffix("\n"))
    assert not any(line.strip().startswith(fence) for line in inside.split("\n"))
