from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh place for models, chats, logs and settings."""
    monkeypatch.setenv("MC_CHAT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
