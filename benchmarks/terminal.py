"""A program in a pseudo-terminal: what it draws, and when."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence

MC_CHAT = (sys.executable, "-m", "app.cli")
TIMEOUT_SECONDS = 120.0


class Terminal:
    """One run of a program; its output is read as bytes, terminal controls and all."""

    def __init__(self, pid: int, file: int) -> None:
        self.pid = pid
        self._file = file
        self.seen = b""
        """What was drawn since `forget`."""

    def press(self, text: str) -> None:
        """Type, at once."""
        os.write(self._file, text.encode())

    def forget(self) -> None:
        """Begin to look anew."""
        self.seen = b""

    def read(self, seconds: float) -> bool:
        """Read what is drawn at once, or within so many seconds; whether there was anything."""
        if not select.select([self._file], [], [], max(0.0, seconds))[0]:
            return False
        self.seen += os.read(self._file, 65536)
        return True

    def rest(self, seconds: float) -> None:
        """Read for so long."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            self.read(left)

    def wait_for(self, text: str, seconds: float = TIMEOUT_SECONDS) -> None:
        """Read until a text has been drawn since `forget`. Raises TimeoutError."""
        end = time.perf_counter() + seconds
        while text.encode() not in self.seen:
            if time.perf_counter() > end:
                raise TimeoutError(f"{text!r} was not drawn within {seconds:.0f} s")
            self.read(end - time.perf_counter())


@contextlib.contextmanager
def terminal(
    command: Sequence[str], environment: Mapping[str, str], columns: int = 120, lines: int = 36
) -> Iterator[Terminal]:
    """Run a program in a terminal of its own; at the end it is killed."""
    pid, file = pty.fork()
    if pid == 0:
        os.environ.update(environment, TERM="xterm-256color")
        os.execv(command[0], list(command))
    fcntl.ioctl(file, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    try:
        yield Terminal(pid, file)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(file)
