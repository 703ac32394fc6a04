"""`mc-chat watch`: follow a compression that runs, learn how it ended, or stop it."""

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
        "watching, not the compression; --stop stops it, to be gone on with later. "
        "Without MODEL: the one that runs, or a list of them.",
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="what is being made: its name, or its folder"
    )
    parser.add_argument(
        "--stop", action="store_true", help="stop it; what is finished is kept for the next run"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Show progress until the end, then the result; or stop it."""
    act = _stop if options.stop else _watch
    if options.model is not None:
        act(_output(options.model), options.json)
        return
    match jobs.running_jobs():
        case []:
            raise UsageError("no compression is running; `mc-chat compress SOURCE` starts one")
        case [job]:
            act(job.out, options.json)
        case several if options.stop:
            names = ", ".join(models.display_name(job.out) for job in several)
            raise UsageError(f"several compressions are running, name one of: {names}")
        case several:
            _list(several, options.json)


def _watch(out: Path, as_json: bool) -> None:
    try:
        with ProgressLine() as line:
            folder = follow(JobWatch(out), line)
    except KeyboardInterrupt:
        stop = f"`mc-chat watch --stop {models.display_name(out)}` stops it"
        raise Interrupted(f"no longer watching, the compression goes on; {stop}") from None
    show_result(folder, as_json)


def _stop(out: Path, as_json: bool) -> None:
    name, watch = models.display_name(out), JobWatch(out)
    if not watch.is_alive:
        raise UsageError(
            f"{name} is not being compressed; `mc-chat watch {name}` says how it ended"
        )
    watch.stop()
    try:
        with ProgressLine() as line:
            line.keep(f"stopping {name} at the next whole step")
            show_result(follow(watch, line), as_json)
            return  # it was done before it heard
    except KeyboardInterrupt:
        how = f"`mc-chat watch {name}` shows when it has"
        raise Interrupted(f"it stops in the background; {how}") from None
    except Interrupted:
        pass  # as it was asked to
    if as_json:
        print_json({"name": name, "folder": str(out), "stopped": True})
    else:
        print(safe_text(f"{name} has stopped; run the same `mc-chat compress` to go on"))


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
