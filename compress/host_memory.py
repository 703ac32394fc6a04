"""Gives memory that was freed back to the system, where the allocator would keep it."""

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Let go of what is free in the heap.

    glibc keeps freed blocks of up to 32 MB, scattered between those in use: after a layer of
    Mixtral's width has been scored several hundred megabytes, just when rounding needs the most.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    """glibc's function; no other allocator has it, or needs it."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS; Windows has no library None
        return None
    return found
