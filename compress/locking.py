"""One writer at a time: a lock that the system drops with the process, however it ends."""

import fcntl
import os
from pathlib import Path


def take(descriptor: int, path: Path) -> bool:
    """Lock the open file or folder at ``path``; whether it is ours now.

    It is not when another holds it, and not when another has meanwhile renamed or removed what was
    opened: then the lock is on something that has that name no more.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False
