"""`python -m compress.job SOURCE --out DIR ...`: one compression as a process of its own.

Standard output carries one JSON object of `compress.progress` a line. SIGTERM and SIGINT stop it
between two steps; what is on the disk can be resumed. Exit codes: 0 done, 1 failed, 2 bad usage,
130 interrupted.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from compress.progress import Done, JobEvent, JobFailed, Progress, encode
from engine.errors import Interrupted, McChatError


def parser() -> argparse.ArgumentParser:
    """The options, named as those of `mc-chat compress`."""
    options = argparse.ArgumentParser(prog="python -m compress.job", description=__doc__)
    options.add_argument("source", type=Path, metavar="SOURCE")
    options.add_argument("--out", type=Path, required=True, metavar="DIR")
    options.add_argument("--bits", type=float, default=2.5)
    options.add_argument("--allocator", default="pmq")
    options.add_argument("--quantizer", default="refined")
    options.add_argument("--group-size", type=int, default=128)
    options.add_argument("--text", type=Path, metavar="FILE")
    options.add_argument("--samples", type=int, metavar="N")
    options.add_argument("--window", type=int, metavar="T")
    options.add_argument("--error", default="block")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--restart", action="store_true")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job; returns the exit code."""
    options = parser().parse_args(arguments)
    stop = _StopFlag()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.set)
    try:
        # Imported with the signals in place: torch takes a second.
        from compress.pipeline import CompressJob, compress

        def listener(progress: Progress) -> None:
            stop.check()
            _tell(progress)

        _tell(Done(str(compress(CompressJob(**vars(options)), listener))))
    except McChatError as error:
        _tell(JobFailed(type(error).__name__, str(error)))
        return error.exit_code
    return 0


def _tell(event: JobEvent) -> None:
    print(encode(event), flush=True)


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
