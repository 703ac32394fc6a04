"""What can be compressed, and what it asks of the network and the disk."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from app import job_words, sources
from app.units import size
from assets import DEMO_DIR
from compress.calibration import calibration_size
from compress.source import Source, open_folder
from engine import budget
from engine.budget import DeviceKind
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
    needed = mixtral.disk_bytes(2.5, "cuda")
    assert result + 10 * GB < needed < 40 * GB
    assert mixtral.disk_bytes(2.5, "cpu") < needed - 8 * GB
    held = mixtral.disk_bytes(2.5, "cuda", "held")
    assert mixtral.download_bytes + 8.6 * GB < held < mixtral.download_bytes + 12 * GB
    assert sources.named(sources.MIXTRAL_REPOSITORY) == mixtral


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_disk_is_counted_for_the_tokens_that_a_job_calibrates_on(kind: DeviceKind) -> None:
    narrow = replace(MIXTRAL_8X7B, hidden_size=512, max_context=256)
    for choice in (sources.mixtral(), replace(sources.unnamed(), config=narrow)):
        source = SimpleNamespace(config=choice.config, folder=Path("/nowhere"))
        size = calibration_size(cast(Source, source), None, None, kind)
        assert choice.calibration(kind) == (size.samples, size.window)
    size = calibration_size(open_folder(DEMO_DIR), None, None, kind)
    assert sources.demo().calibration(kind) == (size.samples, size.window)


def test_the_hours_grow_with_what_is_computed() -> None:
    """benchmarks/results/compress_layer.md measured 5.4 hours for this model and machine."""
    assert 4 < sources.mixtral().typical_hours() < 11
    half = replace(sources.mixtral(), config=replace(MIXTRAL_8X7B, num_layers=16))
    assert half.typical_hours() == pytest.approx(sources.mixtral().typical_hours() / 2)


def test_what_is_said_before_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_CHAT_HOME", str(tmp_path))
    mixtral = sources.mixtral()
    held, streamed = (mixtral.disk_bytes(2.5, "cuda", stay) for stay in ("held", "streamed"))

    def said(free: int) -> list[str]:
        monkeypatch.setattr(job_words, "free_disk", lambda folder: free)
        return job_words.job_words(mixtral, 2.5, "cuda")

    least = -(-held * 10 // 9)
    download, disk, hours = said(least)
    assert download == "Downloads about 93.4 GB from the hub, and keeps none of it."
    assert disk == f"Needs up to {size(held)} of disk while it works, of {size(least)} free."
    download, disk, hours = said(least - 5 * GB)
    assert "93.4 GB from the hub twice, 2.1 hours more at 100 Mbit/s: with 5.00 GB more" in download
    assert f"up to {size(streamed)} of disk while it works, of" in disk
    download, disk, hours = said(20 * GB)
    assert "measures the device" in hours
    hours = job_words.job_words(sources.mixtral(), 2.5, "cpu")[-1]
    assert f"About {sources.mixtral().typical_hours():.0f} hours on two cores" in hours
    assert disk.startswith("✕ Needs up to")
    assert job_words.job_words(sources.demo(), 2.5, "cpu") == []
    folder = sources.mixtral().folder(2.5)
    folder.mkdir(parents=True)
    (folder / "mc.json").write_text("{}")
    (line,) = job_words.job_words(sources.mixtral(), 2.5, "cpu")
    assert "is here already" in line
