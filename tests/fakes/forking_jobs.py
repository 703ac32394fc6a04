"""Runs compressions for tests, each in a process of its own, forked when all is loaded.

A line in is a `Run`, a line out an `Ending`. A run can be killed after some time; and among the
calls through which it changes what is on the disk, counted from 0, one can be its last, or fail.
"""

import dataclasses
import errno
import json
import os
import resource
import signal
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from compress import job, pipeline
from compress.progress import decode

CALLS = (
    *("fsync", "replace", "rename", "unlink", "rmdir", "mkdir", "truncate", "posix_fallocate"),
)
"""Functions of `os`: a file that is written is synced, so each write has its call here too."""
ALLOCATING = ("fsync", "posix_fallocate")
"""Those that may find the disk full."""
TORN_BYTES = 10
"""What a power failure takes from the end of a file that is just being synced."""


@dataclass(frozen=True)
class Run:
    """``words`` are those of `compress.job`. ``kill_after`` is in seconds; the other faults are
    the call to die at, the call that finds the disk full, and the largest file in bytes."""

    words: list[str]
    placement: str = "host"
    kill_after: float | None = None
    die_at: int | None = None
    full_at: int | None = None
    largest_file: int | None = None


@dataclass(frozen=True)
class Ending:
    """``code`` as of subprocess, ``event`` the last one told, ``calls`` the names of all calls."""

    code: int
    event: dict[str, Any]
    calls: list[str]


class _Calls:
    """Stands between a run and the system."""

    def __init__(self, run: Run, log: int) -> None:
        self._run = run
        self._log = log
        self._count = 0

    def between(self, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*given: Any, **more: Any) -> Any:
            index, self._count = self._count, self._count + 1
            os.write(self._log, f"{name}\n".encode())
            if index == self._run.die_at:
                if name == "fsync":
                    _tear(given[0])
                os.kill(os.getpid(), signal.SIGKILL)
            if index == self._run.full_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*given, **more)

        return call


def _tear(descriptor: int) -> None:
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        with open(path, "r+b") as file:
            file.truncate(max(0, status.st_size - TORN_BYTES))


def _child(run: Run, told: Path, log: Path) -> None:
    os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    calls = _Calls(run, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    for name in CALLS:
        setattr(os, name, calls.between(name))
    if run.largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (run.largest_file, resource.RLIM_INFINITY))
    with mock.patch.object(pipeline, "choose_placement", return_value=run.placement):
        os._exit(job.main(run.words))


def _fork(run: Run, folder: Path) -> Ending:
    told, log = folder / "told", folder / "calls"
    child = os.fork()
    if child == 0:
        try:
            _child(run, told, log)
        finally:
            os._exit(70)
    timer = threading.Timer(run.kill_after or 0.0, os.kill, (child, signal.SIGKILL))
    if run.kill_after is not None:
        timer.start()
    _, status = os.waitpid(child, 0)
    timer.cancel()
    lines = told.read_text().splitlines()
    event = dataclasses.asdict(decode(lines[-1])) if lines else {}
    return Ending(os.waitstatus_to_exitcode(status), event, log.read_text().split())


def main() -> None:
    folder, warming = Path(sys.argv[1]), sys.argv[2:]
    events = os.dup(1)
    os.dup2(2, 1)
    options = vars(job.parser().parse_args(warming))
    pipeline.compress(pipeline.CompressJob(**options), lambda progress: None)
    with os.fdopen(events, "w") as answers:
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            ending = _fork(Run(**json.loads(line)), folder)
            print(json.dumps(dataclasses.asdict(ending)), file=answers, flush=True)


if __name__ == "__main__":
    main()
