"""The screen's end of the engine: its process, requests to it, events from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app import paths
from app.child import Exit, module_command
from app.line_process import LineProcess
from engine import protocol
from engine.errors import ProtocolError

WORKER_COMMAND: Sequence[str] = module_command("engine.worker")
LOG_NAME = "engine.log"


@dataclass(frozen=True)
class WorkerDied:
    """The engine's process ended though nobody asked it to."""

    exit_code: int
    last_line: str
    reason: str


WorkerEvent = protocol.Event | WorkerDied
Listener = Callable[[WorkerEvent], None]


class EngineClient:
    """Starts the engine's process, and starts it again after it died.

    ``listener`` hears every event on the event loop, a `WorkerDied` too.
    """

    def __init__(self, listener: Listener, command: Sequence[str] = WORKER_COMMAND) -> None:
        self._listener = listener
        self._command = command
        self._process: LineProcess | None = None
        self._waiting: list[protocol.Request] = []
        self._last_load: protocol.Load | None = None
        self._sleeps = False

    @property
    def running(self) -> bool:
        """Whether the process is up."""
        return self._process is not None and self._process.running

    async def start(self) -> None:
        """Start the process and send what waited for it. A failure is told as WorkerDied."""
        process = LineProcess(
            self._command, paths.log_dir() / LOG_NAME, self._hear_line, self._hear_exit
        )
        try:
            await process.start()
        except OSError as error:
            self._waiting.clear()
            self._listener(WorkerDied(127, str(error), f"it could not be started: {error}"))
            return
        self._process = process
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            self.send(request)

    def send(self, request: protocol.Request) -> None:
        """Send a request; before the first start it waits.

        To a process that has died it is lost: WorkerDied tells, or has told. What is asked of a
        model that was put to sleep loads it first.
        """
        if isinstance(request, protocol.Load):
            self._last_load, self._sleeps = request, False
        elif self._sleeps and isinstance(request, protocol.Generate) and self._last_load:
            self.send(self._last_load)
        if self._process is None:
            self._waiting.append(request)
        else:
            self._process.write(protocol.encode(request))

    def sleep(self) -> None:
        """Give the model's memory back until something is asked of it."""
        self._sleeps = True
        self.send(protocol.Unload())

    async def restart(self) -> None:
        """End the process if it still runs, and start a new one."""
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        """End the process and wait until it is gone."""
        if self._process is not None:
            await self._process.stop()

    def _hear_line(self, line: str) -> None:
        try:
            event = protocol.decode_event(line)
        except ProtocolError as error:
            # A library that prints does not end the chat; the log tells.
            if self._process:
                self._process.note(str(error))
            return
        self._listener(event)

    def _hear_exit(self, ended: Exit) -> None:
        self._listener(WorkerDied(ended.code, ended.last_line, ended.reason))
