"""The screen's end of a job: it starts one or joins it, and hears what it tells."""

import asyncio
from collections.abc import Callable, Sequence

from app import jobs
from app.jobs import AnyJob, JobWatch
from compress.progress import Done, JobEvent, JobFailed
from engine.errors import McChatError

POLL_SECONDS = 0.1


class JobClient:
    """Follows one job. ``listener`` hears its events; the last is Done or JobFailed, always."""

    def __init__(
        self,
        listener: Callable[[JobEvent], None],
        job: AnyJob,
        command: Sequence[str],
    ) -> None:
        self._listener = listener
        self._job = job
        self._command = command
        self._watch = JobWatch(job.place)
        self._task: asyncio.Task[None] | None = None

    def start(self, restart: bool = False) -> None:
        """Start the job, or join the one that works on this output.

        ``restart`` discards what is there. A failure to start is told as JobFailed.
        """
        self.leave()
        process = None
        try:
            if restart or jobs.running(self._job.place) is None:
                process = jobs.start(self._job, self._command, restart)
        except McChatError as error:
            self._listener(JobFailed(type(error).__name__, str(error)))
            return
        self._watch = JobWatch(self._job.place, process)
        self._task = asyncio.create_task(self._follow())

    def cancel(self) -> None:
        """Ask the job to stop at the next whole step; it ends with JobFailed("Interrupted")."""
        self._watch.stop()

    def leave(self) -> None:
        """Hear no more; the job goes on."""
        if self._task is not None:
            self._task.cancel()

    async def _follow(self) -> None:
        while True:
            for event in self._watch.poll():
                self._listener(event)
                if isinstance(event, Done | JobFailed):
                    return
            await asyncio.sleep(POLL_SECONDS)
