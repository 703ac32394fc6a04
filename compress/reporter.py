"""Turns the steps of a compression into progress: one fraction of the whole job, and an ETA."""

import time

from compress.progress import Listener, Progress, Stage

_CHECK_SHARE = 0.03
_LAYERS_SHARE = 0.94
# Shares of a layer's time, measured on the demo; scoring quantizes at three widths.
_STAGE_SPANS: dict[Stage, tuple[float, float]] = {
    "calibrate": (0.0, 0.1),
    "score": (0.1, 0.65),
    "allocate": (0.65, 0.67),
    "quantize": (0.67, 0.96),
    "write": (0.96, 1.0),
}
_LEAST_SHARE_FOR_ETA = 0.02


class Reporter:
    """Tells a listener how far a job over ``layers`` layers is."""

    def __init__(self, listener: Listener, layers: int) -> None:
        self._listener = listener
        self._layers = layers
        self._began = time.monotonic()
        self._work_began, self._work_from = self._began, 0.0

    def check(self, share: float, message: str) -> None:
        """Before the layers; ``share`` is done of it."""
        self._tell("check", 0, share * _CHECK_SHARE, message)

    def resume(self, layers_done: int) -> None:
        """The layers begin, this many of them finished before: the ETA counts from here."""
        self._work_began = time.monotonic()
        self._work_from = self._of_layers(layers_done)

    def layer(self, stage: Stage, layer: int, share: float, message: str) -> None:
        """Within a layer, ``share`` of a stage is done."""
        start, end = _STAGE_SPANS[stage]
        fraction = self._of_layers(layer + start + (end - start) * share)
        self._tell(stage, layer, fraction, message)

    def finish(self, stage: Stage, share: float, message: str) -> None:
        """Behind the layers; ``share`` is done of what is left."""
        last = _CHECK_SHARE + _LAYERS_SHARE
        self._tell(stage, self._layers - 1, last + (1.0 - last) * share, message)

    def _of_layers(self, layers: float) -> float:
        return _CHECK_SHARE + _LAYERS_SHARE * layers / self._layers

    def _tell(self, stage: Stage, layer: int, fraction: float, message: str) -> None:
        now = time.monotonic()
        gone, share = now - self._work_began, fraction - self._work_from
        eta = gone * (1.0 - fraction) / share if share >= _LEAST_SHARE_FOR_ETA else None
        self._listener(
            Progress(stage, layer, self._layers, fraction, now - self._began, eta, message)
        )
