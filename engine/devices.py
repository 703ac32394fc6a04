"""What this machine can run a model on, and how much memory a new process could take there."""

import gc
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from engine.errors import DoesNotFitError, UsageError
from engine.protocol import Device

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def detect() -> tuple[Device, ...]:
    """All devices, the best one first: GPUs by free memory, then the CPU."""
    gpus = sorted(cuda_devices(), key=lambda device: device.free_bytes, reverse=True)
    return (*gpus, cpu_device())


def choose(name: str) -> Device:
    """The device that ``name`` means: `auto`, `cpu`, `cuda` or `cuda:N`. Raises UsageError."""
    if name == "cpu":
        return cpu_device()
    devices = detect()
    if name == "auto":
        return devices[0]
    for device in devices:
        if name == device.id or (name == "cuda" and device.kind == "cuda"):
            return device
    known = ", ".join(device.id for device in devices)
    raise UsageError(f"there is no device {name!r} here; choose auto or one of {known}")


def refresh(device: Device) -> Device:
    """The same device as it is now: its free memory changes."""
    return cpu_device() if device.kind == "cpu" else _cuda_device(_cuda_index(device))


def check_fits(device: Device, need_bytes: int, advice: Callable[[], str]) -> None:
    """Raise DoesNotFitError, ending in ``advice()``, if ``need_bytes`` are not free.

    A device of unknown memory (``total_bytes`` 0) is given the benefit of the doubt.
    """
    if device.total_bytes and need_bytes > device.free_bytes:
        raise DoesNotFitError(
            f"the model needs {need_bytes / 2**30:.2f} GiB and {device.name} has "
            f"{device.free_bytes / 2**30:.2f} GiB free; {advice()}"
        )


def release_memory() -> None:
    """Give memory that nothing uses any more back to the devices."""
    gc.collect()
    torch.cuda.empty_cache()


def cuda_devices() -> list[Device]:
    """The CUDA devices. Asking one for its free memory makes a context on it (about 0.3 GiB)."""
    if not torch.cuda.is_available():
        return []
    return [_cuda_device(index) for index in range(torch.cuda.device_count())]


def _cuda_index(device: Device) -> int:
    return int(device.id.removeprefix("cuda:"))


def _cuda_device(index: int) -> Device:
    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    return Device(
        name=torch.cuda.get_device_name(index),
        kind="cuda",
        id=f"cuda:{index}",
        total_bytes=total,
        free_bytes=free,
        note=f"compute capability {major}.{minor}",
    )


def cpu_device(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> Device:
    """The CPU and its memory, a container's limit respected.

    Linux tells what is available. Elsewhere half of the total is taken for free, where even that
    is unknown both sizes are 0; the note says so.
    """
    total, free, note = _system_memory(proc)
    for limit, left in _cgroup_memory(proc, cgroups):
        if limit < total:
            total, note = limit, "limited by a control group"
        free = min(free, left)
    return Device(_cpu_name(proc), "cpu", "cpu", total, free, note)


def _system_memory(proc: Path) -> tuple[int, int, str]:
    meminfo = proc / "meminfo"
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        total, free = (1024 * int(lines[key].split()[0]) for key in ("MemTotal", "MemAvailable"))
        return total, free, ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total, total // 2, "free memory is a guess: half of the total"
    return 0, 0, "memory unknown"


def _cgroup_memory(proc: Path, root: Path) -> Iterator[tuple[int, int]]:
    """(limit, bytes left under it) of every control group that this process is in."""
    membership = proc / "self" / "cgroup"
    if not membership.is_file():
        return
    for line in membership.read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":  # version 2
            base, limit_file, usage_file = root, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base = root / "memory"
            limit_file, usage_file = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = base / name.lstrip("/")
        # A limit may be set on any ancestor; inside a container only the top one is visible.
        for folder in (group, *group.parents):
            if folder == base.parent:
                break
            limit, usage = _number(folder / limit_file), _number(folder / usage_file)
            if limit is not None and usage is not None:
                yield limit, max(0, limit - usage + _reclaimable(folder))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None


def _reclaimable(folder: Path) -> int:
    """Bytes of cached files that the kernel drops before it refuses memory."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _cpu_name(proc: Path) -> str:
    cores = os.cpu_count() or 1
    model = platform.processor() or platform.machine()
    try:
        lines = (proc / "cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model n"))
    except (OSError, StopIteration):
        pass  # not Linux, or an architecture whose cpuinfo has no name
    return f"{model} ({cores} cores)"
