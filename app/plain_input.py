"""Messages typed or piped in, line by line: for the chat without a screen."""

import os
import select
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

_BLOCK = '"""'
_STOP = "/stop"


class PlainInput:
    """Reads messages. A line that ends with a backslash goes on in the next; what stands between
    two ``\"\"\"`` is one message, line breaks included.

    ``ask`` shows its argument and returns a line that a person typed, as `input` does; None: lines
    are read from ``stream`` and nothing is shown.
    """

    def __init__(self, stream: TextIO, ask: Callable[[str], str] | None = None) -> None:
        self._stream = stream
        self._ask = ask
        self._typed: deque[str] = deque()

    @property
    def is_interactive(self) -> bool:
        """Whether a person answers."""
        return self._ask is not None

    def read(self) -> str | None:
        """The next message, None at the end. Raises KeyboardInterrupt."""
        line = self._line("You: ")
        if line is None:
            return None
        start = line.lstrip()
        if start.startswith(_BLOCK):
            return self._block(start.removeprefix(_BLOCK))
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            more = self._line("... ")
            if more is None:
                break
            lines.append(more)
        return "\n".join(lines)

    def wants_stop(self) -> bool:
        """Whether ``/stop`` was typed while the model talks; other lines wait for `read`."""
        if self._ask is None:
            return False
        while select.select([self._stream], [], [], 0)[0]:
            # One line: a terminal hands over no more. What Python reads ahead, `input` never sees.
            line = os.read(self._stream.fileno(), 2**16).decode(errors="replace")
            if not line:
                return False
            if line.strip() == _STOP:
                return True
            self._typed.append(line.rstrip("\n"))
        return False

    def _block(self, first: str) -> str:
        lines = [first]
        while not lines[-1].rstrip().endswith(_BLOCK):
            more = self._line("... ")
            if more is None:
                return "\n".join(lines).strip("\n")
            lines.append(more)
        lines[-1] = lines[-1].rstrip().removesuffix(_BLOCK)
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str | None:
        if self._typed:
            return self._typed.popleft()
        if self._ask is not None:
            try:
                return self._ask(prompt)
            except EOFError:
                return None
        line = self._stream.readline()
        return line.rstrip("\r\n") if line else None


def remember(messages: list[str]) -> None:
    """Make earlier messages reachable with the arrow keys, where the system can do that."""
    with suppress(ImportError):
        import readline

        for message in messages:
            readline.add_history(message)
