"""When the model's memory is given back: after a time without a reply."""

from collections.abc import Callable

from app.engine_client import WorkerEvent
from engine import protocol


class Idleness:
    """Hears what the engine tells, and knows how long the model has had nothing to do."""

    def __init__(self, minutes: float, clock: Callable[[], float]) -> None:
        """``minutes`` 0: never; ``clock`` counts seconds."""
        self._seconds = 60 * minutes
        self._clock = clock
        self._since: float | None = None

    def hear(self, event: WorkerEvent) -> None:
        """A loaded model counts from its last sign of life; without one nothing counts."""
        match event:
            case protocol.Loaded() | protocol.Token() | protocol.MetersUpdate():
                self._since = self._clock()
            case protocol.Finished() | protocol.Failed() if self._since is not None:
                self._since = self._clock()
            case protocol.Unloaded():
                self._since = None

    @property
    def loaded(self) -> bool:
        """Whether there is a model to be put to sleep."""
        return self._since is not None

    @property
    def is_over(self) -> bool:
        """Whether it has lasted as long as it may."""
        if self._since is None or not self._seconds:
            return False
        return self._clock() - self._since >= self._seconds
