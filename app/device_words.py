"""A device's memory in words, the same in the wizard, in `plan` and in `doctor`."""

from app.units import size
from engine.budget import CUDA_CONTEXT_BYTES
from engine.protocol import Device

_WORTH_TELLING = 0.05
"""Share of a card's memory that others may hold unmentioned: every desktop holds some."""


def memory_words(device: Device) -> str:
    """What is free of what, and who has the rest."""
    if device.problem:
        return f"✕ {device.problem}"
    if not device.memory_known:
        return "memory unknown"
    words = f"{size(device.free_bytes)} free of {size(device.total_bytes)}"
    others = held_by_others(device)
    if others > _WORTH_TELLING * device.total_bytes:
        words += f", other programs hold {size(others)}"
    return words


def held_by_others(device: Device) -> int:
    """Bytes of a card that other programs hold, about: what is not free, less our own context.

    0 where there is no telling: the host's memory holds cached files that it would give up.
    """
    if device.kind == "cpu" or device.integrated:
        return 0
    return max(0, device.total_bytes - device.free_bytes - CUDA_CONTEXT_BYTES)
