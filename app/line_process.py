"""A child process that speaks one JSON object a line over pipes: the engine's.

Started with asyncio's own functions, because multiprocessing's spawn fails inside a running
Textual app. What the child writes to standard error goes to a log file; its last line is kept,
since that is usually the reason when it dies.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from app.child import Exit, child_environment
from app.logs import open_log

LINE_LIMIT = 64 * 2**20
"""Bytes of the longest line; a whole chat is one line."""
POLITE_SECONDS = 2.0
"""How long a child may take to end by itself, and then after a terminate, before it is killed."""


class LineProcess:
    """One run of a child. The callbacks are called on the event loop.

    ``on_line`` hears each line of standard output; ``on_exit`` hears once that the child ended by
    itself, after its last line; it hears nothing after `stop`.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_file: Path,
        on_line: Callable[[str], None],
        on_exit: Callable[[Exit], None],
    ) -> None:
        self._command = command
        self._log_file = log_file
        self._on_line = on_line
        self._on_exit = on_exit
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._last_line = ""
        self._stopping = False

    @property
    def running(self) -> bool:
        """Whether the child has been started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the child. Raises OSError when it or its log cannot be opened."""
        with ExitStack() as on_failure:
            log = on_failure.enter_context(open_log(self._log_file))
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=LINE_LIMIT,
                env=child_environment(),
                # Linux shares cores among sessions: within ours, it would slow the screen down.
                start_new_session=True,
            )
            on_failure.pop_all()
        self._watcher = asyncio.create_task(self._watch(self._process, log))

    def write(self, line: str) -> None:
        """Send a line; without effect once the child has gone, which `on_exit` tells."""
        if self._process and self._process.stdin and not self._process.stdin.is_closing():
            self._process.stdin.write(line.encode() + b"\n")

    def note(self, text: str) -> None:
        """Write a line of our own to the child's log."""
        with open_log(self._log_file) as log:
            log.write(text.encode() + b"\n")

    def terminate(self) -> None:
        """Ask the child to end; what it still says is heard."""
        if self._process and self.running:
            with suppress(ProcessLookupError):
                self._process.terminate()

    async def stop(self) -> None:
        """End the child: by closing its input, then by terminate, then by kill. No zombie stays."""
        self._stopping = True
        if self._process is None or self._watcher is None:
            return
        if self._process.stdin:
            self._process.stdin.close()
        for last_resort in (self._process.terminate, self._process.kill, None):
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._watcher), POLITE_SECONDS)
                return
            if last_resort:
                with suppress(ProcessLookupError):
                    last_resort()

    async def _watch(self, process: asyncio.subprocess.Process, log: BinaryIO) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        readers = [
            asyncio.create_task(self._read_output(process.stdout)),
            asyncio.create_task(self._read_errors(process.stderr, log)),
        ]
        code = await process.wait()
        # A grandchild may hold the pipes open: what it says later is nobody's answer.
        _, late = await asyncio.wait(readers, timeout=POLITE_SECONDS)
        for reader in late:
            reader.cancel()
        if not self._stopping:
            self._on_exit(Exit(code, self._last_line))

    async def _read_output(self, stream: asyncio.StreamReader) -> None:
        try:
            while line := await stream.readline():
                self._on_line(line.decode(errors="replace").rstrip("\n"))
        except ValueError:  # asyncio's word for a line beyond the limit; what follows is no use
            self._last_line = f"it wrote a line of more than {LINE_LIMIT} bytes"
            self.terminate()

    async def _read_errors(self, stream: asyncio.StreamReader, log: BinaryIO) -> None:
        with log:
            while line := await stream.readline():
                log.write(line)
                log.flush()
                self._last_line = line.decode(errors="replace").strip() or self._last_line
