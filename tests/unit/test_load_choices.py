"""Remembered devices and contexts."""

from pathlib import Path

import pytest

from app import paths
from app.load_choices import LoadChoice, recall, remember

MODEL, OTHER = Path("/models/one"), Path("/models/two")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.HOME_VARIABLE, str(tmp_path))


def test_each_model_keeps_its_last_choice() -> None:
    assert recall(MODEL) is None
    remember(MODEL, LoadChoice("cpu", 4096))
    remember(OTHER, LoadChoice("cuda:1", None, force=True))
    remember(MODEL, LoadChoice("cuda:0", 8192))
    assert recall(MODEL) == LoadChoice("cuda:0", 8192, False)
    assert recall(OTHER) == LoadChoice("cuda:1", None, True)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"/models/one": 3}',
        '{"/models/one": {"device": 3}}',
        '{"/models/one": {"gpu": "cpu"}}',
    ],
)
def test_what_cannot_be_read_is_not_remembered_and_can_be_written_over(text: str) -> None:
    paths.load_choices_file().write_text(text)
    assert recall(MODEL) is None
    remember(MODEL, LoadChoice("cpu"))
    assert recall(MODEL) == LoadChoice("cpu")
