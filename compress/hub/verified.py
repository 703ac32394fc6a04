"""Remembers which downloaded files have been hashed, so that a restart does not read them again.

One small JSON file beside them; losing it costs only another reading.
"""

import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress.hub.repository import HubFile

_NAME = "verified.json"
_lock = threading.Lock()


def knows(path: Path, file: "HubFile") -> bool:
    """Whether this very file was found to have the hash that ``file`` names."""
    with _lock:
        return _read(path.parent).get(path.name) == _entry(path, file)


def remember(path: Path, file: "HubFile") -> None:
    """Note that ``path`` has the hash that ``file`` names."""
    with _lock:
        known = _read(path.parent)
        entry = _entry(path, file)
        if known.get(path.name) == entry:
            return
        record = path.parent / _NAME
        temporary = record.with_suffix(".tmp")
        temporary.write_text(json.dumps(known | {path.name: entry}), encoding="utf-8")
        os.replace(temporary, record)


def forget(folder: Path) -> None:
    """Remove the notes on the files of ``folder``."""
    (folder / _NAME).unlink(missing_ok=True)


def _entry(path: Path, file: "HubFile") -> list[int | str | None]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, file.sha256 or file.git_sha1]


def _read(folder: Path) -> dict[str, list[int | str | None]]:
    try:
        raw = json.loads((folder / _NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}
