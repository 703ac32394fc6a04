"""Progress on standard error: one line that is rewritten on a terminal, else a line a step."""

import shutil
import sys
from types import TracebackType
from typing import TextIO

from app.render import safe_text

_START_OF_LINE = "\r"
_CLEAR_TO_END = "\x1b[K"


class ProgressLine:
    """Shows where a long command is; as a context manager it clears its line at the end."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """``stream`` None: standard error."""
        self._stream = sys.stderr if stream is None else stream
        self._rewrites = self._stream.isatty()
        self._last = ""

    def show(self, step: str, detail: str = "") -> None:
        """Be at ``step``. ``detail`` changes often; a file gets only the first of each step."""
        line = safe_text(f"{step}  {detail}" if detail else step)
        if self._rewrites:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"{_START_OF_LINE}{line[:width]}{_CLEAR_TO_END}")
        elif step != self._last:
            self._write(f"{line}\n")
        self._last = step

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
