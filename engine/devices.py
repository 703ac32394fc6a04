"""What this machine can run a model on, and how much memory a new process could take there."""

import gc
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from engine.errors import DoesNotFitError, UsageError
from engine.protocol import Device

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def detect() -> tuple[Device, ...]:
    """All devices, the best one first.

    GPUs with memory of their own by free memory, those that share the host's, the CPU, and last
    what is here but cannot be used.
    """
    devices = (*cuda_devices(), cpu_device())
    return tuple(sorted(devices, key=_rank))


def _rank(device: Device) -> tuple[bool, bool, bool, int]:
    """Small is good."""
    is_cpu = device.kind == "cpu"
    return bool(device.problem), is_cpu, device.integrated, -device.free_bytes


def choose(name: str) -> Device:
    """The device that ``name`` means: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises UsageError for one that is not there or cannot be used.
    """
    if name == "cpu":
        return cpu_device()
    if re.fullmatch(r"cuda:\d+", name) and int(name[5:]) < _cuda_count():
        device = _cuda_device(int(name[5:]))  # alone: asking makes a context on a card
    else:
        devices = detect()
        usable = [device for device in devices if not device.problem]
        wanted = [d for d in usable if name in {"auto", d.kind}]
        if not wanted:
            known = ", ".join(device.id for device in usable)
            why = "".join(f" ({d.id}: {d.problem})" for d in devices if d.problem)
            raise UsageError(
                f"there is no device {name!r} here{why}; choose auto or one of {known}"
            )
        device = wanted[0]
    if device.problem:
        raise UsageError(
            f"{device.id}, {device.name}, cannot be used: {device.problem}; choose another device"
        )
    return device


def refresh(device: Device) -> Device:
    """The same device as it is now: its free memory changes."""
    return cpu_device() if device.kind == "cpu" else _cuda_device(_cuda_index(device))


def check_fits(device: Device, need_bytes: int, advice: Callable[[], str]) -> None:
    """Raise DoesNotFitError, ending in ``advice()``, if ``need_bytes`` are not free.

    A device of unknown memory is given the benefit of the doubt.
    """
    if device.memory_known and need_bytes > device.free_bytes:
        raise DoesNotFitError(
            f"the model needs {need_bytes / 1e9:.2f} GB and {device.name} has "
            f"{device.free_bytes / 1e9:.2f} GB free; {advice()}"
        )


def release_memory() -> None:
    """Give memory that nothing uses any more back to the devices."""
    gc.collect()
    torch.cuda.empty_cache()


def cuda_devices() -> list[Device]:
    """The CUDA devices. Asking one for its free memory makes a context on it (about 0.5 GB)."""
    return [_cuda_device(index) for index in range(_cuda_count())]


def _cuda_count() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _cuda_index(device: Device) -> int:
    return int(device.id.removeprefix("cuda:"))


def _cuda_device(index: int) -> Device:
    facts = torch.cuda.get_device_properties(index)
    capability = (facts.major, facts.minor)
    id, note = f"cuda:{index}", f"compute capability {facts.major}.{facts.minor}"
    if problem := _too_old(capability, torch.cuda.get_arch_list()):
        return Device(facts.name, "cuda", id, facts.total_memory, 0, note, problem=problem)
    try:
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:  # another program has it for itself, or all of its memory
        reason = str(error).strip().split("\n")[0]
        problem = f"it does not answer ({reason})"
        return Device(facts.name, "cuda", id, facts.total_memory, 0, note, problem=problem)
    if not facts.is_integrated:
        return Device(facts.name, "cuda", id, total, free, note)
    # CUDA does not count as free what the system would give up for it, such as cached files.
    host = cpu_device()
    if host.memory_known:
        total, free = min(total, host.total_bytes), min(total, host.free_bytes)
    note = f"{note}, shares the host's memory"
    return Device(facts.name, "cuda", id, total, free, note, integrated=True)


def _too_old(capability: tuple[int, int], built_for: list[str]) -> str:
    """Why a GPU of this compute capability cannot run this torch's kernels, or nothing.

    ``built_for``: what torch was compiled for, such as `sm_75` and `compute_90`.
    """
    versions = [re.fullmatch(r"(?:sm|compute)_(\d+)(\d)[a-z]?", name) for name in built_for]
    supported = [(int(found[1]), int(found[2])) for found in versions if found]
    if not supported or capability >= min(supported):
        return ""
    need, have = (f"{major}.{minor}" for major, minor in (min(supported), capability))
    return (
        f"its compute capability {have} is too old for this torch, which needs {need}; "
        "an older torch or another GPU would do"
    )


def graphics_problem(proc: Path = _PROC) -> str:
    """Why a GPU that is here stays unseen: an NVIDIA driver without a torch that uses it.

    Empty where there is no driver, or no problem.
    """
    driver = (proc / "driver" / "nvidia" / "version").is_file() or shutil.which("nvidia-smi")
    if not driver or torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return "an NVIDIA driver is here, but this torch is built without CUDA: install one with it"
    return (
        f"an NVIDIA driver is here, but CUDA {torch.version.cuda} does not start: "
        "the driver may be too old for this torch"
    )


def cpu_device(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> Device:
    """The CPU and its memory, a container's limit respected.

    Linux tells what is available. Elsewhere half of the total is taken for free, where even that
    is unknown both sizes are 0.
    """
    total, free, note = _system_memory(proc)
    for limit, left in _cgroup_memory(proc, cgroups):
        if limit < total:
            total, note = limit, "limited by a control group"
        free = min(free, left)
    note = "; ".join(part for part in (note, graphics_problem(proc)) if part)
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
    return 0, 0, ""


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
