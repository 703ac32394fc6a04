"""The gauges of one reply: its speed, and what `engine.counters` counted while it ran."""

import time
from collections import deque

from engine.counters import Activity, Counters
from engine.model import Model
from engine.protocol import Memory, Meters

_RECENT_READINGS = 4
"""How many readings ago "now" begins: about a second, at four readings a second."""


class ReplyMeter:
    """Counts and times one reply. Give ``counters`` to every forward pass."""

    def __init__(self, model: Model) -> None:
        self.counters = Counters(model)
        self._recent: deque[Activity] = deque(maxlen=_RECENT_READINGS)
        self._tokens = 0
        self._started = self._first = self._last = time.monotonic()

    def token(self) -> None:
        """A token was drawn."""
        self._last = time.monotonic()
        if not self._tokens:
            self._first = self._last
        self._tokens += 1

    @property
    def time_to_first_token(self) -> float:
        """Seconds from the request to the first token, 0 before it."""
        return self._first - self._started

    @property
    def tokens_per_second(self) -> float:
        """Speed of decoding, the prompt not counted; 0 before the second token."""
        seconds = self._last - self._first
        return (self._tokens - 1) / seconds if seconds > 0 else 0.0

    def read(self, context_used: int, context_size: int, memory: Memory) -> Meters:
        """All gauges. Waits for the device: call it a few times a second, not per token.

        The prune ratio "now" is over the tokens since a few readings ago, so that the prompt's
        hundreds of tokens do not hide what single ones do.
        """
        activity = self.counters.read()
        recent = activity.since(self._recent[0]) if self._recent else activity
        self._recent.append(activity)
        return Meters(
            activated_params=round(activity.activated_params),
            activated_bytes=round(activity.activated_bytes),
            activated_fraction=activity.activated_fraction,
            prune_ratio=activity.prune_ratio,
            prune_ratio_now=recent.prune_ratio,
            prune_ratio_layers=activity.prune_ratio_layers,
            expert_runs=activity.runs,
            expert_skips=activity.skips,
            tokens_per_second=self.tokens_per_second,
            time_to_first_token=self.time_to_first_token,
            context_used=context_used,
            context_size=context_size,
            memory=memory,
        )
