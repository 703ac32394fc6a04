"""Compressions, pulls and publishings as processes of their own: start one, find those that run,
follow what they tell.

A job belongs to no terminal: it leads a session of its own, and tells its steps to a file under
`paths.jobs_dir`, one file for each output folder, where anybody may read them, later too. That file
is locked from before the job's process exists until it is gone, however it ends. So a free lock
means that nobody works, and two runs on one output refuse each other. What a job has told goes with
its model, or when it is old.
Free of torch and of the screen.
"""

import fcntl
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from app import paths
from app.child import Exit, child_environment, module_command
from compress.locking import take
from compress.progress import (
    Done,
    JobEvent,
    JobFailed,
    Started,
    TransferKind,
    TransferStarted,
    decode,
)
from engine.errors import ProtocolError, UsageError, WorkerError

JOB_COMMAND: Sequence[str] = module_command("compress.job")
TRANSFER_COMMAND: Sequence[str] = module_command("compress.hub.job")

KEPT_DAYS = 30
"""How long it can be learned how a job ended."""

_LOCK_ATTEMPTS = 20
_LOCK_PAUSE_SECONDS = 0.02


class AnyJob(Protocol):
    """Work for a process of its own, known by its place: one job at a time has it."""

    @property
    def place(self) -> Path:
        """A path that names it, whether or not there is such a file."""
        ...

    def arguments(self, restart: bool = False) -> list[str]:
        """The words of its command line; ``restart`` discards what is there."""
        ...


@dataclass(frozen=True)
class Job:
    """What to compress, and where to: ``source`` is the folder of the original or a repository of
    the hub, ``bits`` the mean of its experts; ``options`` are further words of `compress.job`."""

    source: Path | str
    bits: float
    folder: Path
    device: str = "auto"
    options: tuple[str, ...] = ()

    @property
    def place(self) -> Path:
        """The output."""
        return self.folder

    def arguments(self, restart: bool = False) -> list[str]:
        """The words of the command line of `compress.job`; ``restart`` discards what is there."""
        words = [str(self.source), "--bits", f"{self.bits:g}", "--out", str(self.folder)]
        words += ["--device", self.device, *self.options]
        return [*words, "--restart"] if restart else words


@dataclass(frozen=True)
class TransferJob:
    """A build to pull into ``folder``, or the model there to publish, ``private`` or for all to
    see. ``revision`` empty: the newest commit."""

    what: TransferKind
    repository: str
    folder: Path
    revision: str = ""
    private: bool = False

    @property
    def place(self) -> Path:
        """A pull has that of a compression with this output: they refuse each other."""
        return self.folder if self.what == "pull" else publishing_place(self.folder)

    def arguments(self, restart: bool = False) -> list[str]:
        """The words of the command line of `compress.hub.job`; both go on by themselves."""
        if self.what == "publish":
            words = ["publish", str(self.folder), self.repository]
            return [*words, "--private"] if self.private else words
        words = ["pull", self.repository, "--out", str(self.folder)]
        return [*words, "--revision", self.revision] if self.revision else words


def publishing_place(model: Path) -> Path:
    """What the publishing of a model is known by."""
    return model.with_name(f"{model.name}.publish")


@dataclass(frozen=True)
class RunningJob:
    """A compression that somebody has started; ``source`` as it was given."""

    out: Path
    pid: int
    source: str
    bits: float

    @property
    def place(self) -> Path:
        """See `Job.place`."""
        return self.out

    @property
    def words(self) -> str:
        """What it does, and where it can be seen."""
        watch = f"`mc-chat watch {self.out}` shows it, `mc-chat watch --stop {self.out}` stops it"
        return f"process {self.pid} is compressing into {self.out} already: {watch}"


@dataclass(frozen=True)
class RunningTransfer:
    """A pull or a publishing that somebody has started."""

    what: TransferKind
    repository: str
    folder: Path
    pid: int

    @property
    def job(self) -> TransferJob:
        """What is running: enough to join it."""
        return TransferJob(self.what, self.repository, self.folder)

    @property
    def place(self) -> Path:
        """See `TransferJob.place`."""
        return self.job.place

    @property
    def words(self) -> str:
        """What it does."""
        doing = f"downloading {self.repository} to" if self.what == "pull" else "publishing"
        return f"process {self.pid} is {doing} {self.folder} already: wait for it, or stop it"


def start(
    job: AnyJob, command: Sequence[str] = JOB_COMMAND, restart: bool = False
) -> "subprocess.Popen[bytes]":
    """Start a job that outlives this process.

    Raises UsageError when one works on the same place, WorkerError when it cannot be started.
    """
    try:
        paths.jobs_dir().mkdir(parents=True, exist_ok=True)
        _remove_old()
        told = _locked(_events_file(job.place), "ab")
        if told is None:
            raise UsageError(_occupied(job.place))
        # The child inherits the open file, and with it the lock.
        with told, log_file(job.place).open("wb") as log:
            told.truncate(0)
            return subprocess.Popen(
                [*command, *job.arguments(restart)],
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=log,
                start_new_session=True,
                env=child_environment(),
            )
    except OSError as error:
        raise WorkerError(f"the job could not be started: {error}") from None


def running(place: Path) -> RunningJob | RunningTransfer | None:
    """The job that is known by this place, if one runs."""
    return _running(_events_file(place))


def running_jobs() -> list[RunningJob]:
    """Every compression that runs, by the name of its output."""
    found = [job for job in all_running() if isinstance(job, RunningJob)]
    return sorted(found, key=lambda job: (job.out.name, job.out))


def all_running() -> list[RunningJob | RunningTransfer]:
    """Every job that runs and has said its first word, compressions first."""
    found = [_running(path) for path in sorted(paths.jobs_dir().glob("*.jsonl"))]
    jobs = [job for job in found if job]
    return sorted(jobs, key=lambda job: isinstance(job, RunningTransfer))


def is_known(out: Path) -> bool:
    """Whether a job on this output folder runs, or has told how it ended."""
    return _events_file(out).is_file()


def forget(out: Path) -> None:
    """Remove what the job on this output folder has told, unless it still runs."""
    _remove(_events_file(out))


def log_file(out: Path) -> Path:
    """What the job on this output folder wrote to standard error."""
    return _events_file(out).with_suffix(".log")


class JobWatch:
    """Follows the job on one output folder, from its beginning.

    ``process`` is the job's, for the one who started it: he alone learns its exit code.
    """

    def __init__(self, out: Path, process: "subprocess.Popen[bytes] | None" = None) -> None:
        self.out = out
        self.pid: int | None = None
        self._process = process
        self._path = _events_file(out)
        self._offset = 0
        self._stopping = False

    @property
    def is_alive(self) -> bool:
        """Whether a job works on this output."""
        return _is_locked(self._path)

    def stop(self) -> None:
        """Ask the job to end at the next whole step. It tells when it has."""
        self._stopping = True
        # Before its first word it would not end cleanly: then `poll` asks, as soon as it speaks.
        if self.pid is not None and self.is_alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def poll(self) -> list[JobEvent]:
        """What is new since the last call. The very last is Done or JobFailed, always."""
        # Looked at before reading: nothing follows what is read after the end.
        over = not self.is_alive
        events = self._read()
        if over and not _ends(events):
            self._offset = 0  # the last word may stand where we have read already
            events = self._read()[-1:]
            if not _ends(events):
                events = [self._without_a_word()]
        elif not over and _ends(events):
            del events[-1]  # it counts when the lock is free, and the next job can start
        for event in events:
            if isinstance(event, Started | TransferStarted):
                self.pid = event.pid
                if self._stopping:
                    self.stop()
        return events

    def _read(self) -> list[JobEvent]:
        """Whole lines from where the last call ended. What is no event is skipped."""
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset = 0
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return _decoded(whole)

    def _without_a_word(self) -> JobFailed:
        last_line = _last_line(log_file(self.out))
        if self._process is not None:
            reason = Exit(self._process.wait(), last_line).reason
        else:
            reason = f"it was killed, or the machine went down{last_line and f': {last_line}'}"
        return JobFailed(
            WorkerError.__name__,
            f"the job stopped unexpectedly: {reason}; what is finished is kept, "
            "run it again to go on",
        )


def _events_file(out: Path) -> Path:
    out = Path(os.path.abspath(out))
    mark = hashlib.sha256(str(out).encode()).hexdigest()[:12]
    return paths.jobs_dir() / f"{out.name}-{mark}.jsonl"


def _locked(path: Path, mode: str) -> BinaryIO | None:
    """The file, open and locked; None while another holds it. Raises OSError."""
    for _ in range(_LOCK_ATTEMPTS):
        file = path.open(mode)
        if take(file.fileno(), path):
            return cast(BinaryIO, file)
        file.close()
        time.sleep(_LOCK_PAUSE_SECONDS)  # somebody may only be looking, as `_is_locked` does
    return None


def _remove_old() -> None:
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for path in paths.jobs_dir().glob("*.jsonl"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                _remove(path)


def _remove(events: Path) -> None:
    """While it is locked: who opens the file at this moment sees that it has gone."""
    with suppress(FileNotFoundError):
        file = _locked(events, "rb")
        if file is not None:
            with file:
                events.with_suffix(".log").unlink(missing_ok=True)
                events.unlink()


def _is_locked(path: Path) -> bool:
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _running(path: Path) -> RunningJob | RunningTransfer | None:
    if not _is_locked(path):
        return None
    with path.open("rb") as file:
        first = _decoded(file.readline())
    match first:
        case [Started(pid, source, bits, out)]:
            return RunningJob(Path(out), pid, source, bits)
        case [TransferStarted(pid, what, repository, folder)]:
            return RunningTransfer(what, repository, Path(folder), pid)
    return None  # it has not said its first word yet


def _occupied(place: Path) -> str:
    job = running(place)
    return job.words if job else f"another process has just begun to work on {place}: wait for it"


def _decoded(lines: bytes) -> list[JobEvent]:
    events: list[JobEvent] = []
    for line in lines.decode(errors="replace").splitlines():
        with suppress(ProtocolError):
            events.append(decode(line))
    return events


def _ends(events: Sequence[JobEvent]) -> bool:
    return bool(events) and isinstance(events[-1], Done | JobFailed)


def _last_line(log: Path) -> str:
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""
