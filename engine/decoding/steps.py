"""The tokens of a reply, one after another. On the host: a forward pass and a draw for each."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from engine.counters import Counters
from engine.decoding.context import Context
from engine.decoding.request import Request
from engine.sampling import Sampler


class Steps(Protocol):
    """Draws the tokens of replies."""

    def draws(self, logits: Tensor, request: Request, counters: Counters) -> Iterator[int]:
        """The tokens after a prompt whose logits are [V], until the request is cancelled.

        Whoever iterates decides when the reply is over, and leaves. At each token exactly the
        tokens before it are in the cache and in ``counters``; what ran ahead is dropped.
        """


class HostSteps:
    """Every token is read by the host before the next forward pass begins."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def draws(self, logits: Tensor, request: Request, counters: Counters) -> Iterator[int]:
        """See `Steps.draws`."""
        vocabulary = self._context.model.config.vocab_size
        sampler = Sampler(request.sampling, vocabulary, request.prompt)
        while True:
            token = sampler.draw(logits.float().numpy(force=True))
            yield token
            if request.cancelled():
                return
            logits = self._context.forward([token], request.pruning(), counters)
