import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import cli, paths, progress_line
from tests.checkpoints_for_tests import write_tiny_checkpoint
from tests.commands_for_tests import Command, Result
from tests.ui import end_jobs


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh place for models, chats, logs and settings; no compression outlives it."""
    monkeypatch.setenv("MC_CHAT_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    end_jobs()


@pytest.fixture
def mc_chat(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command in this process, on fresh folders, without a terminal."""

    def run(*words: str | Path, stdin: str = "") -> Result:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress that is no terminal's is told step by step, not every ten seconds."""
    monkeypatch.setattr(progress_line, "PLAIN_SECONDS", 0.0)


@pytest.fixture
def tiny(home: Path) -> Path:
    """A tiny compressed model, installed."""
    folder = paths.models_dir() / "tiny"
    write_tiny_checkpoint(folder)
    return folder
