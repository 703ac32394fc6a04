"""Fetches a ready compressed checkpoint: what its mc.json names, each file with the hash there.

It grows in NAME.partial and gets its name when everything is whole, as a compression does. All
that comes from the hub is a stranger's: names lead nowhere but into the folder, and no file comes
along that a checkpoint does not have.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.companions import COMPANIONS
from compress.hub import verified
from compress.hub.download import download, held_bytes, unheard
from compress.hub.meter import Meter
from compress.hub.repository import HubFile, HubRepository, forget_repository, open_repository
from compress.locking import take
from compress.progress import Transfer, TransferListener
from engine.errors import DiskFullError, HubError, UsageError
from engine.manifest import (
    DENSE_FILE,
    MANIFEST_NAME,
    OTP_FILE,
    Manifest,
    layer_file,
    open_manifest,
    read_manifest,
)

_LOCK = "lock"
_COMPRESSION = "journal.jsonl"
_LARGEST_MANIFEST = 64 << 20


def pull(
    name: str,
    out: Path,
    listener: TransferListener,
    offline: bool = False,
    revision: str | None = None,
) -> Path:
    """Download the checkpoint ``name`` to the folder ``out``; returns it.

    ``revision`` None: the newest commit, or the one that an unfinished download began with.
    The listener hears of the whole transfer and may raise Interrupted: a later call goes on.
    Raises UsageError, HubError, NetworkError, DiskFullError, CheckpointError.
    """
    partial = out.with_name(out.name + ".partial")
    if (partial / _COMPRESSION).exists():
        raise UsageError(f"{partial} holds an unfinished compression: choose another --out")
    with _locked(partial, out):
        if out.exists():
            raise UsageError(f"{out} exists already: choose another --out, or remove it first")
        repository = open_repository(name, partial, revision, offline)
        _fetch_manifest(repository, partial)
        wanted = _wanted(repository, read_manifest(partial))
        _check_free(wanted, partial)
        _fetch_all(repository, wanted, partial, listener)
        open_manifest(partial)
        forget_repository(partial)
        verified.forget(partial)
        partial.rename(out)
        (out / _LOCK).unlink()
    return out


@contextmanager
def _locked(partial: Path, out: Path) -> Iterator[None]:
    """Hold the partial folder; raises UsageError when another program does."""
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / _LOCK).open("w") as lock:
        if not take(lock.fileno(), partial / _LOCK):
            raise UsageError(f"another program is writing {out}: wait for it, or stop it")
        try:
            yield
        finally:
            if partial.is_dir() and {path.name for path in partial.iterdir()} == {_LOCK}:
                shutil.rmtree(partial)  # nothing came: leave nothing


def _fetch_manifest(repository: HubRepository, folder: Path) -> None:
    if not repository.has(MANIFEST_NAME):
        raise HubError(
            f"{repository.repository} is no compressed model: it has no {MANIFEST_NAME}; an "
            f"original is compressed by `mc-chat compress {repository.repository}`"
        )
    file = repository.file(MANIFEST_NAME)
    if file.size > _LARGEST_MANIFEST:
        raise HubError(
            f"the {MANIFEST_NAME} of {repository.repository} has {file.size:,} bytes: that is no "
            "checkpoint of this program"
        )
    download(repository, file, folder, unheard)


def _wanted(repository: HubRepository, manifest: Manifest) -> list[HubFile]:
    """The files of a checkpoint, with the sizes and hashes of its manifest. Raises HubError."""
    weights = {layer_file(index) for index in range(len(manifest.layers))} | {DENSE_FILE}
    if manifest.otp is not None:
        weights.add(OTP_FILE)
    strange = set(manifest.files) - weights - set(COMPANIONS)
    missing = weights - set(manifest.files)
    if strange or missing:
        what = f"names {min(strange)!r}" if strange else f"does not list {min(missing)}"
        raise HubError(
            f"the {MANIFEST_NAME} of {repository.repository} {what}: it is no checkpoint of this "
            "program"
        )
    wanted = []
    for name, record in manifest.files.items():
        served = repository.file(name)
        if served.size != record.bytes or served.sha256 not in (None, record.sha256):
            raise HubError(
                f"{name} of {repository.repository} is not the file that its {MANIFEST_NAME} "
                "describes: ask its owner to publish it again"
            )
        wanted.append(HubFile(name, record.bytes, record.sha256))
    further = [name for name in COMPANIONS if name not in manifest.files and repository.has(name)]
    return wanted + [repository.file(name) for name in further]


def _check_free(wanted: list[HubFile], folder: Path) -> None:
    """Everything must fit before the first byte of it comes. Raises DiskFullError."""
    missing = sum(file.size - held_bytes(file, folder) for file in wanted)
    free = shutil.disk_usage(folder).free
    if free < missing:
        raise DiskFullError(
            f"the download into {folder.parent} needs {missing:,} more bytes and {free:,} are "
            "free: make room, or choose another --out"
        )


def _fetch_all(
    repository: HubRepository, wanted: list[HubFile], folder: Path, listener: TransferListener
) -> None:
    total = sum(file.size for file in wanted)
    meter = Meter(total, sum(held_bytes(file, folder) for file in wanted))
    for file in wanted:
        others = sum(held_bytes(other, folder) for other in wanted if other is not file)

        def tell(done: int, note: str, others: int = others, name: str = file.name) -> None:
            meter.update(others + done)
            speed, eta = meter.bytes_per_second, meter.eta_seconds
            listener(Transfer(name, meter.done, total, speed, eta, note))

        download(repository, file, folder, *_told(tell, file))


def _told(
    tell: Callable[[int, str], None], file: HubFile
) -> tuple[Callable[[int], None], Callable[[str], None]]:
    """`download`'s two listeners, joined into one: bytes and what is going on."""
    note = f"downloading {file.name}"
    last = 0

    def heard(done: int) -> None:
        nonlocal note, last
        if done != last:
            note = f"{'verifying' if done == file.size else 'downloading'} {file.name}"
        last = done
        tell(done, note)

    def waiting(text: str) -> None:
        nonlocal note
        note = text

    return heard, waiting
