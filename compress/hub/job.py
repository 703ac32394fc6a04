"""`python -m compress.hub.job pull REPO --out DIR` and `publish DIR REPO`: one transfer as a
process of its own, told like a compression (`compress.job`).

SIGTERM and SIGINT stop it at once: what has been transferred is used by the next run. Exit codes:
0 done, 1 failed, 2 bad usage, 130 interrupted.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from compress.job import Teller, run_told, take_output
from compress.progress import Done, TransferStarted
from engine.errors import Interrupted

_STOPPED = "stopped; what has been transferred is kept, the next start goes on"


def parser() -> argparse.ArgumentParser:
    """The options of both."""
    options = argparse.ArgumentParser(prog="python -m compress.hub.job", description=__doc__)
    whats = options.add_subparsers(dest="what", required=True)
    down = whats.add_parser("pull")
    down.add_argument("repository", metavar="REPO")
    down.add_argument("--out", dest="folder", type=Path, required=True, metavar="DIR")
    down.add_argument("--revision")
    up = whats.add_parser("publish")
    up.add_argument("folder", type=Path, metavar="DIR")
    up.add_argument("repository", metavar="REPO")
    up.add_argument("--private", action="store_true")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one transfer; returns the exit code."""
    options = parser().parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    teller = Teller(take_output())
    folder = str(options.folder)
    teller.tell(TransferStarted(os.getpid(), options.what, options.repository, folder))
    return run_told(lambda: _run(options, teller), teller)


def _run(options: argparse.Namespace, teller: Teller) -> Done:
    try:
        return _transfer(options, teller)
    except KeyboardInterrupt:
        raise Interrupted(_STOPPED) from None


def _transfer(options: argparse.Namespace, teller: Teller) -> Done:
    """Imported with the first word said: the hub's client takes its time."""
    if options.what == "pull":
        from compress.hub.pull import pull

        folder = pull(options.repository, options.folder, teller.tell, revision=options.revision)
        return Done(str(folder))
    from compress.hub.publish import publish

    done = publish(options.folder, options.repository, options.private, teller.tell)
    return Done(str(options.folder), done.url)


if __name__ == "__main__":
    sys.exit(main())
