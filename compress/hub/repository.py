"""What a repository holds, at one commit: names, sizes and hashes of its files."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from huggingface_hub import HfApi
from huggingface_hub.hf_api import ModelInfo

from compress.hub.connection import (
    HUB_ERRORS,
    TIMEOUT,
    Patience,
    RepositoryKind,
    explained,
    file_url,
    open_stream,
    require_online,
)
from engine.errors import HubError, NetworkError, ProtocolError
from engine.integrity import cache_dir
from engine.protocol import from_dict

_LISTING = "repository.json"
_MOST_OF_CONFIG = 1 << 20


@dataclass(frozen=True)
class HubFile:
    """One file: ``size`` in bytes; ``sha256`` of what is stored beside git (LFS), None for small
    files, which have git's own ``git_sha1`` of their content."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None = None


@dataclass(frozen=True)
class HubRepository:
    """``repository`` is its name, ``revision`` a commit. ``offline``: make no connection for it."""

    repository: str
    revision: str
    files: tuple[HubFile, ...]
    kind: RepositoryKind = "model"
    offline: bool = False

    def file(self, name: str) -> HubFile:
        """The file of that name. Raises HubError."""
        for file in self.files:
            if file.name == name:
                return file
        raise HubError(f"{self.repository} has no {name}: it is not what it was taken for")

    def has(self, name: str) -> bool:
        """Whether it has a file of that name."""
        return any(file.name == name for file in self.files)


def is_repository_name(text: str) -> bool:
    """Whether a word looks like `owner/name` and not like a path."""
    owner, slash, name = text.partition("/")
    return bool(slash and owner and name) and "/" not in name and owner[0] not in ".~"


def list_repository(name: str, revision: str | None = None, offline: bool = False) -> HubRepository:
    """Ask the hub what a model's repository holds; ``revision`` None: the newest commit.

    Raises NetworkError, and HubError when it is missing, gated, or the token is refused.
    """
    require_online(offline, name)
    patience = Patience()
    while True:
        try:
            info = HfApi().model_info(
                name,
                revision=revision,
                files_metadata=True,
                timeout=TIMEOUT,  # type: ignore[arg-type]
            )
            return _listing(name, info)
        except HUB_ERRORS as error:
            failure = explained(error, name)
            if not isinstance(failure, NetworkError):
                raise failure from None
            patience.wait(failure)


def _listing(name: str, info: ModelInfo) -> HubRepository:
    files = tuple(
        HubFile(
            name=sibling.rfilename,
            size=sibling.size or 0,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            git_sha1=None if sibling.lfs else sibling.blob_id,
        )
        for sibling in info.siblings or ()
    )
    if not info.sha:
        raise HubError(f"the hub names no commit of {name}: try again later")
    return HubRepository(name, info.sha, files)


def open_repository(
    name: str, folder: Path, revision: str | None = None, offline: bool = False
) -> HubRepository:
    """As `list_repository`, remembered in ``folder``, which belongs to one job.

    The job's later runs see the same commit even if the hub has a newer one, and need no network
    for what has been downloaded. Raises NetworkError, HubError.
    """
    path = folder / _LISTING
    known = _remembered(path)
    if known and known.repository == name and revision in (None, known.revision):
        return dataclasses.replace(known, offline=offline)
    listing = list_repository(name, revision, offline)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(dataclasses.asdict(listing)), encoding="utf-8")
    os.replace(temporary, path)
    return listing


def forget_repository(folder: Path) -> None:
    """Remove what `open_repository` remembered in ``folder``."""
    (folder / _LISTING).unlink(missing_ok=True)


def _remembered(path: Path) -> HubRepository | None:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        files = tuple(from_dict(HubFile, file) for file in raw.pop("files"))
        return HubRepository(files=files, **raw)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ProtocolError):
        return None  # absent or damaged: ask again


def plain_name(name: str) -> str:
    """The name of a file right inside a folder. Raises HubError for one that leads elsewhere.

    Names come from the hub and from manifests of strangers: no folder, no drive, nothing hidden.
    """
    parts = (PurePosixPath(name).name, PureWindowsPath(name).name)
    odd = name.startswith(".") or not name.isprintable() or ":" in name
    if not name or odd or any(part != name for part in parts):
        raise HubError(f"{name!r} is no plain file name: do not trust this repository")
    return name


def fetch_config(name: str, folder: Path | None = None, offline: bool = False) -> Path:
    """The config.json of a repository's newest commit, kept in a folder of its own in ``folder``,
    None: the user's cache.

    One try and no patience: whoever asks is waiting at a prompt. Without a network the copy of an
    earlier time does. Raises NetworkError, HubError.
    """
    owner, _, model = name.partition("/")
    path = (
        (folder or cache_dir())
        / "configs"
        / f"{plain_name(owner)}--{plain_name(model)}"
        / "config.json"
    )
    try:
        require_online(offline, f"the config.json of {name}")
        try:
            content = _small_file(name, "config.json", _MOST_OF_CONFIG)
        except HUB_ERRORS as error:
            raise explained(error, name) from None
    except NetworkError:
        if path.is_file():
            return path
        raise
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"config.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
    return path


def _small_file(repository: str, name: str, most: int) -> bytes:
    content = bytearray()
    with open_stream(file_url(repository, "model", "main", name)) as response:
        for piece in response.iter_bytes():
            content += piece
            if len(content) > most:
                raise HubError(f"the {name} of {repository} is larger than {most} bytes")
    return bytes(content)
