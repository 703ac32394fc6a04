"""What Tab makes of a file's name that is being written after an @, and of a command's."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import get_args

from app import models
from app.command_table import begun
from app.setting_words import THEMES
from engine.protocol import PruningMode

_BEGUN = re.compile(r'(?<!\S)@(?:"([^"\n]*)|([^\s"]*))$')
_MOST_LOOKED_AT = 10_000
"""Entries of a folder: Tab is to answer at once."""
_ARGUMENTS: dict[str, Callable[[], Sequence[str]]] = {
    "model": lambda: [model.name for model in models.installed()],
    "theme": lambda: THEMES,
    "pruning": lambda: ("on", *get_args(PruningMode)),
}
"""What may stand behind a command's name."""


@dataclass(frozen=True)
class Completion:
    """``typed`` stands before the cursor and becomes ``text``; ``names`` are what it may be, one
    where it is settled, none where nothing begins like this."""

    typed: str
    text: str
    names: tuple[str, ...]


def complete(before: str) -> Completion | None:
    """Complete the name at the end of ``before``, what stands left of the cursor in its line; None
    where no @ begins one. Hidden files are meant only by a name that begins with a dot."""
    begun = _BEGUN.search(before)
    if begun is None:
        return None
    typed = begun[0]
    quoted, written = begun[1] is not None, begun[1] or begun[2] or ""
    folder, slash, stem = written.rpartition("/")
    names = _names(folder + slash, stem)
    if not names:
        return Completion(typed, typed, ())
    whole = folder + slash + os.path.commonprefix(names)  # noqa: RUF071 - letters, not folders
    text = f'@"{whole}' if quoted or " " in whole else f"@{whole}"
    if len(names) == 1 and not whole.endswith("/"):
        text += '" ' if text.startswith('@"') else " "
    return Completion(typed, text, names)


def complete_command(line: str) -> Completion | None:
    """Complete the command that ``line``, all of a message, begins; None where it begins none."""
    commands = begun(line)
    if not commands or " " in line:
        return None
    names = tuple(f"/{each.name}" for each in commands)
    text = os.path.commonprefix(names)  # noqa: RUF071 - letters, not folders
    goes_on = len(commands) == 1 and commands[0].with_argument
    return Completion(line, f"{text} " if goes_on else text, names)


def complete_argument(line: str) -> Completion | None:
    """Complete what stands behind a command's name; None where nothing is known of that."""
    command, space, typed = line.partition(" ")
    known = _ARGUMENTS.get(command.removeprefix("/").lower())
    if not space or known is None or not begun(line):
        return None
    names = tuple(name for name in known() if name.startswith(typed))
    text = os.path.commonprefix(names) if names else typed  # noqa: RUF071 - letters, not folders
    return Completion(typed, text, names)


def _names(folder: str, stem: str) -> tuple[str, ...]:
    """What begins with ``stem`` there; folders end in a stroke."""
    try:
        with os.scandir(Path(folder or ".").expanduser()) as entries:
            found = [
                f"{entry.name}/" if entry.is_dir() else entry.name
                for entry in islice(entries, _MOST_LOOKED_AT)
                if entry.name.startswith(stem) and (stem or not entry.name.startswith("."))
            ]
    except (OSError, ValueError, RuntimeError):  # also a name that is none, or of no user
        return ()
    return tuple(sorted(name for name in found if name.isprintable() and '"' not in name))
