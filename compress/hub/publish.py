"""Uploads a compressed checkpoint with a model card, in one commit at the end.

What the hub has already, by its hash, is not sent again: neither files of an earlier publishing
nor those that an interrupted one had uploaded.
"""

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

from compress.companions import COMPANIONS
from compress.hub.card import model_card
from compress.hub.connection import HUB_ERRORS, explained, require_online
from compress.hub.download import matches, unheard
from compress.hub.meter import Meter
from compress.hub.repository import HubRepository, list_repository
from compress.progress import Transfer, TransferListener
from engine.errors import HubError, McChatError
from engine.manifest import MANIFEST_NAME, Manifest, open_manifest, verify_hashes

Result = TypeVar("Result")

_CARD = "README.md"


@dataclass(frozen=True)
class Published:
    """Where a checkpoint is on the hub; ``uploaded`` names the files that were new there."""

    repository: str
    url: str
    revision: str
    uploaded: tuple[str, ...]


def publish(folder: Path, name: str, private: bool, listener: TransferListener) -> Published:
    """Upload the checkpoint in ``folder`` to the repository ``name``, which is made if need be.

    Every byte is verified first. The listener hears of the bytes and may raise Interrupted: a
    later call goes on behind the last whole file. Raises CheckpointError, HubError, NetworkError.
    """
    require_online(False, name)
    if get_token() is None:
        raise HubError(
            "nobody is logged in to the hub: log in with `hf auth login`, or set HF_TOKEN"
        )
    # One line of ours instead of one per retry, and instead of bars.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    disable_progress_bars()
    manifest = open_manifest(folder)
    verify_hashes(folder, manifest, lambda file: listener(_verifying(file)))
    _ask(name, lambda: _create(name, private))
    new = _new_files(folder, manifest, list_repository(name))
    operations = _upload(name, new, listener)
    card = CommitOperationAdd(_CARD, model_card(manifest, name).encode())
    message = f"{manifest.name}: {manifest.nominal_bits:g} bits, by mc-chat"
    commit = _ask(
        name,
        lambda: HfApi().create_commit(name, [*operations, card], commit_message=message),
    )
    uploaded = tuple(path.name for path in new)
    return Published(name, f"{HfApi().endpoint}/{name}", commit.oid, uploaded)


def _verifying(file: str) -> Transfer:
    return Transfer(file, 0, 0, 0.0, None, f"reading {file}")


def _create(name: str, private: bool) -> None:
    """Make the repository. One that exists stays as visible as it is, so that is looked at."""
    HfApi().create_repo(name, private=private, exist_ok=True)
    if private and not HfApi().model_info(name).private:
        raise HubError(
            f"{name} exists and is public, and --private was asked for: choose another name, or "
            "make it private on the hub first"
        )


def _new_files(folder: Path, manifest: Manifest, there: HubRepository) -> list[Path]:
    """The files of the checkpoint that the repository lacks or has with another content."""
    companions = [name for name in COMPANIONS if (folder / name).is_file()]
    names = dict.fromkeys([*manifest.files, *companions, MANIFEST_NAME])
    return [
        folder / name
        for name in names
        if not (there.has(name) and matches(folder / name, there.file(name), unheard))
    ]


def _upload(name: str, paths: list[Path], listener: TransferListener) -> list[CommitOperationAdd]:
    """Send the files that are stored beside git; the small ones go with the commit."""
    sizes = [path.stat().st_size for path in paths]
    meter = Meter(sum(sizes))
    operations, done = [], 0
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True), start=1):
        note = f"uploading {path.name}, file {number} of {len(paths)}"

        def hear(read: int, path: Path = path, note: str = note, before: int = done) -> None:
            meter.update(before + read)
            speed, eta = meter.bytes_per_second, meter.eta_seconds
            listener(Transfer(path.name, meter.done, meter.total, speed, eta, note))

        hear(0)
        operation = CommitOperationAdd(path.name, str(path))
        _ask(name, partial(_send, name, operation, path, hear))
        operations.append(operation)
        done += size
    return operations


def _send(
    name: str, operation: CommitOperationAdd, path: Path, listener: Callable[[int], None]
) -> None:
    """The client takes an open file, and then sends it over plain HTTP: through xet it would tell
    of its bytes to its own progress bars only."""
    with _HeardFile(path, listener) as file:
        operation.path_or_fileobj = file
        HfApi().preupload_lfs_files(name, [operation], num_threads=1, free_memory=False)
    operation.path_or_fileobj = str(path)


class _HeardFile(io.BufferedReader):
    """``listener`` hears how many of its bytes have been read; after a failure fewer again."""

    def __init__(self, path: Path, listener: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path))
        self._listener = listener

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._listener(self.tell())
        return data


def _ask(name: str, request: Callable[[], Result]) -> Result:
    """Do something on the hub, its failures in our words."""
    try:
        return request()
    except HUB_ERRORS as error:
        raise explained(error, name) from None
    except (RuntimeError, ValueError, OSError) as error:
        # The upload wraps what went wrong.
        if isinstance(error.__cause__, McChatError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, HUB_ERRORS):
            raise explained(error.__cause__, name) from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise HubError(
            f"uploading to {name} failed ({reason}): run the same command again to go on"
        ) from None
