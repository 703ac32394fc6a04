"""What a compression has finished so far: one synced JSON line per layer.

The first line is the job's fingerprint (recipe, source, calibration); each further line is one
finished layer. A line that a crash cut short does not count.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UsageError
from engine.manifest import FileRecord, LayerRecord
from engine.protocol import from_dict


@dataclass(frozen=True)
class Entry:
    """A finished layer: what is known of it and what its file must be."""

    record: LayerRecord
    file: FileRecord


class Journal:
    """The entries of one job; ``entries[l]`` is layer l."""

    def __init__(self, path: Path, entries: list[Entry]) -> None:
        self._path = path
        self.entries = entries

    @classmethod
    def begin(cls, path: Path, fingerprint: str) -> "Journal":
        """Start a new one. Overwrites."""
        path.write_text("", encoding="utf-8")
        journal = cls(path, [])
        journal._write_line({"fingerprint": fingerprint})
        return journal

    @classmethod
    def resume(cls, path: Path, fingerprint: str) -> "Journal":
        """Continue the one at ``path``.

        Raises UsageError when it belongs to another job.
        """
        lines, length = _whole_lines(path)
        if not lines or lines[0].get("fingerprint") != fingerprint:
            raise UsageError(
                f"{path.parent} holds an unfinished compression with other options or another "
                "source: repeat those, or discard it with --restart"
            )
        os.truncate(path, length)
        entries = [
            Entry(from_dict(LayerRecord, line["record"]), from_dict(FileRecord, line["file"]))
            for line in lines[1:]
        ]
        return cls(path, entries)

    def append(self, entry: Entry) -> None:
        """Add the next layer; on the disk when this returns."""
        self._write_line(dataclasses.asdict(entry))
        self.entries.append(entry)

    def _write_line(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines up to the first that is not whole, and the bytes they take."""
    lines, length = [], 0
    for text in path.read_bytes().split(b"\n")[:-1]:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
        length += len(text) + 1
    return lines, length
