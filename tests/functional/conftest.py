from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ui import end_jobs


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh place for models, chats, logs and settings; no compression outlives it."""
    monkeypatch.setenv("MC_CHAT_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    end_jobs()
