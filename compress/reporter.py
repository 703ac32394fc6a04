"""Turns the steps of a compression into progress: one fraction of the whole job, and an ETA."""

import time
from collections.abc import Mapping, Sequence

from compress.progress import Listener, Progress, Stage

_CHECK_SHARE = 0.02
_LAYERS_SHARE = 0.96
_LEAST_SHARE_FOR_ETA = 0.01


class Reporter:
    """Tells a listener how far a job is."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._layers = 0
        self._passes: Sequence[Sequence[Stage]] = ()
        self._shares: dict[Stage, float] = {}
        self._began = time.monotonic()
        self._work_began, self._work_from = self._began, 0.0
        self._last = (0, 0.0)

    def begin(
        self, layers: int, passes: Sequence[Sequence[Stage]], seconds: Mapping[Stage, float]
    ) -> None:
        """The layers are about to begin.

        ``passes`` says what is done to every layer before the next pass begins, and ``seconds``
        how long each stage takes a layer, or any numbers in that proportion.
        """
        self._layers, self._passes = layers, passes
        total = sum(seconds[stage] for stages in passes for stage in stages)
        self._shares = {stage: value / total for stage, value in seconds.items()}

    def check(self, share: float, message: str) -> None:
        """Before the layers; ``share`` is done of it."""
        self._tell("check", 0, share * _CHECK_SHARE, message)

    def resume(self, stage: Stage, layers_done: int) -> None:
        """The layers begin with ``stage``, this many of them finished before: the ETA counts
        from here."""
        self._work_began = time.monotonic()
        self._work_from = self._of_layers(stage, layers_done, 0.0)

    def layer(self, stage: Stage, layer: int, share: float, message: str) -> None:
        """Within a layer, ``share`` of a stage is done."""
        self._tell(stage, layer, self._of_layers(stage, layer, share), message)

    def aside(self, stage: Stage, message: str) -> None:
        """Something that the job waits for, where it stands."""
        layer, fraction = self._last
        self._tell(stage, layer, fraction, message)

    def finish(self, stage: Stage, share: float, message: str) -> None:
        """Behind the layers; ``share`` is done of what is left."""
        last = _CHECK_SHARE + _LAYERS_SHARE
        self._tell(stage, self._layers - 1, last + (1.0 - last) * share, message)

    def _of_layers(self, stage: Stage, layer: int, share: float) -> float:
        """Fraction of the whole job done when ``share`` of a layer's stage is."""
        done = 0.0
        for stages in self._passes:
            shares = [self._shares[name] for name in stages]
            if stage in stages:
                position = stages.index(stage)
                within = sum(shares[:position]) + share * shares[position]
                done += (layer * sum(shares) + within) / self._layers
                break
            done += sum(shares)
        return _CHECK_SHARE + _LAYERS_SHARE * done

    def _tell(self, stage: Stage, layer: int, fraction: float, message: str) -> None:
        self._last = (layer, fraction)
        now = time.monotonic()
        gone, share = now - self._work_began, fraction - self._work_from
        eta = gone * (1.0 - fraction) / share if share >= _LEAST_SHARE_FOR_ETA else None
        self._listener(
            Progress(stage, layer, self._layers, fraction, now - self._began, eta, message)
        )
