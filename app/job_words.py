"""What a compression asks of the network and the disk, said before it starts."""

import shutil
from pathlib import Path

from app import models
from app.sources import SourceChoice
from app.units import size
from engine.budget import DeviceKind
from engine.manifest import is_compressed


def job_words(source: SourceChoice, bits: float, kind: DeviceKind) -> list[str]:
    """A line each, none where there is nothing to do or to fear: the result is here, or small."""
    folder = source.folder(bits)
    if is_compressed(folder):
        return [f"{models.display_name(folder)} is here already: Enter opens it."]
    need, free = source.disk_bytes(bits, kind), free_disk(folder)
    lines = []
    if source.build:
        lines.append(f"Downloads {size(source.download_bytes)} from {source.build.repository}.")
    elif source.download_bytes:
        lines.append(
            f"Reads about {size(source.download_bytes)} from the hub, file by file, and keeps none."
        )
    if need > free:
        lines.append(f"✕ Needs up to {size(need)} of disk while it works; {size(free)} are free.")
    elif source.name != models.DEMO:
        lines.append(f"Needs up to {size(need)} of disk while it works, of {size(free)} free.")
    if source.build is None and source.name != models.DEMO:
        lines.append(_hours_words(source, kind))
    return lines


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
