"""Bytes, speed and a steady time to the end."""

import math
import time
from collections.abc import Callable

_MEMORY = 10.0
"""Seconds after which a speed counts for 1/e."""
_SETTLED = 1.0
"""Seconds before which no speed is told: the first bytes come out of buffers."""


class Meter:
    """Averages the speed of a transfer exponentially, so that the time left does not jump.

    A resumed transfer starts with ``done`` bytes that cost no time. A stall lowers the speed as it
    goes on: `update` with an unchanged count.
    """

    def __init__(
        self, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total = total
        self.done = done
        self._clock = clock
        self._begun = self._last = clock()
        # Sums of bytes and of seconds with the same weights: their ratio is unbiased from the
        # first moment, as an average that starts at zero is not.
        self._bytes = self._seconds = 0.0

    def update(self, done: int) -> None:
        """``done`` bytes in all are here now; fewer than before when a file began anew."""
        now = self._clock()
        passed = now - self._last
        if passed > 0:
            fade = math.exp(-passed / _MEMORY)
            self._bytes, self._seconds = fade * self._bytes, fade * self._seconds + passed
            self._last = now
        self._bytes += max(0, done - self.done)
        self.done = done

    @property
    def bytes_per_second(self) -> float:
        """0 until it can be told."""
        if self._last - self._begun < _SETTLED:
            return 0.0
        return self._bytes / self._seconds

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to the end at this speed; None until it can be told, or while nothing comes."""
        speed = self.bytes_per_second
        return (self.total - self.done) / speed if speed >= 1 else None
