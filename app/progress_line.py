"""Progress on standard error: a line that is rewritten on a terminal, else now and then one."""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from app.render import safe_text

PLAIN_SECONDS = 10.0
"""Where lines are not rewritten: the least time between two."""

_START_OF_LINE = "\r"
_CLEAR_TO_END = "\x1b[K"


class ProgressLine:
    """Shows where a long command is; as a context manager it clears its line at the end."""

    def __init__(
        self,
        stream: TextIO | None = None,
        plain: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``stream`` None: standard error; ``plain``: whole lines on a terminal, too."""
        self._stream = sys.stderr if stream is None else stream
        dumb = plain or os.environ.get("TERM") == "dumb"
        self._rewrites = self._stream.isatty() and not dumb
        self._clock = clock
        self._due = -math.inf
        self._last = ""

    def show(self, step: str, detail: str = "") -> None:
        """Be at ``step``; ``detail`` changes often."""
        line = safe_text(f"{step}  {detail}" if detail else step)
        if self._rewrites:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"{_START_OF_LINE}{line[:width]}{_CLEAR_TO_END}")
        elif line != self._last and self._clock() >= self._due:
            self._write(f"{line}\n")
            self._due = self._clock() + PLAIN_SECONDS
        else:
            return
        self._last = line

    def keep(self, text: str) -> None:
        """Write a line that stays."""
        self.clear()
        self._write(f"{safe_text(text)}\n")

    def clear(self) -> None:
        """Take the rewritten line away."""
        if self._rewrites and self._last:
            self._write(f"{_START_OF_LINE}{_CLEAR_TO_END}")
        self._last = ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.clear()
