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


def test_a_file_gets_a_line_for_each_step_and_no_control_characters() -> None:
    stream = io.StringIO()
    with ProgressLine(stream) as line:
        for layer in (1, 2):
            for expert in range(3):
                line.show(f"layer {layer}\x1b[2J", f"expert {expert}")
    assert stream.getvalue() == "layer 1[2J  expert 0\nlayer 2[2J  expert 0\n"


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
