"""Progress on a terminal and into a file."""

import io
import os
import shutil
from contextlib import suppress

import pytest

from app.progress_line import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((20, 24)))


@pytest.mark.usefixtures("narrow")
def test_a_terminal_sees_one_line_that_is_rewritten_and_taken_away() -> None:
    stream = Terminal()
    with ProgressLine(stream) as line:
        line.show("loading", "layer 1")
        line.show("loading", "layer 2 of very many")
    written = stream.getvalue().split("\r")
    assert written == ["", "loading  layer 1\x1b[K", "loading  layer 2 of\x1b[K", "\x1b[K"]
    assert max(len(part.removesuffix("\x1b[K")) for part in written) < 20


def test_a_file_gets_a_line_now_and_then_and_no_control_characters() -> None:
    stream = io.StringIO()
    now = 0.0
    with ProgressLine(stream, clock=lambda: now) as line:
        for second in range(25):
            now = float(second)
            line.show(f"layer {second // 10}\x1b[2J", f"expert {second}")
        line.keep("about 2 hours")
    assert stream.getvalue().splitlines() == [
        "layer 0[2J  expert 0",
        "layer 1[2J  expert 10",
        "layer 2[2J  expert 20",
        "about 2 hours",
    ]


def test_what_has_not_changed_is_not_said_again() -> None:
    stream = io.StringIO()
    now = 0.0
    with ProgressLine(stream, clock=lambda: now) as line:
        for second in range(0, 100, 20):
            now = float(second)
            line.show("waiting")
    assert stream.getvalue() == "waiting\n"


@pytest.mark.parametrize("how", ["plain", "dumb"])
def test_a_dumb_terminal_and_a_screen_reader_get_whole_lines(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb" if how == "dumb" else "xterm")
    stream = Terminal()
    with ProgressLine(stream, plain=how == "plain") as line:
        line.show("loading", "40 percent")
    assert stream.getvalue() == "loading  40 percent\n"


def test_a_kept_line_stays_above_the_one_that_is_rewritten() -> None:
    stream = Terminal()
    with ProgressLine(stream) as line:
        line.show("checking")
        line.keep("about 2 hours")
        line.show("layer 1")
    assert stream.getvalue().split("\r") == [
        "",
        "checking\x1b[K",
        "\x1b[Kabout 2 hours\n",
        "layer 1\x1b[K",
        "\x1b[K",
    ]


def test_the_line_is_taken_away_when_the_work_fails() -> None:
    stream = Terminal()
    with suppress(ZeroDivisionError), ProgressLine(stream) as line:
        line.show("dividing")
        raise ZeroDivisionError
    assert stream.getvalue().endswith("\r\x1b[K")


def test_without_progress_nothing_is_written() -> None:
    stream = Terminal()
    with ProgressLine(stream):
        pass
    assert stream.getvalue() == ""
