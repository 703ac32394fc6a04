"""Downloads one file: goes on where it stopped, and takes only what has the right hash.

huggingface_hub's own downloads begin anew after a kill (2.4 removes its temporary file; through xet
the file is rewritten from the start) and cannot be stopped between two bytes, so the file comes
over plain HTTP in its session: the hub serves every file that way too, with ranges.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from compress.hub import verified
from compress.hub.connection import (
    HUB_ERRORS,
    Patience,
    explained,
    file_url,
    open_stream,
    require_online,
    status_of,
)
from compress.hub.repository import HubFile, HubRepository, plain_name
from engine.errors import DiskFullError, HubError, NetworkError

ByteListener = Callable[[int], None]
"""Hears how many bytes of the file are here, ten times a second while nothing comes; may raise
Interrupted: what has arrived is kept."""

_PIECE = 1 << 20
_RANGE_NOT_SATISFIABLE = 416


class _NotTheFileError(Exception):
    """What the server sends cannot be the file that the listing names."""


def download(
    repository: HubRepository,
    file: HubFile,
    folder: Path,
    listener: ByteListener,
    waiting: Callable[[str], None] | None = None,
) -> Path:
    """Bring one file into ``folder``, if it is not there already; returns its path.

    ``waiting`` hears one line whenever a lost network is waited for. Altered bytes are thrown away
    and asked for once more. Raises NetworkError, HubError, DiskFullError, and what the listener
    raises.
    """
    path = folder / plain_name(file.name)
    folder.mkdir(parents=True, exist_ok=True)
    if path.is_file() and (verified.knows(path, file) or matches(path, file, listener)):
        verified.remember(path, file)
        listener(file.size)
        return path
    require_online(repository.offline, f"{file.name} of {repository.repository}")
    partial = _partial(path, file)
    for _ in range(2):
        try:
            _receive(repository, file, partial, listener, waiting)
        except _NotTheFileError:
            partial.unlink(missing_ok=True)
            continue
        if matches(partial, file, listener):
            os.replace(partial, path)
            verified.remember(path, file)
            return path
        partial.unlink()
    raise HubError(
        f"{file.name} of {repository.repository} arrived altered twice: its hash is not the one "
        "the hub names; try later, or over another network"
    )


def held_bytes(file: HubFile, folder: Path) -> int:
    """How many bytes of a file are in ``folder`` already, whole or not."""
    path = folder / plain_name(file.name)
    for candidate in (path, _partial(path, file)):
        if candidate.is_file():
            return candidate.stat().st_size
    return 0


def _partial(path: Path, file: HubFile) -> Path:
    """Named after the content, so that bytes of two revisions are never joined."""
    digest = file.sha256 or file.git_sha1 or ""
    return path.with_name(f"{path.name}.{digest[:12]}.incomplete")


def _receive(
    repository: HubRepository,
    file: HubFile,
    partial: Path,
    listener: ByteListener,
    waiting: Callable[[str], None] | None,
) -> None:
    """Fill ``partial`` up to the file's size, through as many connections as it takes."""
    url = file_url(repository.repository, repository.kind, repository.revision, file.name)
    try:
        with partial.open("ab") as out:
            if out.tell() > file.size:
                raise _NotTheFileError
            listener(out.tell())
            patience = Patience(waiting, lambda: listener(out.tell()))
            while out.tell() < file.size:
                try:
                    _receive_once(url, out, file.size, listener, patience)
                except HUB_ERRORS as error:
                    if status_of(error) == _RANGE_NOT_SATISFIABLE:
                        raise _NotTheFileError from None
                    failure = explained(error, repository.repository)
                    if not isinstance(failure, NetworkError):
                        raise failure from None
                    patience.wait(failure)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        free = shutil.disk_usage(partial.parent).free
        raise DiskFullError(
            f"no space left to download {file.name}: {file.size:,} bytes are needed, {free:,} are "
            f"free in {partial.parent}; make room and run the same command again to go on"
        ) from None


def _receive_once(
    url: str, out: BinaryIO, size: int, listener: ByteListener, patience: Patience
) -> None:
    with open_stream(url, first=out.tell()) as response:
        if not _continues(response, out.tell()):
            out.truncate(0)  # the server sends the whole file; in append mode the end is the place
            out.seek(0)
        before = out.tell()
        for piece in response.iter_bytes():
            if out.tell() + len(piece) > size:
                raise _NotTheFileError
            out.write(piece)
            patience.progress()
            listener(out.tell())
    if out.tell() == before:
        raise _NotTheFileError  # it ended well, and too early: there is no more of it


def _continues(response: Any, start: int) -> bool:
    """Whether the body is the file from ``start`` on."""
    if start == 0 or response.status_code != 206:
        return start == 0
    return bool(response.headers.get("Content-Range", "").startswith(f"bytes {start}-"))


def unheard(done: int) -> None:
    """The listener of small files, which come at once."""


def matches(path: Path, file: HubFile, listener: ByteListener) -> bool:
    """Whether a file's size and hash are those of the listing; gigabytes take seconds, through
    which the listener hears the size."""
    if path.stat().st_size != file.size:
        return False
    # git hashes a header along with the content
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {file.size}\0".encode())
    with path.open("rb") as content:
        while piece := content.read(_PIECE):
            digest.update(piece)
            listener(file.size)
    return digest.hexdigest() == (file.sha256 or file.git_sha1)
