"""Logs: appended to, and never more than three files of each."""

from pathlib import Path

import pytest

from app import logs
from app.logs import open_log


def write(path: Path, text: str) -> None:
    with open_log(path) as log:
        log.write(text.encode())


def test_a_full_log_becomes_an_older_one_and_the_oldest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES", 4)
    path = tmp_path / "logs" / "engine.log"
    for text in ("ab", "cd", "efghi", "second", "third", "fourth"):
        write(path, text)
    found = {file.name: file.read_text() for file in path.parent.iterdir()}
    assert found == {"engine.log": "fourth", "engine.log.1": "third", "engine.log.2": "second"}


def test_who_has_it_open_goes_on_in_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES", 0)
    path = tmp_path / "engine.log"
    with open_log(path) as first:
        first.write(b"one")
        first.flush()
        write(path, "two")
        first.write(b" more")
    assert (tmp_path / "engine.log.1").read_text() == "one more"
    assert path.read_text() == "two"
