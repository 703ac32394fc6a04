"""Names the machine that a figure was measured on."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """Processor, its features that matter here, and the number of cores this process may use."""
    cpu, features = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        text = info.read_text(encoding="utf-8")
        fields = dict(
            line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line
        )
        values = {key.strip(): value.strip() for key, value in fields.items()}
        cpu = values.get("model name", cpu)
        flags = values.get("flags", "").split()
        features = ", ".join(name for name in ("avx2", "avx512f", "avx512_bf16") if name in flags)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu} ({features or 'no AVX'}), {cores} cores"
