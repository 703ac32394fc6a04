"""A folder that appears under its name only when all of it is there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.locking import take
from engine.checkpoint import sync
from engine.errors import DiskFullError, UsageError


@contextmanager
def growing(out: Path, needed: int) -> Iterator[Path]:
    """An empty, locked folder beside ``out``: renamed to it at the end, deleted on any failure.

    What a killed run left there goes first. Raises UsageError when ``out`` exists or is being
    written, DiskFullError when ``needed`` bytes are not free.
    """
    if out.exists():
        raise UsageError(f"{out} exists already: choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise DiskFullError(
            f"{out} needs {needed:,} bytes and {free:,} are free: make room, or choose another "
            "--out"
        )
    folder = out.with_name(out.name + ".writing")
    with _locked(folder, out):
        for path in folder.iterdir():
            path.unlink()
        try:
            yield folder
            sync(folder)
            folder.rename(out)
        except BaseException:
            shutil.rmtree(folder)
            raise
    sync(out.parent)


@contextmanager
def _locked(folder: Path, out: Path) -> Iterator[None]:
    """Make the folder and hold its lock, which the system drops with the process."""
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not take(descriptor, folder):
            raise UsageError(f"another mc-chat is writing {out}: wait for it, or stop it")
        yield
    finally:
        os.close(descriptor)
