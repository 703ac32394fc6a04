"""What a compression has finished so far: one synced JSON line per step.

The first line is the job's fingerprint (recipe, source, calibration). Where the bits are spread
over all layers at once, the scores of each layer follow; then each finished layer. A line that a
crash cut short does not count.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.allocation.scores import LayerScores
from engine.errors import CheckpointError, UsageError
from engine.manifest import FileRecord, LayerRecord
from engine.protocol import from_dict


@dataclass(frozen=True)
class Entry:
    """A finished layer: what is known of it, what its file must be, and how far the stream behind
    it is from the original's, None where that was not carried along (`engine.quality`)."""

    record: LayerRecord
    file: FileRecord
    stream_error: float | None = None


class Journal:
    """The steps of one job: ``scores[l]`` and ``entries[l]`` are of layer l."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.scores: list[LayerScores] = []
        self.entries: list[Entry] = []

    def open(self, fingerprint: str) -> None:
        """Read what is there, or begin a new journal.

        Raises UsageError when it belongs to another job, CheckpointError when it is damaged.
        """
        if not self._path.is_file():
            self._write_line({"fingerprint": fingerprint})
            return
        lines, length = _whole_lines(self._path)
        if not lines and b"\n" in self._path.read_bytes():
            raise self._damaged()
        if not lines:  # stopped within the first line
            os.truncate(self._path, 0)
            self._write_line({"fingerprint": fingerprint})
            return
        if lines[0].get("fingerprint") != fingerprint:
            raise UsageError(
                f"{self._path.parent} holds an unfinished compression with other options, another "
                "source or another calibration text: repeat those, or discard it with --restart"
            )
        os.truncate(self._path, length)
        try:
            for line in lines[1:]:
                self._take(line)
        except (KeyError, TypeError, AttributeError):
            raise self._damaged() from None

    def _damaged(self) -> CheckpointError:
        return CheckpointError(f"{self._path} is damaged: begin anew with --restart")

    def _take(self, line: dict[str, Any]) -> None:
        if "scores" in line:
            self.scores.append(from_dict(LayerScores, line["scores"]))
        else:
            self.entries.append(from_dict(Entry, line))

    def score(self, scores: LayerScores) -> None:
        """Add the next layer's scores; on the disk when this returns."""
        self._write_line({"scores": dataclasses.asdict(scores)})
        self.scores.append(scores)

    def use(self, scores: Sequence[LayerScores]) -> None:
        """Take scores that an earlier run has measured, where none are noted yet."""
        for layer in scores[len(self.scores) :]:
            self.score(layer)

    def finish(self, entry: Entry) -> None:
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
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict):
            break
        lines.append(line)
        length += len(text) + 1
    return lines, length
