"""The screen's end of a compression: a process of `compress.job` and what it tells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app import paths
from app.line_process import Exit, LineProcess, module_command
from compress import progress
from engine.errors import ProtocolError

JOB_COMMAND: Sequence[str] = module_command("compress.job")
LOG_NAME = "compress.log"


@dataclass(frozen=True)
class Job:
    """What to compress: the folder of the original, the mean bits of its experts, and where to."""

    source: Path
    bits: float
    folder: Path

    def arguments(self, restart: bool = False) -> list[str]:
        """The words of the command line of `compress.job`; ``restart`` discards what is there."""
        words = [str(self.source), "--bits", f"{self.bits:g}", "--out", str(self.folder)]
        return [*words, "--restart"] if restart else words


class CompressClient:
    """Runs one job. ``listener`` hears its events; the last is Done or JobFailed, always."""

    def __init__(
        self,
        listener: Callable[[progress.JobEvent], None],
        job: Job,
        command: Sequence[str] = JOB_COMMAND,
        restart: bool = False,
    ) -> None:
        self._listener = listener
        self._ended = False
        self._process = LineProcess(
            [*command, *job.arguments(restart)],
            paths.log_dir() / LOG_NAME,
            self._hear_line,
            self._hear_exit,
        )

    async def start(self) -> None:
        """Start the job. A failure to start is told as JobFailed."""
        try:
            await self._process.start()
        except OSError as error:
            self._tell(progress.JobFailed("WorkerError", f"it could not be started: {error}"))

    def cancel(self) -> None:
        """Ask the job to stop at the next whole step; it ends with JobFailed("Interrupted")."""
        self._process.terminate()

    async def stop(self) -> None:
        """End the job's process, whatever it is doing."""
        self._process.terminate()
        await self._process.stop()

    def _hear_line(self, line: str) -> None:
        try:
            event = progress.decode(line)
        except ProtocolError as error:
            self._process.note(str(error))
            return
        self._tell(event)

    def _hear_exit(self, ended: Exit) -> None:
        if not self._ended:
            reason = f"the compression stopped unexpectedly: {ended.reason}"
            self._tell(progress.JobFailed("WorkerError", reason))

    def _tell(self, event: progress.JobEvent) -> None:
        self._ended = not isinstance(event, progress.Progress)
        self._listener(event)
