"""The chat in plain lines: scripts piped in, a person at a dumb terminal."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app import paths, tui
from app.history import History, MessageRecord
from app.load_choices import LoadChoice, remember
from engine.protocol import Message
from tests.checkpoints_for_tests import write_tiny_checkpoint
from tests.commands_for_tests import Command, Result, failed
from tests.functional.test_cli import spy_on_questions

REPOSITORY = Path(__file__).resolve().parents[2]
SHORT = ("--max-tokens", "3", "--seed", "1")


def kept() -> list[list[MessageRecord]]:
    """What was said in every chat, the last chat first."""
    history = History(paths.history_db())
    try:
        return [history.messages(chat.id) for chat in history.chats()]
    finally:
        history.close()


# --- a script -------------------------------------------------------------------------------------


def test_a_script_of_questions_is_one_chat_that_the_screen_shows(
    mc_chat: Command, tiny: Path
) -> None:
    script = 'Hello\n\n"""\nTwo\nlines\n"""\n'
    result = mc_chat("chat", "--plain", "tiny", *SHORT, stdin=script)
    assert result.code == 0
    ((first, answer, second, last),) = kept()
    assert (first.content, second.content) == ("Hello", "Two\nlines")
    assert [answer.state, last.state] == ["done", "done"]
    assert answer.made is not None
    assert (answer.made.model, answer.made.nominal_bits) == ("tiny", 2.0)
    assert result.out == f"{answer.content}\n\n{last.content}\n\n"
    assert "Loading tiny, 0 percent\n" in result.err
    assert "tiny is ready: 2.00 bits on cpu, a context of 128 tokens." in result.err
    assert "The reply is cut at the token limit.\n" in result.err
    assert "\x1b" not in result.out + result.err
    assert "\r" not in result.out + result.err
    again = mc_chat("chat", "--plain", *SHORT, stdin=script)  # the last used
    assert again.out == result.out
    assert len(kept()) == 2


def test_the_engine_is_asked_what_was_said(
    mc_chat: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spy_on_questions(monkeypatch)
    script = "One\n/pruning off\n/system Be kind.\nTwo\n/system none\n/new\n /three\n"
    words = ("--system", "Be brief.", "--stop", "END", "--top-k", "5")
    assert mc_chat("chat", "--plain", "tiny", *SHORT, *words, stdin=script).code == 0
    (_, first), (_, second) = kept()[1][:2], kept()[1][2:]
    assert asked[0].messages == (Message("system", "Be brief."), Message("user", "One"))
    assert (asked[0].pruning, asked[1].pruning) == ("odp", "off")
    assert asked[1].messages == (
        Message("system", "Be kind."),
        Message("user", "One"),
        Message("assistant", first.content),
        Message("user", "Two"),
    )
    assert asked[2].messages == (Message("system", "Be brief."), Message("user", "/three"))
    assert all((one.stop, one.sampling.top_k) == (("END",), 5) for one in asked)
    assert second.made is not None
    assert second.made.pruning == "off"


def test_commands_say_what_they_did_and_what_the_model_says_stays_apart(
    mc_chat: Command, tiny: Path, tmp_path: Path
) -> None:
    write_tiny_checkpoint(paths.models_dir() / "other")
    file = tmp_path / "chat.md"
    pruning = "/pruning\n/pruning 1.5\n"
    script = f"/help\n/stop\n{pruning}Hello\n/stats\n/export {file}\n/model\n/model other\nYou?\n"
    result = mc_chat("chat", "--plain", "tiny", *SHORT, stdin=script + "/quit\nNever\n")
    assert result.code == 0
    for said in (
        "/pruning odp|otp|off, or 0 to 2: skip experts",
        "No reply is being written.",
        "Now: ODP on.",
        "Now: ODP ×1.5.",
        "Last reply: 3 tokens, ",
        "percent of the expert slots skipped; context: ",
        "Memory: ",
        f"Wrote {file}.",
        "This is tiny; installed: other, tiny.",
        "other is ready: ",
    ):
        assert said in result.err
    ((_, first, _, second),) = kept()
    assert result.out == f"{first.content}\n\n{second.content}\n\n"
    assert second.made is not None
    assert second.made.model == "other"
    assert (second.made.pruning, second.made.pruning_strength) == ("odp", 1.5)
    assert "Hello" in file.read_text()


def test_drop_leaves_the_oldest_out_of_what_the_model_sees(
    mc_chat: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = "One\nTwo\nThree\n/drop\nFour\n/export\n"
    result = mc_chat("chat", "--plain", "tiny", *SHORT, stdin=script)
    assert result.code == 0, result.err
    assert "no longer sees your first message," in result.err
    (line,) = kept()
    left_out = [record.made.left_out for record in line if record.made]
    assert left_out == [0, 0, 0, 1]
    assert "Four" in (tmp_path / "One.md").read_text()
    failed(mc_chat("chat", "--plain", "tiny", *SHORT, stdin="/drop\n"), 2, "only the last message")


def test_a_script_ends_with_its_first_mistake(mc_chat: Command, tiny: Path) -> None:
    failed(mc_chat("chat", "--plain", "tiny", stdin="/fly\nHello\n"), 2, "no command /fly")
    long = "word " * 300
    failed(mc_chat("chat", "--plain", "tiny", stdin=f"{long}\nHello\n"), 1, "context holds 128")
    assert kept() == []


def test_what_a_model_says_cannot_steer_the_terminal(
    mc_chat: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "\x1b]8;;http://evil\x07a\x9b2J \u202eb\rc"
    monkeypatch.setattr("engine.stream.Detokenizer.push", lambda self, token: hostile)
    result = mc_chat("chat", "--plain", "tiny", "--max-tokens", "1", stdin="Hello\n")
    assert result.out.startswith("]8;;http://evila2J bc")


def test_words_are_printed_whole_and_scripts_without_spaces_too(
    mc_chat: Command,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pieces = iter(["one tw", "o th", "ree ", "\u5b57" * 20, "\u5b57" * 20, "end"])
    shown = []

    def push(self: object, token: int) -> str:
        shown.append(capsys.readouterr().out)
        return next(pieces)

    monkeypatch.setattr("engine.stream.Detokenizer.push", push)
    result = mc_chat("chat", "--plain", "tiny", "--max-tokens", "6", stdin="Hello\n")
    shown.append(result.out)
    assert shown == ["", "one ", "two ", "three ", "", "\u5b57" * 40, "end\n\n"]


def test_an_empty_reply_is_said(
    mc_chat: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.stream.Detokenizer.push", lambda self, token: "")
    result = mc_chat("chat", "--plain", "tiny", "--max-tokens", "1", stdin="Hello\n")
    assert "The model ended its reply without a word.\n" in result.err


def test_a_model_is_loaded_as_it_was_chosen_in_the_wizard_unless_told_otherwise(
    mc_chat: Command, tiny: Path
) -> None:
    remember(tiny, LoadChoice("cpu", 64))
    assert "context of 64" in mc_chat("chat", "--plain", "tiny").err
    assert "context of 32" in mc_chat("chat", "--plain", "tiny", "--context", "32").err


def test_without_plain_the_screen_opens_with_the_model(
    mc_chat: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str | None] = []
    monkeypatch.setattr(tui, "run", opened.append)
    failed(mc_chat("chat", "tiny"), 2, "needs a terminal")
    monkeypatch.setattr("app.opening.is_terminal", lambda: True)
    failed(mc_chat("chat", "tiny"), 2, "drawn on standard error, which leads elsewhere")
    monkeypatch.setattr("app.opening.is_drawn_here", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    failed(mc_chat("chat", "tiny"), 2, "use `mc-chat chat --plain`")
    monkeypatch.setenv("TERM", "xterm")
    failed(mc_chat("chat", "tiny", "--top-k", "5"), 2, "--top-k is for --plain")
    assert mc_chat("chat", "tiny").code == 0
    assert opened == ["tiny"]


# --- a person -------------------------------------------------------------------------------------

Type = Callable[..., Result]


@pytest.fixture
def typing(mc_chat: Command, monkeypatch: pytest.MonkeyPatch) -> Type:
    """Chat as a person who types these lines; None is Ctrl+C where a line is asked for."""
    monkeypatch.setattr("app.opening.is_terminal", lambda: True)
    monkeypatch.setattr("app.plain_input.PlainInput.wants_stop", lambda self: False)

    def chat(*lines: str | None, words: tuple[str, ...] = SHORT) -> Result:
        waiting = iter(lines)

        def answer(prompt: str) -> str:
            line = next(waiting, "EOF")
            if line is None:
                raise KeyboardInterrupt
            if line == "EOF":
                raise EOFError
            return line

        monkeypatch.setattr("builtins.input", answer)
        return mc_chat("chat", "--plain", "tiny", *words)

    return chat


def test_a_person_goes_on_with_the_last_chat(typing: Type, tiny: Path) -> None:
    first = typing("First", "/new", "Second")
    assert "Going on" not in first.err
    again = typing("Third", words=(*SHORT, "--system", "Be brief."))
    assert "Going on with 'Second', 2 messages; /new begins another chat.\n" in again.err
    assert [len(chat) for chat in kept()] == [4, 2]
    made = kept()[0][-1].made
    assert made is not None
    assert made.system == "Be brief."


def test_a_mistake_is_said_and_the_chat_goes_on(typing: Type, tiny: Path) -> None:
    result = typing(
        "/fly", "/pruning up", "/pruning otp", "/export x", "/model nothing", "word " * 300, "Hello"
    )
    assert result.code == 0
    for said in (
        "there is no command /fly; /help lists them",
        "pruning is on, off, odp, otp, or a strength from 0 to 2, not up.",
        "tiny has learned no OTP; `mc-chat prune tiny` does that.",
        "once something was said.",
        "'nothing'",
        "the context holds 128",
    ):
        assert said in result.err
    assert [record.state for record in kept()[0]] == ["done", "done"]


def test_ctrl_c_twice_where_a_line_is_asked_for_quits(typing: Type, tiny: Path) -> None:
    result = typing(None, "Hello", None, None, "Never")
    assert result.code == 130
    assert result.err.count("Ctrl+C again quits; /help lists the commands.\n") == 2
    assert result.err.endswith("\n\nmc-chat: interrupted\n")
    assert len(kept()[0]) == 2


@pytest.mark.parametrize(("presses", "code"), [(1, 0), (2, 130)])
def test_ctrl_c_in_a_reply_stops_it_and_keeps_it_and_twice_quits(
    typing: Type, tiny: Path, monkeypatch: pytest.MonkeyPatch, presses: int, code: int
) -> None:
    pushed = 0

    def push(self: object, token: int) -> str:
        nonlocal pushed
        pushed += 1
        if pushed == 2:
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
        return "word "

    monkeypatch.setattr("engine.stream.Detokenizer.push", push)
    result = typing("Hello", words=("--max-tokens", "9"))
    assert result.code == code
    assert ("Stopped. What was said is kept." in result.err) == (code == 0)
    ((_, reply),) = kept()
    assert reply.state == "stopped"
    assert reply.content.split() == ["word"] * (3 - presses)
    assert result.out == f"{reply.content}\n"


def test_ctrl_c_ends_a_script_and_keeps_what_was_said(
    mc_chat: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = iter(["one ", "two "])

    def push(self: object, token: int) -> str:
        if piece := next(pieces, ""):
            return piece
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.stream.Detokenizer.push", push)
    result = mc_chat("chat", "--plain", "tiny", stdin="Hello\nNever\n")
    assert (result.code, result.out) == (130, "one two \n")
    ((_, reply),) = kept()
    assert (reply.state, reply.content) == ("stopped", "one two ")


def test_a_dumb_terminal_sees_plain_lines_only(home: Path, tiny: Path) -> None:
    keyboard, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "chat", "--plain", "tiny", *SHORT],
        env={**os.environ, "TERM": "dumb", "PYTHONUNBUFFERED": "1"},
        cwd=REPOSITORY,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = ""

    def read_until(said: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while said not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([keyboard], [], [], 0.1)[0]:
                seen += os.read(keyboard, 4096).decode()

    try:
        read_until("You: ")
        os.write(keyboard, b"Hello\n")
        read_until("The reply is cut at the token limit.\r\nYou: ")
        os.write(keyboard, b"\x04")
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        os.close(keyboard)
    assert "\x1b" not in seen
    assert "\r" not in seen.replace("\r\n", "\n")
    ((_, reply),) = kept()
    assert reply.content.splitlines()[0] in seen
