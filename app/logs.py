"""Log files that do not grow without end: beside each at most two older ones, of 1 MB each."""

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

LOG_BYTES = 2**20
"""A log that has more when it is opened becomes an older one."""
OLDER = 2


def open_log(path: Path) -> BinaryIO:
    """Open a log to append to. Raises OSError.

    Another process that has it open goes on writing to what is then an older one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_BYTES:
        for number in range(OLDER, 0, -1):
            with suppress(FileNotFoundError):  # there are fewer, or another process was faster
                os.replace(_older(path, number - 1), _older(path, number))
    return path.open("ab")


def _older(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path
