"""What a reply is asked to be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.protocol import SamplingOptions
from engine.pruning import NO_PRUNING, Pruning


def _never() -> bool:
    return False


def _unpruned() -> Pruning:
    return NO_PRUNING


@dataclass(frozen=True)
class Request:
    """What to generate.

    ``pruning`` is asked before every forward pass is begun, so that a switch holds from the next
    token on a CPU, and within two looks on a GPU (see `engine.decoding.device`). ``cancelled`` is
    asked between tokens, or looks, and between the layers of a prompt. ``max_tokens`` None: until
    the context is full. ``continues``: the prompt ends within a reply, and its text goes on.
    """

    prompt: Sequence[int]
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    continues: bool = False
    pruning: Callable[[], Pruning] = _unpruned
    cancelled: Callable[[], bool] = _never
