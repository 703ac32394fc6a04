"""A job on a plain terminal: its progress, and what Ctrl+C does to a compression."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app import jobs
from app.jobs import Job, JobWatch
from app.progress_line import ProgressLine
from app.transfer_words import transfer_words
from app.units import clock
from compress.progress import Done, JobFailed, Progress, Transfer
from engine import errors
from engine.errors import Interrupted, McChatError, WorkerError

POLL_SECONDS = 0.1


def compress_here(job: Job, line: ProgressLine, restart: bool = False) -> Path:
    """Start a job and follow it to its end; returns the folder of the result.

    Ctrl+C and SIGTERM stop the job, and raise Interrupted when it has stopped. When the terminal
    goes, the job stays. Raises what the job failed with, a McChatError.
    """
    watch = JobWatch(job.folder)
    try:
        with _terminate_is_interrupt():
            watch = JobWatch(job.folder, jobs.start(job, jobs.JOB_COMMAND, restart))
            return follow(watch, line)
    except KeyboardInterrupt:
        if not watch.is_alive:
            raise Interrupted("interrupted; run the same command again to go on") from None
        watch.stop()
        line.keep("stopping at the next whole step")
    try:
        return follow(watch, line)
    except KeyboardInterrupt:
        raise Interrupted(
            f"it stops in the background; `mc-chat watch {job.folder}` shows when it has"
        ) from None


def follow(watch: JobWatch, line: ProgressLine) -> Path:
    """Show what a job tells until it ends; returns the folder of the result.

    Raises what the job failed with, a McChatError.
    """
    kept = ""
    while True:
        for event in watch.poll():
            match event:
                case Progress(stage="check", message=message):
                    # Few, and worth reading after they have passed: the projection is among them.
                    if message != kept:
                        line.keep(message)
                    kept = message
                case Progress():
                    line.show(*_step(event))
                case Transfer():
                    line.show(transfer_words(event))
                case Done(folder):
                    return Path(folder)
                case JobFailed():
                    raise _failure(event)
        time.sleep(POLL_SECONDS)


def _step(progress: Progress) -> tuple[str, str]:
    step = f"layer {progress.layer + 1} of {progress.layers}, {progress.stage}"
    eta = "" if progress.eta_seconds is None else f", {clock(progress.eta_seconds)} left"
    return step, f"{progress.fraction:.0%}{eta}: {progress.message}"


def _failure(failed: JobFailed) -> McChatError:
    """The exception that ended the job, as far as this program knows its kind."""
    kind = getattr(errors, failed.kind, WorkerError)
    known = isinstance(kind, type) and issubclass(kind, McChatError)
    return kind(failed.message) if known else WorkerError(failed.message)


@contextmanager
def _terminate_is_interrupt() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt: who ends the command means the job."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
