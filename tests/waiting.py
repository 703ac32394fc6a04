"""Waiting for what another process or thread brings about, without guessing how long it takes."""

import time
from collections.abc import Callable

PATIENCE_SECONDS = 60.0
"""Far more than anything here takes, for machines that do something else too."""


def wait_until(predicate: Callable[[], object]) -> None:
    """Look again and again until something has become true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not predicate():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.01)
