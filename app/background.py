"""Tells when a job that nobody looks at has ended, wherever it was started."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from app import jobs, models
from app.jobs import JobWatch, RunningJob, RunningTransfer
from compress.progress import Done, JobFailed


@dataclass(frozen=True)
class Ended:
    """One job, and how it ended, in words."""

    name: str
    words: str
    failed: bool = False


class Background:
    """Remembers which jobs run."""

    def __init__(self) -> None:
        self._running: dict[Path, RunningJob | RunningTransfer] = {}
        self._watched: set[Path] = set()

    def look(self, watched: Collection[Path]) -> list[Ended]:
        """The jobs that have ended since the last look, but for those that were stopped, and those
        at the places ``watched``, now or at the last look: their screen has told it."""
        now = {job.place: job for job in jobs.all_running()}
        gone = [job for place, job in self._running.items() if place not in now]
        told = self._watched.union(watched)
        self._running, self._watched = now, set(watched)
        found = (_ended(job) for job in gone if job.place not in told)
        return [ended for ended in found if ended]


def _ended(job: RunningJob | RunningTransfer) -> Ended | None:
    """None for one that was stopped."""
    folder = job.out if isinstance(job, RunningJob) else job.folder
    name = models.display_name(folder)
    match JobWatch(job.place).poll()[-1:]:
        case [Done(_, url)]:
            return Ended(name, f"It is at {url}." if url else "It is ready.")
        case [JobFailed(kind, message)] if kind != "Interrupted":
            return Ended(name, message, failed=True)
    return None
