"""Where the streams of a compression go, and what is said when nothing fits."""

from dataclasses import replace

import pytest
import torch

from compress import placement, projection
from compress.placement import check_memory, choose_placement, say_when_out_of_memory
from engine.config import MIXTRAL_8X7B
from engine.errors import DoesNotFitError
from engine.protocol import Device

TOKENS = 128 * 2048
STREAMS = projection.STREAMS * projection.stream_bytes(TOKENS, MIXTRAL_8X7B.hidden_size)
WORK = projection.work_bytes(MIXTRAL_8X7B, 3)
WORK_ON_HOST = projection.work_bytes(MIXTRAL_8X7B, 3, packed=projection.packed_bytes(MIXTRAL_8X7B))
GPU = Device("a card", "cuda", "cuda:0", 24 * 10**9, 24 * 10**9)
HOST = Device("a host", "cpu", "cpu", 32 * 10**9, 30 * 10**9)


@pytest.fixture(autouse=True)
def fast_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.products, "has_fast_bfloat16", lambda device: True)


def placed(monkeypatch: pytest.MonkeyPatch, device: Device, host_free: int) -> str:
    host = replace(HOST, free_bytes=host_free)
    monkeypatch.setattr(placement.devices, "cpu_device", lambda: host)
    return choose_placement(MIXTRAL_8X7B, TOKENS, 3, device)


def test_streams_go_to_the_nearest_place_with_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert placed(monkeypatch, GPU, HOST.free_bytes) == "device"
    busy = replace(GPU, free_bytes=STREAMS + WORK - 1)
    assert placed(monkeypatch, busy, STREAMS) == "host"
    assert placed(monkeypatch, busy, STREAMS - 1) == "disk"
    assert WORK_ON_HOST > WORK
    assert placed(monkeypatch, HOST, STREAMS + WORK_ON_HOST) == "host"
    assert placed(monkeypatch, HOST, STREAMS + WORK_ON_HOST - 1) == "disk"


def test_the_paper_s_calibration_fits_a_3090() -> None:
    """As the README says of one 24 GB card, by prediction."""
    assert projection.device_bytes(MIXTRAL_8X7B, TOKENS) < 0.5 * GPU.total_bytes
    assert projection.host_bytes(MIXTRAL_8X7B, TOKENS, "cuda") < 32 * 10**9
    experts = projection.expert_bytes(MIXTRAL_8X7B, 2.5, 128, rotated=True)
    download = projection.Download(total=93 * 10**9, largest=5 * 10**9)

    def disk(stay: projection.Stay) -> int:
        return projection.disk_bytes(MIXTRAL_8X7B, experts, 128, TOKENS, download, stay)

    assert disk("streamed") < 36 * 10**9
    assert disk("held") < 105 * 10**9
    assert disk("kept") < 120 * 10**9


def test_shards_that_are_held_go_while_the_result_grows() -> None:
    """The peak against a count, layer by layer, of what is there: four layers on eight shards."""
    for result in (8, 40, 80):
        download = projection.Download(total=80, largest=10)
        there = [80 - 20 * layer + result * (layer + 1) // 4 for layer in range(4)]
        assert max(there) <= download.beside(result, "held") <= max(80, result) + 20
    assert projection.Download().beside(5, "held") == 5
    assert projection.Download(total=10, largest=10).beside(5, "streamed") == 15


def test_experts_in_float32_take_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exact expert and those at two widths, while the third is made: gate and up twice."""
    weights = 3 * 4096 * 14336
    wide = projection.work_bytes(MIXTRAL_8X7B, 3, element=4)
    assert wide >= 3 * 4 * weights + 3 * weights + 2 * 4 * weights * 2 // 3
    assert placed(monkeypatch, HOST, STREAMS + WORK_ON_HOST) == "host"
    monkeypatch.setattr(placement.products, "has_fast_bfloat16", lambda device: False)
    assert placed(monkeypatch, HOST, STREAMS + WORK_ON_HOST) == "disk"
    narrow = replace(MIXTRAL_8X7B, hidden_size=512)
    assert placement.element_bytes(narrow, "cuda") == 4


def test_too_little_memory_is_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    check_memory(MIXTRAL_8X7B, 3, GPU)
    with pytest.raises(DoesNotFitError, match="--device cpu"):
        check_memory(MIXTRAL_8X7B, 3, replace(GPU, free_bytes=10**9))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_running_out_of_memory_is_one_line(error: RuntimeError) -> None:
    with pytest.raises(DoesNotFitError, match="run again to go on"), say_when_out_of_memory():
        raise error
    with pytest.raises(RuntimeError, match="else"), say_when_out_of_memory():
        raise RuntimeError("something else")
