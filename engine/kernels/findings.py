"""What was measured on this machine, kept on disk for as long as it holds."""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from engine.integrity import cache_dir
from engine.json_file import read_json

_log = logging.getLogger(__name__)


class Findings:
    """What was found, by name. ``path``: where it is kept; ``made_for`` says what it holds for: a
    device, versions. Values are what JSON can hold, and whoever reads one has to check it."""

    def __init__(self, path: Path, made_for: dict[str, str]) -> None:
        """Reads what was kept, nothing if the file is absent, damaged, or of something else."""
        self._path = path
        self._made_for = made_for
        self._found = _read(path, made_for)

    @classmethod
    def of(cls, kind: str, made_for: dict[str, str]) -> "Findings":
        """Those of one ``kind`` in the user's cache folder."""
        name = hashlib.sha256(json.dumps(made_for).encode()).hexdigest()[:16]
        return cls(cache_dir() / kind / f"{name}.json", made_for)

    def get(self, name: str) -> Any:
        """What was found, None for nothing yet."""
        return self._found.get(name)

    def all(self) -> dict[str, Any]:
        """Everything by name."""
        return dict(self._found)

    def keep(self, name: str, value: Any) -> None:
        """From now on ``value``; a folder that cannot be written costs another measurement."""
        self._found[name] = value
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(f".{os.getpid()}")
            text = json.dumps({"made_for": self._made_for, "found": self._found})
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self._path)
        except OSError as error:
            _log.warning("kernels will be tried again at the next load: %s", error)


def _read(path: Path, made_for: dict[str, str]) -> dict[str, Any]:
    try:
        kept = read_json(path)
        if kept["made_for"] == made_for and isinstance(kept["found"], dict):
            return dict(kept["found"])
    except (OSError, ValueError, TypeError, LookupError):
        pass
    return {}
