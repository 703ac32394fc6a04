"""`python -m compress.job SOURCE --out DIR ...`: one compression as a process of its own.

Standard output, a pipe or a file, carries one JSON object of `compress.progress` a line. The job
needs nobody to read it, and goes on when nobody does. SIGTERM and SIGINT stop it between two
steps; what is on the disk can be resumed. Exit codes: 0 done, 1 failed, 2 bad usage,
130 interrupted.
"""

import argparse
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from compress.progress import Done, JobEvent, JobFailed, Progress, Started, Transfer, encode
from compress.quantizer_names import DEFAULT_QUANTIZER
from engine.errors import Interrupted, McChatError, WorkerError

_REPEAT_SECONDS = 0.5
"""How often the same step, or the bytes of a download, are told again."""
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def parser() -> argparse.ArgumentParser:
    """The options, named as those of `mc-chat compress`."""
    options = argparse.ArgumentParser(prog="python -m compress.job", description=__doc__)
    options.add_argument("source", type=source, metavar="SOURCE")
    options.add_argument("--out", type=Path, required=True, metavar="DIR")
    options.add_argument("--bits", type=float, default=2.5)
    options.add_argument("--allocator")
    options.add_argument("--quantizer", default=DEFAULT_QUANTIZER)
    options.add_argument("--group-size", type=int, default=128)
    options.add_argument("--text", type=Path, metavar="FILE")
    options.add_argument("--samples", type=int, metavar="N")
    options.add_argument("--window", type=int, metavar="T")
    options.add_argument("--error", default="block")
    options.add_argument("--router-bits", type=int, default=16)
    options.add_argument("--head-bits", type=int, default=16)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="auto")
    options.add_argument("--expert-bytes", type=int, metavar="N")
    options.add_argument("--keep-source", action="store_true")
    options.add_argument("--offline", action="store_true")
    options.add_argument("--restart", action="store_true")
    return options


def source(text: str) -> Path | str:
    """A folder, or the name of a repository of the hub: ``owner/name`` where no such folder is."""
    path = Path(text)
    return text if _REPOSITORY.fullmatch(text) and not path.is_dir() else path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job; returns the exit code."""
    options = parser().parse_args(arguments)
    stop = _StopFlag()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.set)
    teller = Teller(take_output())
    teller.tell(Started(os.getpid(), str(options.source), options.bits, str(options.out)))

    def listener(progress: Progress) -> None:
        stop.check()
        teller.tell(progress)

    def work() -> Done:
        # Imported with the signals in place: torch takes a second.
        from compress.pipeline import CompressJob, compress

        return Done(str(compress(CompressJob(**vars(options)), listener)))

    return run_told(work, teller)


def run_told(work: Callable[[], Done], teller: "Teller") -> int:
    """Do the work of a job, and tell how it ended; returns the exit code."""
    try:
        teller.tell(work())
    except McChatError as error:
        teller.tell(JobFailed(type(error).__name__, str(error)))
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        words = " ".join(str(error).split())
        teller.tell(JobFailed(WorkerError.__name__, f"unexpected {type(error).__name__}: {words}"))
        return 1
    return 0


def take_output() -> int:
    """Our own descriptor for standard output; what libraries print goes to standard error.

    No child of ours inherits it: a file locked through it is free when it is closed.
    """
    sys.stdout.flush()
    taken = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return taken


class Teller:
    """Writes events to a descriptor, come what may: a full disk and a reader that is gone cost
    steps of the story, never the job. It closes the descriptor, and so drops the lock of a job's
    file, with the event that ends the job: the next may start while this process still dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._last: tuple[object, ...] = ()
        self._told_at = 0.0

    def tell(self, event: JobEvent) -> None:
        """Write one line; steps that repeat themselves are thinned out."""
        if isinstance(event, Progress | Transfer):
            if not self._is_due(event):
                return
            with suppress(OSError):
                self._append(encode(event))
            return
        self._insist(encode(event))
        if isinstance(event, Done | JobFailed):
            os.close(self._descriptor)

    def _is_due(self, step: Progress | Transfer) -> bool:
        what = _what(step)
        now = time.monotonic()
        if what == self._last and now - self._told_at < _REPEAT_SECONDS:
            return False
        self._last, self._told_at = what, now
        return True

    def _insist(self, line: str) -> None:
        """A file on a full disk is emptied for the line that says how the job ended."""
        try:
            self._append(line)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
                self._append(line)

    def _append(self, line: str) -> None:
        """Write all of a line. Raises OSError; a file is then as long as it was."""
        data = line.encode() + b"\n"
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError:
            with suppress(OSError):
                length = os.fstat(self._descriptor).st_size
                os.ftruncate(self._descriptor, max(0, length - written))
            raise


def _what(step: Progress | Transfer) -> tuple[object, ...]:
    """What makes a step another one; bytes alone do not."""
    if isinstance(step, Transfer):
        return (step.message,)
    return (step.stage, step.layer, "" if step.stage == "download" else step.message)


class _StopFlag:
    """Set by a signal, looked at between two steps."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self._is_set = True

    def check(self) -> None:
        """Raise Interrupted once a signal has come."""
        if self._is_set:
            raise Interrupted("stopped; run the same command again to go on")


if __name__ == "__main__":
    sys.exit(main())
