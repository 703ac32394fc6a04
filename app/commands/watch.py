"""`mc-chat watch`: follow a compression that runs, or learn how it ended."""

import argparse
import dataclasses
import os
from pathlib import Path

from app import jobs, models, paths
from app.arguments import Commands, add_json, print_json
from app.commands.compress import show_result
from app.following import follow
from app.jobs import JobWatch, RunningJob
from app.progress_line import ProgressLine
from app.render import safe_text
from engine.errors import Interrupted, UsageError


def add(commands: Commands) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "watch",
        help="follow a compression that runs",
        description="Follow a compression that runs, or learn how it ended. Ctrl+C stops "
        "watching, not the compression. Without MODEL: the one that runs, or a list of them.",
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="what is being made: its name, or its folder"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Show progress until the end, then the result."""
    if options.model is not None:
        _watch(_output(options.model), options.json)
        return
    match jobs.running_jobs():
        case []:
            raise UsageError("no compression is running; `mc-chat compress SOURCE` starts one")
        case [job]:
            _watch(job.out, options.json)
        case several:
            _list(several, options.json)


def _watch(out: Path, as_json: bool) -> None:
    watch = JobWatch(out)
    try:
        with ProgressLine() as line:
            folder = follow(watch, line)
    except KeyboardInterrupt:
        how = f"; `kill {watch.pid}` stops it cleanly" if watch.pid else ""
        raise Interrupted(f"no longer watching, the compression goes on{how}") from None
    show_result(folder, as_json)


def _output(name: str) -> Path:
    """The output folder that is meant: a name under the models, or a path.

    Raises UsageError when no compression into it is known.
    """
    given = Path(name).expanduser()
    meant = [given] if os.sep in name else [paths.models_dir() / name, given]
    for out in meant:
        if jobs.is_known(out):
            return out
    running = ", ".join(models.display_name(job.out) for job in jobs.running_jobs())
    raise UsageError(
        f"no compression of {name!r} is known; "
        + (f"running: {running}" if running else "none is running")
    )


def _list(running: list[RunningJob], as_json: bool) -> None:
    if as_json:
        print_json(
            {"running": [dataclasses.asdict(job) | {"out": str(job.out)} for job in running]}
        )
        return
    for job in running:
        name = models.display_name(job.out)
        print(safe_text(f"{name}: process {job.pid}, {job.source} to {job.bits:g} bits"))
