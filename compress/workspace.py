"""The folder a checkpoint grows in: NAME.partial, renamed to NAME when it is whole.

It is locked while a job works in it, so that two never write to one output. Beside the files of
the checkpoint it holds the journal and the calibration streams, from which a later run resumes.
"""

import errno
import fcntl
import os
import re
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
from engine.errors import CheckpointError, DiskFullError, UsageError
from engine.manifest import MANIFEST_NAME, layer_file, read_manifest

_JOURNAL = "journal.jsonl"
_LOCK = "lock"
_REPLACES = "replaces"

SOURCE_FOLDER = "source"
"""Where shards are while they are needed, inside the folder that the result grows in."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG),
    errno.ENOENT,  # what /proc and its like say of a new folder
)
_RUST_ERRNO = re.compile(r"os error (\d+)")


class Workspace:
    """A locked partial folder, with its journal once `begin` has been called."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder = folder
        self._out = out
        self.journal = Journal(folder / _JOURNAL)

    def begin(self, fingerprint: str) -> None:
        """Go on from the journal found here, or start one.

        Raises UsageError when it is of another job, CheckpointError when a layer that it says is
        finished is not there.
        """
        self.journal.open(fingerprint)
        for layer, entry in enumerate(self.journal.entries):
            path = self.folder / layer_file(layer)
            if not path.is_file() or path.stat().st_size != entry.file.bytes:
                raise CheckpointError(
                    f"{path} is missing or cut short, though it was finished: begin anew with "
                    "--restart"
                )

    def keep(self, name: str, read: Callable[[], Tensor]) -> Tensor:
        """A tensor from outside the layers, kept here from the first time it is read: the result's
        last file needs it when the source's shard that has it may be long gone.

        Raises CheckpointError when what was kept is damaged.
        """
        path = self.folder / f"{name}.kept"
        if not path.exists():
            partial = path.with_name(path.name + ".tmp")
            save_file({name: read()}, partial)
            sync(partial)
            partial.rename(path)
        try:
            return load_file(path)[name]
        except SafetensorError as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); begin anew with --restart"
            ) from None

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
    cleans up. Raises CheckpointError when its manifest cannot be read, UsageError when the run
    that published it is still cleaning up."""
    if not (out / _JOURNAL).exists():
        return False
    with (out / _LOCK).open("a+") as lock:
        if not _take(lock):
            raise _occupied(lock, out)
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
    shutil.rmtree(folder.with_name(folder.name + ".old"), ignore_errors=True)


def partial_folder(out: Path) -> Path:
    """Where the checkpoint ``out`` grows."""
    return out.with_name(out.name + ".partial")


def check_out(out: Path, restart: bool) -> None:
    """Raise UsageError when ``out`` exists and is not to be replaced, neither by this run nor by
    an unfinished one that it goes on with."""
    if out.exists() and not restart and not _is_replaced(out):
        raise UsageError(f"{out} exists already: choose another --out, or replace it by --restart")


def free_bytes(out: Path, kept_source: Path | None = None) -> int:
    """What a run that makes ``out`` may take of the disk: what is free, and what an unfinished run
    holds, there and in ``kept_source``, the folder of a source that is downloaded and stays."""
    folders = [partial_folder(out)] + ([kept_source] if kept_source else [])
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    held = sum(path.stat().st_size for path in files)
    return shutil.disk_usage(out.parent).free + held


def check_free(out: Path, needed: int, free: int) -> None:
    """Raise DiskFullError where ``needed`` bytes are more than the ``free`` ones for ``out``."""
    if free < needed:
        raise DiskFullError(
            f"compressing into {out.parent} needs {needed:,} bytes and {free:,} are free: "
            "make room, or choose another --out"
        )


@contextmanager
def open_workspace(out: Path, restart: bool) -> Iterator[Workspace]:
    """Lock NAME.partial; ``restart`` discards what an unfinished run left there, but for shards
    that were downloaded. A run that fails before it has begun a journal leaves nothing.

    Raises UsageError when another job works there, when ``out`` is not to be replaced, and when
    the folder holds what no compression has left there.
    """
    folder = partial_folder(out)
    _refuse_strange(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a+") as lock:
        if not _take(lock) or not _is_at(lock, folder / _LOCK):
            raise _occupied(lock, out)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            check_out(out, restart)
            if restart:
                _discard(folder, out)
            yield Workspace(folder, out)
        finally:
            if folder.exists() and not (folder / _JOURNAL).exists():
                shutil.rmtree(folder)


def _refuse_strange(folder: Path) -> None:
    """Whoever publishes the folder removes what does not belong to the checkpoint."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is in the way: move it away, or choose another --out")
    try:
        strange = {path.name for path in folder.iterdir()} - {_LOCK, _REPLACES, SOURCE_FOLDER}
    except FileNotFoundError:
        return
    # Looked for last: another run may be at work, whose first file is the journal.
    if strange and folder.exists() and not (folder / _JOURNAL).exists():
        raise UsageError(
            f"{folder} is of no compression, it holds {min(strange)}: move it away, or choose "
            "another --out"
        )


def _discard(folder: Path, out: Path) -> None:
    """Remove what an unfinished run has made. The journal is emptied first, and stays: what else
    is there belongs to a compression that begins anew, should this be cut short."""
    (folder / _JOURNAL).write_bytes(b"")
    for path in folder.iterdir():
        if path.is_file() and path.name not in (_LOCK, _JOURNAL):
            path.unlink()
    if out.exists():
        (folder / _REPLACES).write_text(str(out.stat().st_ino))


def _is_replaced(out: Path) -> bool:
    """Whether an unfinished run was to replace this very ``out``."""
    try:
        return (partial_folder(out) / _REPLACES).read_text() == str(out.stat().st_ino)
    except OSError:
        return False


def _take(lock: TextIO) -> bool:
    """Lock it, if nobody has. The system drops the lock with the process, however it ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(lock: TextIO, path: Path) -> bool:
    """Whether the file is still the one of this name: not renamed or removed by who held it."""
    try:
        return os.fstat(lock.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _occupied(lock: TextIO, out: Path) -> UsageError:
    """Which process has locked it, as far as it has said so yet."""
    lock.seek(0)
    pid = lock.read().strip()
    holder = f" (process {pid})" if pid else ""
    return UsageError(
        f"another compression{holder} is writing {out}: wait for it (`mc-chat watch {out}` shows "
        "it), or stop it"
    )


@contextmanager
def say_when_full(folder: Path) -> Iterator[None]:
    """Turn what the system says of a full disk into DiskFullError, of a place that may not be
    written, or a file that may not be read, into UsageError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _errno(error)
        if number in _FULL:
            raise DiskFullError(
                f"no space left in {folder}: make room and run the same command again to go on"
            ) from None
        if number == errno.EFBIG:
            raise DiskFullError(
                f"{folder} takes no files of that size: choose another --out, or raise the limit "
                "(`ulimit -f`)"
            ) from None
        if number in _FORBIDDEN:
            where = getattr(error, "filename", None) or folder
            raise UsageError(
                f"{where} cannot be used ({os.strerror(number)}): correct that, or choose another "
                "place"
            ) from None
        raise


def _errno(error: OSError | SafetensorError) -> int:
    """The system's number of an error; safetensors gives it in words. 0: none."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = _RUST_ERRNO.search(str(error))
    return int(found[1]) if found else 0
