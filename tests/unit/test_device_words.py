"""What is said of a device's memory."""

import pytest

from app.device_words import memory_words
from engine.budget import CUDA_CONTEXT_BYTES
from engine.protocol import Device

GB = 10**9


def device(free: int, **more: object) -> Device:
    facts = {"name": "Card", "kind": "cuda", "id": "cuda:0", "total_bytes": 24 * GB, **more}
    return Device(free_bytes=free, **facts)


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (device(24 * GB - CUDA_CONTEXT_BYTES), "23.5 GB free of 24.0 GB"),
        (device(22 * GB + GB // 2), "22.5 GB free of 24.0 GB"),
        (
            device(14 * GB - CUDA_CONTEXT_BYTES),
            "13.5 GB free of 24.0 GB, other programs hold 10.0 GB",
        ),
        (device(4 * GB, kind="cpu", id="cpu"), "4.00 GB free of 24.0 GB"),
        (device(4 * GB, integrated=True), "4.00 GB free of 24.0 GB"),
        (device(0, total_bytes=0), "memory unknown"),
        (device(9 * GB, problem="too old"), "✕ too old"),
    ],
)
def test_memory_in_words(shown: Device, words: str) -> None:
    assert memory_words(shown) == words
