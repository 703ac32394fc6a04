"""What tests of whole compressions share."""

from pathlib import Path

import pytest

from compress.pipeline import CompressJob, compress
from engine.errors import McChatError


def quiet(*unused: object) -> None:
    """Nobody listens."""


def contents(folder: Path) -> dict[str, bytes]:
    """All files, by their names."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def complaint(job: CompressJob, kind: type[McChatError]) -> str:
    """The one line that a job fails with."""
    with pytest.raises(kind) as caught:
        compress(job, quiet)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    return message
