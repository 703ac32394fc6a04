"""Devices and free memory, read from faked systems."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from engine import devices
from engine.errors import DoesNotFitError, UsageError
from engine.protocol import Device

GIB = 2**30
GB = 10**9


def fake_proc(folder: Path, total: int, available: int, cgroup: str = "") -> Path:
    proc = folder / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(
        f"MemTotal: {total // 1024} kB\nMemFree: 7 kB\nMemAvailable: {available // 1024} kB\n"
    )
    (proc / "self" / "cgroup").write_text(cgroup)
    (proc / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 3000\n")
    return proc


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_free_memory_is_what_the_kernel_calls_available(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path, total=16 * GIB, available=9 * GIB)
    device = devices.cpu_device(proc, tmp_path / "none")
    assert (device.kind, device.id) == ("cpu", "cpu")
    assert (device.total_bytes, device.free_bytes, device.note) == (16 * GIB, 9 * GIB, "")
    assert device.name.startswith("Abacus 3000")


def test_a_container_of_version_2_limits_memory(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path, 16 * GIB, 9 * GIB, "0::/pod/box\n")
    groups = tmp_path / "cgroup"
    write(groups / "pod" / "box", memory__max="max", memory__current=GIB)
    write(
        groups / "pod",
        memory__max=4 * GIB,
        memory__current=3 * GIB,
        memory__stat=f"active_file 5\ninactive_file {GIB // 2}",
    )
    device = devices.cpu_device(proc, groups)
    assert (device.total_bytes, device.free_bytes) == (4 * GIB, 3 * GIB // 2)
    assert "control group" in device.note


def test_a_container_of_version_1_limits_memory(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path, 16 * GIB, 9 * GIB, "3:cpuset:/\n4:cpu,memory:/job/7\n0::/\n")
    groups = tmp_path / "cgroup"
    # Inside, only the top of the tree is mounted.
    write(groups / "memory", memory__limit_in_bytes=2 * GIB, memory__usage_in_bytes=3 * GIB)
    device = devices.cpu_device(proc, groups)
    assert (device.total_bytes, device.free_bytes) == (2 * GIB, 0)


def test_an_unlimited_group_changes_nothing(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path, 16 * GIB, 9 * GIB, "4:memory:/\n")
    groups = tmp_path / "cgroup"
    write(groups / "memory", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=GIB)
    device = devices.cpu_device(proc, groups)
    assert (device.total_bytes, device.free_bytes, device.note) == (16 * GIB, 9 * GIB, "")


def test_without_proc_the_free_memory_is_called_a_guess(tmp_path: Path) -> None:
    device = devices.cpu_device(tmp_path / "none", tmp_path / "none")
    assert device.free_bytes == device.total_bytes // 2 > 0
    assert "guess" in device.note


@dataclass(frozen=True)
class Card:
    """What `torch.cuda` tells of one card; ``free`` None: it does not answer."""

    free: int | None
    total_memory: int
    name: str = "Card"
    major: int = 8
    minor: int = 6
    is_integrated: int = 0


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Makes torch see these cards; returns a list that fills with those asked for memory."""

    def install(*present: Card, archs: tuple[str, ...] = ("sm_75", "sm_86", "sm_120")) -> list[int]:
        asked: list[int] = []

        def mem_get_info(index: int) -> tuple[int, int]:
            asked.append(index)
            free = present[index].free
            if free is None:
                raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ...")
            return free, present[index].total_memory

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(present))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: present[index])
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(archs))
        monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
        return asked

    return install


Cards = Callable[..., list[int]]


@pytest.fixture
def two_gpus(cards: Cards) -> list[int]:
    return cards(Card(4 * GIB, 24 * GIB, "Card 0"), Card(10 * GIB, 16 * GIB, "Card 1"))


@pytest.mark.usefixtures("two_gpus")
def test_the_gpu_with_most_free_memory_comes_first() -> None:
    found = devices.detect()
    assert [device.id for device in found] == ["cuda:1", "cuda:0", "cpu"]
    assert found[0] == Device(
        "Card 1", "cuda", "cuda:1", 16 * GIB, 10 * GIB, "compute capability 8.6"
    )


def test_asking_for_one_card_leaves_the_other_alone(two_gpus: list[int]) -> None:
    assert devices.choose("cuda:0").free_bytes == 4 * GIB
    assert two_gpus == [0], "asking makes a context that takes memory"


def test_a_gpu_too_old_for_torchs_kernels_is_named_and_never_taken(cards: Cards) -> None:
    asked = cards(Card(10 * GIB, 11 * GIB, "GTX 1080 Ti", 6, 1))
    found = devices.detect()
    assert [device.id for device in found] == ["cpu", "cuda:0"]
    assert "6.1 is too old" in found[1].problem
    assert "7.5" in found[1].problem
    assert not asked, "and no context is made on it"
    assert devices.choose("auto").id == "cpu"
    for name in ("cuda:0", "cuda"):
        with pytest.raises(UsageError, match=r"6\.1 is too old"):
            devices.choose(name)


@pytest.mark.parametrize(
    ("capability", "archs", "usable"),
    [
        ((7, 5), ("sm_75", "sm_80"), True),
        ((7, 0), ("sm_75", "sm_80"), False),
        ((12, 1), ("sm_90a", "compute_120"), True),  # newer than any: compiled when first needed
        ((9, 0), ("sm_100", "compute_120"), False),
        ((3, 5), (), True),  # nothing is known
        ((9, 0), ("gfx90a", "gfx1100"), True),  # ROCm names its cards otherwise
    ],
)
def test_what_a_torch_was_built_for(
    cards: Cards, capability: tuple[int, int], archs: tuple[str, ...], usable: bool
) -> None:
    cards(Card(GIB, 2 * GIB, "Card", *capability), archs=archs)
    assert (devices.cuda_devices()[0].problem == "") == usable


def test_a_card_that_does_not_answer_is_shown_with_its_reason(cards: Cards) -> None:
    cards(Card(None, 24 * GIB), Card(5 * GIB, 8 * GIB))
    found = devices.detect()
    assert [device.id for device in found] == ["cuda:1", "cpu", "cuda:0"]
    assert found[2].problem == "it does not answer (CUDA error: out of memory)"
    with pytest.raises(UsageError, match="does not answer"):
        devices.choose("cuda:0")


def test_an_integrated_gpu_has_the_hosts_free_memory_and_comes_after_a_card(
    cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Device("Grace", "cpu", "cpu", 128 * GIB, 90 * GIB)
    monkeypatch.setattr(devices, "cpu_device", lambda: host)
    cards(Card(30 * GIB, 120 * GIB, "GB10", 12, 1, is_integrated=1), Card(8 * GIB, 12 * GIB))
    card, integrated, cpu = devices.detect()
    assert (card.id, integrated.id, cpu.id) == ("cuda:1", "cuda:0", "cpu")
    assert integrated.integrated
    assert (integrated.total_bytes, integrated.free_bytes) == (120 * GIB, 90 * GIB)
    assert "shares the host's memory" in integrated.note


def test_an_integrated_gpu_takes_cudas_word_where_the_host_knows_nothing(
    cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = Device("Box", "cpu", "cpu", 0, 0, "memory unknown")
    monkeypatch.setattr(devices, "cpu_device", lambda: unknown)
    cards(Card(3 * GIB, 8 * GIB, "Nano", 8, 7, is_integrated=1))
    assert devices.cuda_devices()[0].free_bytes == 3 * GIB


@pytest.mark.parametrize(
    ("version", "words"), [(None, "built without CUDA"), ("12.8", "CUDA 12.8 does not start")]
)
def test_a_driver_that_torch_does_not_use_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", version)
    proc = fake_proc(tmp_path, 16 * GIB, 9 * GIB)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert devices.cpu_device(proc, tmp_path / "none").note == ""
    write(proc / "driver" / "nvidia", version="NVRM version: 580.00")
    assert words in devices.cpu_device(proc, tmp_path / "none").note


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("name", "id"),
    [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")],
)
def test_names_of_devices(name: str, id: str) -> None:
    assert devices.choose(name).id == id


def test_an_unknown_device_is_refused_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose("auto").id == "cpu"
    with pytest.raises(UsageError, match=r"'cuda:3'.*cpu"):
        devices.choose("cuda:3")


def test_what_does_not_fit_is_refused_with_numbers_and_advice() -> None:
    device = Device("Card", "cuda", "cuda:0", 24 * GB, 10 * GB)
    devices.check_fits(device, 10 * GB, str)
    with pytest.raises(DoesNotFitError, match=r"11\.00 GB.*10\.00 GB free; take less"):
        devices.check_fits(device, 11 * GB, lambda: "take less")
    unknown = Device("Box", "cpu", "cpu", 0, 0, "memory unknown")
    devices.check_fits(unknown, 11 * GB, str)
