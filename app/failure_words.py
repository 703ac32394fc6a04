"""Why a job failed, and the next smaller thing that could be chosen instead."""

from dataclasses import dataclass

from app.units import size
from compress.progress import JobFailed

OFFLINE = "R goes on from there. The demo, and originals in a folder, need no network."


@dataclass(frozen=True)
class Ways:
    """What else the one who started a compression could choose: fewer bits, None where there are
    none, the bytes of disk that these save, and another device, empty where there is none."""

    fewer_bits: float | None = None
    saved_disk_bytes: int = 0
    other_device: str = ""


def failure_words(failed: JobFailed, ways: Ways) -> str:
    """The reason, and below it what could be done, where that is known."""
    way = _way(failed.kind, ways)
    return f"✕ {failed.message}" + (f"\n{way}" if way else "")


def _way(kind: str, ways: Ways) -> str:
    if kind == "NetworkError":
        return OFFLINE
    if kind == "DiskFullError":
        if ways.fewer_bits is None:
            return "R goes on once there is room."
        return (
            f"R goes on once there is room. The next smaller choice, {ways.fewer_bits:g} bits, "
            f"needs {size(ways.saved_disk_bytes)} less: Esc, then choose it."
        )
    if kind == "DoesNotFitError":
        # Experts are tried at all widths, so the work is as large for any choice of bits.
        other = f", or Esc, and D plans for {ways.other_device}" if ways.other_device else ""
        return f"Fewer bits would take as much: R tries again once memory is free{other}."
    return ""
