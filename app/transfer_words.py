"""A transfer in words: the same on the progress line and on the screen."""

from app import units
from compress.progress import Transfer


def transfer_words(transfer: Transfer) -> str:
    """Bytes, speed, time left, and what is going on."""
    parts = []
    if transfer.total:
        parts.append(f"{units.size(transfer.done)} of {units.size(transfer.total)}")
    if transfer.bytes_per_second:
        parts.append(f"{units.size(transfer.bytes_per_second)}/s")
    if transfer.eta_seconds is not None:
        parts.append(f"{units.clock(transfer.eta_seconds)} left")
    return ", ".join([*parts, transfer.message])
