"""The `mc-chat` command: its words, its exit codes, and what every failure looks like.

Results go to standard output, all else to standard error. A failure is one line, `mc-chat: what
happened; what to do`. Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted. Nothing heavy is
imported before a command needs it.
"""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

if os.name == "nt":  # files are locked, and jobs started and stopped, as POSIX has it
    sys.exit("mc-chat: it runs on Linux and macOS; on Windows install it inside WSL")

from app import about, opening, paths
from app.commands import (
    chat,
    chats,
    completion,
    compress,
    doctor,
    export,
    hub,
    measure,
    models,
    plan,
    prune,
    run,
    settings,
    watch,
)
from app.logs import open_log
from app.render import safe_text
from engine.errors import Interrupted, McChatError, UsageError

_GROUPS = (
    *(
        run,
        chat,
        chats,
        plan,
        compress,
        prune,
        watch,
        hub,
        models,
        export,
        measure,
        settings,
        doctor,
    ),
    completion,
)
_LOG_NAME = "mc-chat.log"


class _Parser(argparse.ArgumentParser):
    """argparse with this program's way to say that something is wrong."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


class _Version(argparse.Action):
    """Looks the version up only when asked: that takes longer than all the rest."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: Any) -> None:
        print(f"mc-chat {about.version()}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    root = _Parser(
        prog="mc-chat",
        description="Chat with a compressed Mixtral, offline. Without a command: the screen.",
    )
    root.add_argument("--version", action=_Version, nargs=0, help="print the version")
    root.set_defaults(run=_open_screen)
    commands = root.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    for group in _GROUPS:
        group.add(commands)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter shows a "?"
    try:
        options = parser().parse_args(arguments)
        options.run(options)
        sys.stdout.flush()
    except McChatError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted")
        return Interrupted.exit_code
    except BrokenPipeError:
        # The reader has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        _complain(_unexpected(error))
        return 1
    return 0


def _open_screen(options: argparse.Namespace) -> None:
    opening.open_screen()


def _complain(message: str) -> None:
    line = " ".join(safe_text(message).split())
    print(f"mc-chat: {line}", file=sys.stderr)


def _unexpected(error: Exception) -> str:
    """One line for the user; the traceback goes to the log."""
    what = f"unexpected {type(error).__name__}: {error}"
    path = paths.log_dir() / _LOG_NAME
    told = f"{datetime.now(UTC).isoformat()} {_without_texts(sys.argv)}\n{traceback.format_exc()}\n"
    try:
        with open_log(path) as log:
            log.write(told.encode(errors="backslashreplace"))
    except OSError as problem:
        return f"{what} (and no log could be written: {problem})"
    return f"{what}; the details are in {path}"


def _without_texts(words: Sequence[str]) -> str:
    """The command and its options, for the log: what a person wrote is private."""
    options = [word.partition("=")[0] for word in words[2:] if word.startswith("-")]
    return " ".join(["mc-chat", *words[1:2], *options])


if __name__ == "__main__":
    sys.exit(main())
