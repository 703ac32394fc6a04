"""What a compression asks of the network and the disk, said before it starts."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from app import models
from app.sources import SourceChoice
from app.units import size
from compress.projection import NETWORK_BYTES_PER_SECOND
from engine.budget import DeviceKind
from engine.manifest import is_compressed


@dataclass(frozen=True)
class Needs:
    """What a job takes, in bytes: what it downloads and how often, the disk at its peak, of how
    much that is free, and how much more of it would make it one download."""

    download_bytes: int
    downloads: int
    disk_bytes: int
    free_disk_bytes: int
    missing_disk_bytes: int


def needs(source: SourceChoice, bits: float, kind: DeviceKind) -> Needs:
    """Of a job of this width on such a device. It goes through an original twice, which stays in
    between where the disk has room."""
    free = free_disk(source.folder(bits))
    once, missing = source.download_bytes, source.missing_disk(bits, kind, free)
    downloads = 0 if not once else 2 if missing else 1
    disk = source.disk_bytes(bits, kind, "streamed" if missing else "held")
    return Needs(once, downloads, disk, free, missing)


def job_words(source: SourceChoice, bits: float, kind: DeviceKind) -> list[str]:
    """What Enter does on a size: opens the result if it is here, else what `needs_words` says."""
    folder = source.folder(bits)
    if is_compressed(folder):
        return [f"{models.display_name(folder)} is here already: Enter opens it."]
    return needs_words(source, bits, kind)


def needs_words(source: SourceChoice, bits: float, kind: DeviceKind) -> list[str]:
    """A line each for network, disk and time, none where there is nothing to fear."""
    needed = needs(source, bits, kind)
    lines = [_download_words(source, needed)] if needed.downloads else []
    disk, free = size(needed.disk_bytes), size(needed.free_disk_bytes)
    if needed.disk_bytes > needed.free_disk_bytes:
        lines.append(f"✕ Needs up to {disk} of disk while it works; {free} are free.")
    elif source.name != models.DEMO:
        lines.append(f"Needs up to {disk} of disk while it works, of {free} free.")
    if source.build is None and source.name != models.DEMO:
        lines.append(_hours_words(source, kind))
    return lines


def _download_words(source: SourceChoice, needed: Needs) -> str:
    once = size(needed.download_bytes)
    if source.build:
        return f"Downloads {once} from {source.build.repository}."
    if not needed.missing_disk_bytes:
        return f"Downloads about {once} from the hub, and keeps none of it."
    hours = needed.download_bytes / NETWORK_BYTES_PER_SECOND / 3600
    return (
        f"Downloads about {once} from the hub twice, {hours:.1f} hours more at 100 Mbit/s: with "
        f"{size(needed.missing_disk_bytes)} more of free disk it would be once."
    )


def _hours_words(source: SourceChoice, kind: DeviceKind) -> str:
    if kind != "cpu":
        return "The job first measures the device and says how many hours it will take."
    hours = source.typical_hours()
    about = f"{hours:.0f} hours" if hours >= 1.5 else f"{max(1, round(60 * hours))} minutes"
    return (
        f"About {about} on two cores of an AMD EPYC with AVX-512; the job first measures this "
        "machine."
    )


def free_disk(folder: Path) -> int:
    """Bytes free where ``folder`` will be."""
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free
