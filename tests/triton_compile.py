"""Compiles Triton kernels for GPUs that are not there, exactly as their launchers would.

The interpreter forgives what a compiler does not. Inside `compiling` every launch compiles for a
GPU of the given compute capability and runs nothing; tensors lie on the CPU and have the shapes of
a real model. Only for a process without TRITON_INTERPRET: start one by `run_compiler`.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CAPABILITIES = (86, 90)
"""An RTX 3090 and an H100 or H200."""


@dataclass(frozen=True)
class Compiled:
    """One kernel as the GPU would get it; ``spilled`` counts bytes of registers put into memory."""

    name: str
    ptx: str
    cubin: bytes
    warps: int
    shared: int
    registers: int
    spilled: int

    def instructions(self) -> list[tuple[int, str]]:
        """The machine's own instructions, each with its address."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.cubin"
            path.write_bytes(self.cubin)
            text = _tool("cuobjdump", "-sass", str(path))
        lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", text)
        return [(int(address, 16), instruction) for address, instruction in lines]


@contextmanager
def compiling(capability: int) -> Iterator[list[Compiled]]:
    """Turn launches into compilations for ``capability`` (86 for 8.6); the list fills with them."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    class Absent:
        """A driver that knows its GPU, and has none."""

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", capability, 32)

        def get_current_device(self) -> int:
            return capability  # compiled kernels are kept per device

        def get_current_stream(self, device: int) -> int:
            return 0

    compiled: list[Compiled] = []
    seen: set[int] = set()
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        if id(kernel) not in seen:
            seen.add(id(kernel))
            compiled.append(_described(kernel))
        return kernel

    assert not triton.knobs.runtime.interpret
    driver.set_active(Absent())
    JITFunction.run = compile_only
    try:
        yield compiled
    finally:
        JITFunction.run = run


def run_compiler(script: str) -> None:
    """Run Python code in a process that compiles; raises when it fails."""
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def _described(kernel: Any) -> Compiled:
    cubin: bytes = kernel.asm["cubin"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _tool("cuobjdump", "--dump-resource-usage", str(path))
    counts = {name: int(count) for name, count in re.findall(r"(\w+):(\d+)", usage)}
    return Compiled(
        name=kernel.metadata.name,
        ptx=kernel.asm["ptx"],
        cubin=cubin,
        warps=kernel.metadata.num_warps,
        shared=kernel.metadata.shared,
        registers=counts["REG"],
        spilled=counts["STACK"] + counts["LOCAL"],
    )


def _tool(name: str, *arguments: str) -> str:
    """What one of NVIDIA's tools says; the wheel of triton brings them."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run(
        [str(path), *arguments], capture_output=True, text=True, check=True
    ).stdout
