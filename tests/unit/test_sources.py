"""What can be compressed, and what it asks of the network and the disk."""

from pathlib import Path

import pytest

from app import job_words, sources
from compress.calibration import CPU_SIZE, DEMO_SIZE, PAPER_SIZE
from engine import budget
from engine.config import MIXTRAL_8X7B

GB = 10**9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", True),
        ("name", False),
        ("/owner/name", False),
        ("./name", False),
        ("~/name", False),
        ("owner/", False),
        ("/name", False),
        ("a/b/c", False),
        ("", False),
    ],
)
def test_names_of_repositories(text: str, expected: bool) -> None:
    assert sources.is_repository(text) == expected


def test_a_folder_wins_over_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not sources.is_repository("owner/name")


def test_mixtral_comes_from_the_hub_and_fits_the_disk_that_was_promised() -> None:
    mixtral = sources.mixtral()
    assert mixtral.download_bytes / GB == pytest.approx(93.4, abs=0.05)
    result = budget.nominal_budget(MIXTRAL_8X7B, 2.5, 128, 8192, "cuda").weights
    needed = mixtral.disk_bytes(2.5)
    assert result + 10 * GB < needed < 40 * GB
    assert sources.named(sources.MIXTRAL_REPOSITORY) == mixtral


def test_no_job_calibrates_on_more_tokens_than_its_disk_is_counted_for() -> None:
    sizes = (PAPER_SIZE, CPU_SIZE, DEMO_SIZE)
    assert max(size.samples * size.window for size in sizes) == sources.MOST_CALIBRATION_TOKENS


def test_what_is_said_before_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_CHAT_HOME", str(tmp_path))
    monkeypatch.setattr(job_words, "free_disk", lambda folder: 20 * GB)
    download, disk = job_words.job_words(sources.mixtral(), 2.5)
    assert "93.4 GB from the hub" in download
    assert disk.startswith("✕ Needs up to")
    assert job_words.job_words(sources.demo(), 2.5) == []
    folder = sources.mixtral().folder(2.5)
    folder.mkdir(parents=True)
    (folder / "mc.json").write_text("{}")
    (line,) = job_words.job_words(sources.mixtral(), 2.5)
    assert "is here already" in line
