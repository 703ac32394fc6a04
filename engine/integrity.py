"""Hashes of a checkpoint's files, read once per content and not at every load.

The first load of a checkpoint, and every load after a file's size or time has changed, compares
each file's SHA-256 with `mc.json`. What was found whole is remembered outside the checkpoint
(which may be read-only): one small JSON file per folder in the user's cache directory, or under
``$MC_CHAT_HOME/cache``. Deleting it only costs another reading.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import platformdirs

from engine.manifest import Manifest, verify_hashes

Record = dict[str, tuple[int, int, str]]
"""Per file: bytes, time of change in nanoseconds, SHA-256."""

_log = logging.getLogger(__name__)


def ensure_verified(folder: Path, manifest: Manifest, listener: Callable[[str], None]) -> None:
    """Verify the files' hashes unless these very files were verified before.

    ``listener`` hears the name of each file that has to be read. Raises CheckpointError.
    """
    path = _record_path(folder)
    current = _current(folder, manifest)
    if _read(path) == current:
        return
    verify_hashes(folder, manifest, listener)
    _write(path, current)


def _current(folder: Path, manifest: Manifest) -> Record:
    """The record as it would be if all files were whole."""
    record = {}
    for name, expected in manifest.files.items():
        status = (folder / name).stat()
        record[name] = (status.st_size, status.st_mtime_ns, expected.sha256)
    return record


def cache_dir() -> Path:
    """What can be had again at any time: verified hashes, configurations, calibration text."""
    home = os.environ.get("MC_CHAT_HOME")
    if home:
        return Path(home).expanduser() / "cache"
    return platformdirs.user_cache_path("mc-chat", appauthor=False)


def _record_path(folder: Path) -> Path:
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return cache_dir() / "verified" / f"{name}.json"


def _read(path: Path) -> Record | None:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {name: (entry[0], entry[1], entry[2]) for name, entry in raw.items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None  # absent or damaged: verify again


def _write(path: Path, record: Record) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(record), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        _log.warning("hashes will be checked again at the next load: %s", error)
