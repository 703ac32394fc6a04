"""Messages from lines, typed or piped in."""

import io
import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.plain_input import PlainInput


def messages(text: str) -> list[str]:
    lines = PlainInput(io.StringIO(text))
    return list(iter(lines.read, None))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("one\ntwo\n", ["one", "two"]),
        ("last line without end", ["last line without end"]),
        ("windows\r\nlines\r\n", ["windows", "lines"]),
        ("one \\\ntwo\\\nthree\nfour\n", ["one \ntwo\nthree", "four"]),
        ("goes on\\\n", ["goes on"]),
        ('"""\none\n\ntwo\n"""\nthree\n', ["one\n\ntwo", "three"]),
        ('"""one\ntwo"""\n', ["one\ntwo"]),
        ('"""one"""\n', ["one"]),
        ('"""\none \\\n', ["one \\"]),
        ('say """ aloud\n', ['say """ aloud']),
        ("\n/help\n", ["", "/help"]),
    ],
)
def test_messages(text: str, expected: list[str]) -> None:
    assert messages(text) == expected


@given(st.lists(st.text(st.sampled_from('ab "\\/')), min_size=1, max_size=4))
def test_any_lines_without_the_marks_are_messages(lines: list[str]) -> None:
    plain = [line.replace("\\", "/").replace('"', "'") for line in lines]
    assert messages("".join(f"{line}\n" for line in plain)) == plain


def answers(*given: str) -> tuple[Callable[[str], str], list[str]]:
    waiting, asked = iter(given), []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    return ask, asked


def test_a_person_is_asked_and_sees_where_a_message_goes_on() -> None:
    ask, asked = answers("one\\", "two", '"""', "three", '"""')
    lines = PlainInput(io.StringIO(), ask)
    assert lines.is_interactive
    assert [lines.read(), lines.read(), lines.read()] == ["one\ntwo", "three", None]
    assert asked == ["You: ", "... ", "You: ", "... ", "... ", "You: "]


@pytest.fixture
def terminal() -> Iterator[tuple[int, io.TextIOWrapper]]:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "r") as stream:
        yield ours, stream
    os.close(ours)


def test_stop_is_heard_while_the_model_talks_and_other_lines_wait(
    terminal: tuple[int, io.TextIOWrapper],
) -> None:
    keyboard, stream = terminal
    ask, _ = answers("later")
    lines = PlainInput(stream, ask)
    assert not lines.wants_stop()
    os.write(keyboard, b"next question\n /stop \nand another\n")
    assert lines.wants_stop()
    assert not lines.wants_stop()
    assert [lines.read(), lines.read(), lines.read()] == ["next question", "and another", "later"]


def test_a_script_is_never_looked_at_before_its_time() -> None:
    lines = PlainInput(io.StringIO("/stop\n"))
    assert not lines.wants_stop()
    assert lines.read() == "/stop"
