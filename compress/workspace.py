"""The folder a checkpoint grows in: NAME.partial, renamed to NAME when it is whole.

It is locked while a job works in it, so that two never write to one output. Beside the files of
the checkpoint it holds the journal and the calibration streams, from which a later run resumes.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from compress.journal import Journal
from engine.checkpoint import sync
from engine.errors import DiskFullError, UsageError
from engine.manifest import MANIFEST_NAME, read_manifest

_JOURNAL = "journal.jsonl"
_LOCK = "lock"
_EMBEDDING = "embedding.safetensors"


class Workspace:
    """A locked partial folder, with its journal once `begin` has been called."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder = folder
        self._out = out
        self.journal = Journal(folder / _JOURNAL)

    def begin(self, fingerprint: str) -> None:
        """Go on from the journal found here, or start one.

        Raises UsageError when it is of another job.
        """
        self.journal.open(fingerprint)

    def embedding(self, read: Callable[[], Tensor]) -> Tensor:
        """The embeddings, kept here from the first time they are read: they open the source's
        first shard and close the result, and in between that shard can go."""
        path = self.folder / _EMBEDDING
        if not path.exists():
            partial = path.with_name(path.name + ".tmp")
            save_file({_EMBEDDING: read()}, partial)
            sync(partial)
            partial.rename(path)
        return load_file(path)[_EMBEDDING]

    def publish(self, files: Collection[str]) -> Path:
        """Give the whole checkpoint, which consists of these files, its name.

        An older one of that name, kept until now, goes. What was only needed on the way goes
        last, so that a run that is killed in between finds out where it stood.
        """
        old = self._out.with_name(self._out.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self._out.exists():
            self._out.rename(old)
        self.folder.rename(self._out)
        sync(self._out.parent)
        shutil.rmtree(old, ignore_errors=True)
        _remove_others(self._out, files)
        return self._out


def finish_publishing(out: Path) -> bool:
    """Whether ``out`` was published by a run that was killed before it had cleaned up; then this
    cleans up. Raises CheckpointError when its manifest cannot be read."""
    if not (out / _JOURNAL).exists():
        return False
    _remove_others(out, (*read_manifest(out).files, MANIFEST_NAME))
    return True


def _remove_others(folder: Path, files: Collection[str]) -> None:
    """Remove all but these files from a published folder, the journal last."""
    others = [path for path in folder.iterdir() if path.name not in files]
    for path in sorted(others, key=lambda path: path.name == _JOURNAL):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def partial_folder(out: Path) -> Path:
    """Where the checkpoint ``out`` grows."""
    return out.with_name(out.name + ".partial")


def check_out(out: Path, restart: bool) -> None:
    """Raise UsageError when ``out`` exists and is not to be replaced."""
    if out.exists() and not restart:
        raise UsageError(f"{out} exists already: choose another --out, or replace it by --restart")


def check_free(out: Path, needed: int) -> None:
    """See that ``needed`` bytes fit beside ``out``, counting what an unfinished run holds.

    Raises DiskFullError.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_folder(out)
    held = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    free = shutil.disk_usage(out.parent).free + held
    if free < needed:
        raise DiskFullError(
            f"compressing into {out.parent} needs {needed:,} bytes and {free:,} are free: "
            "make room, or choose another --out"
        )


@contextmanager
def open_workspace(out: Path, restart: bool) -> Iterator[Workspace]:
    """Lock NAME.partial; ``restart`` discards what an unfinished run left there, but for shards
    that were downloaded.

    Raises UsageError when another job works there.
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
        if restart:
            for path in folder.iterdir():
                if path.is_file() and path.name != _LOCK:
                    path.unlink()
        try:
            yield Workspace(folder, out)
        finally:
            if folder.exists() and not any(path.name != _LOCK for path in folder.iterdir()):
                shutil.rmtree(folder)  # it failed before there was anything to go on from


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
