"""Freed memory goes back to the system."""

import ctypes
import platform
from pathlib import Path

import pytest

from compress.host_memory import give_back


def resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone keeps them")
def test_freed_blocks_between_used_ones_go_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    size = 100_000  # below the size from which on every block is a mapping of its own
    blocks = [ctypes.c_void_p(libc.malloc(size)) for _ in range(1000)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[::2]:
        libc.free(block)
    before = resident()
    give_back()
    assert before - resident() > 0.8 * size * len(blocks) / 2
    for block in blocks[1::2]:
        libc.free(block)
