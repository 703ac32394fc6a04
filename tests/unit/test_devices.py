"""Devices and free memory, read from faked systems."""

from pathlib import Path

import pytest
import torch

from engine import devices
from engine.errors import DoesNotFitError, UsageError
from engine.protocol import Device

GIB = 2**30


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


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda i: ((4 + 6 * i) * GIB, (24 - 8 * i) * GIB)
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"Card {i}")


@pytest.mark.usefixtures("two_gpus")
def test_the_gpu_with_most_free_memory_comes_first() -> None:
    found = devices.detect()
    assert [device.id for device in found] == ["cuda:1", "cuda:0", "cpu"]
    assert found[0] == Device(
        "Card 1", "cuda", "cuda:1", 16 * GIB, 10 * GIB, "compute capability 8.6"
    )


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
    device = Device("Card", "cuda", "cuda:0", 24 * GIB, 10 * GIB)
    devices.check_fits(device, 10 * GIB, str)
    with pytest.raises(DoesNotFitError, match=r"11\.00 GiB.*10\.00 GiB free; take less"):
        devices.check_fits(device, 11 * GIB, lambda: "take less")
    unknown = Device("Box", "cpu", "cpu", 0, 0, "memory unknown")
    devices.check_fits(unknown, 11 * GIB, str)
