"""The folder a checkpoint grows in: NAME.partial, renamed to NAME when it is whole.

It is locked while a job works in it, so that two never write to one output. Beside the files of
the checkpoint it holds the journal and the calibration streams, from which a later run resumes.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from safetensors import SafetensorError

from compress.journal import Entry, Journal
from compress.streams import Streams
from engine.checkpoint import sync
from engine.errors import DiskFullError, UsageError

_JOURNAL = "journal.jsonl"
_LOCK = "lock"


class Workspace:
    """An open, locked partial folder with its journal."""

    def __init__(self, folder: Path, out: Path, journal: Journal) -> None:
        self.folder = folder
        self.journal = journal
        self._out = out

    def load_streams(self) -> Streams | None:
        """The streams behind the last finished layer, None before the first."""
        done = len(self.journal.entries)
        return Streams.load(self._streams(done)) if done else None

    def finish_layer(self, entry: Entry, behind: Streams) -> None:
        """Make a layer whose file is written count as finished; all on the disk on return.

        The streams are written before the journal line and the old ones removed after it, so
        that a crash in between leaves a pair that fits together.
        """
        done = len(self.journal.entries) + 1
        behind.save(self._streams(done))
        self.journal.append(entry)
        self._streams(done - 1).unlink(missing_ok=True)

    def publish(self) -> Path:
        """Give the whole checkpoint its name. An older one of that name, kept until now, goes."""
        self._streams(len(self.journal.entries)).unlink(missing_ok=True)
        old = self._out.with_name(self._out.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self._out.exists():
            self._out.rename(old)
        self.folder.rename(self._out)
        sync(self._out.parent)
        shutil.rmtree(old, ignore_errors=True)
        for name in (_JOURNAL, _LOCK):
            (self._out / name).unlink()
        return self._out

    def _streams(self, layers: int) -> Path:
        """The streams behind this many layers."""
        return self.folder / f"streams-{layers:02d}.safetensors"


def partial_folder(out: Path) -> Path:
    """Where the checkpoint ``out`` grows."""
    return out.with_name(out.name + ".partial")


def check_free(out: Path, needed: int, restart: bool) -> None:
    """See that ``needed`` bytes fit beside ``out``, counting what an unfinished run holds.

    Raises DiskFullError, and UsageError when ``out`` exists and is not to be replaced.
    """
    if out.exists() and not restart:
        raise UsageError(f"{out} exists already: choose another --out, or replace it by --restart")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_folder(out)
    held = sum(path.stat().st_size for path in partial.glob("*")) if partial.is_dir() else 0
    free = shutil.disk_usage(out.parent).free + held
    if free < needed:
        raise DiskFullError(
            f"compressing into {out.parent} needs {needed:,} bytes and {free:,} are free: "
            "make room, or choose another --out"
        )


@contextmanager
def open_workspace(out: Path, fingerprint: str, restart: bool) -> Iterator[Workspace]:
    """Lock NAME.partial and open its journal, the one found there or a new one.

    Raises UsageError when another job works there or left an unfinished run of another recipe.
    """
    folder = partial_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a+") as lock:
        try:
            # The system drops the lock with the process, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.fstat(lock.fileno()).st_ino == (folder / _LOCK).stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise UsageError(
                f"another compression{_holder(lock)} is writing {out}: wait for it "
                f"(`mc-chat watch {out}` shows it), or stop it"
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        journal = folder / _JOURNAL
        if restart:
            for path in folder.iterdir():
                if path.name != _LOCK:
                    path.unlink()
        if journal.is_file():
            yield Workspace(folder, out, Journal.resume(journal, fingerprint))
        else:
            yield Workspace(folder, out, Journal.begin(journal, fingerprint))


def _holder(lock: TextIO) -> str:
    """Which process has locked it, as far as it has said so yet."""
    lock.seek(0)
    pid = lock.read().strip()
    return f" (process {pid})" if pid else ""


@contextmanager
def say_when_full(folder: Path) -> Iterator[None]:
    """Turn the system's "no space left" into DiskFullError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error):
            raise DiskFullError(
                f"no space left in {folder}: make room and run the same command again to go on"
            ) from None
        raise
