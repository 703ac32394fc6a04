"""The tokens of a reply, drawn on the device; the host looks at them a few at a time.

A look begins the next few steps first and then reads what the last ones drew, so that the device
never waits for the host. What has run behind the end of a reply is dropped: only tokens that were
taken are counted, and only their keys and values are valid in the cache. A cancelled reply and a
changed pruning are heard at the next look, so at most two looks later, eight tokens.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.counters import Counters
from engine.decoding.context import Context
from engine.decoding.operations import Operations
from engine.decoding.request import Request
from engine.decoding.state import LOOK_TOKENS, DecodeState
from engine.errors import WorkerError
from engine.pruning import DecodeRule
from engine.sampling import NOT_A_NUMBER

Rows = NDArray[np.int64]


class DeviceSteps:
    """Begins steps, each of which draws a token, and reads them in looks."""

    def __init__(
        self,
        context: Context,
        state: DecodeState,
        operations: Operations,
        step: Callable[[], None],
    ) -> None:
        """``step`` feeds the state's token and draws the next one, as `DecodeStep.run`."""
        self._context = context
        self._state = state
        self._operations = operations
        self._step = step
        self._rule: DecodeRule | None = None
        self._last = 0

    def draws(self, logits: Tensor, request: Request, counters: Counters) -> Iterator[int]:
        """See `Steps.draws`."""
        self._state.drawing.begin(request.sampling, request.prompt)
        left = self._room(request)
        look = self._draw_from(logits)
        while True:
            following = self._begin(min(LOOK_TOKENS, left), request)
            for token in self._taken(look, counters):
                yield token
            if request.cancelled() or not left:
                return
            if following is None:  # a pruning that only the host can do
                logits = self._context.forward([token], request.pruning(), counters)
                following = self._draw_from(logits)
            left -= following.count
            look = following

    def _room(self, request: Request) -> int:
        """Steps after the first draw that the context and the request leave room for."""
        cache = self._context.cache
        room = cache.capacity - cache.length
        return room if request.max_tokens is None else min(room, request.max_tokens - 1)

    def _begin(self, most: int, request: Request) -> "Look | None":
        """Begin up to ``most`` steps, none where the pruning cannot be told by a rule."""
        self._state.slot.zero_()
        count = 0
        config = self._context.model.config
        while count < most:
            rule = request.pruning().decode_rule(config.num_layers)
            if rule is None or not rule.fits(config.top_k):
                break
            self._prune_by(rule)
            with torch.inference_mode():
                self._step()
            count += 1
        return Look(self._state.ring, count, fed=True) if count else None

    def _prune_by(self, rule: DecodeRule) -> None:
        if rule != self._rule:
            self._state.set_rule(rule)
            self._rule = rule

    def _draw_from(self, logits: Tensor) -> "Look":
        """A draw from logits [V] that were computed elsewhere; their token is not counted."""
        state = self._state
        state.slot.zero_()
        state.position.fill_(self._context.cache.length)
        state.activations.logits.copy_(logits.view(1, -1))
        with torch.inference_mode():
            self._operations.draw(state)
        return Look(state.ring, 1, fed=False)

    def _taken(self, look: "Look", counters: Counters) -> Iterator[int]:
        """The tokens of a look; with each, the one before it is in the cache and counted."""
        for row in look.rows():
            token, counts = int(row[0]), row[1:]
            if token < 0:
                raise WorkerError(NOT_A_NUMBER)
            if look.fed:
                self._context.accept(self._last)
                counters.add(counts.reshape(self._state.counts.shape))
            self._last = token
            yield token


class Look:
    """A copy of what ``count`` steps have left in the ring, on its way to the host.

    ``fed``: the steps have put the tokens before theirs into the cache.
    """

    def __init__(self, ring: Tensor, count: int, fed: bool) -> None:
        self.count = count
        self.fed = fed
        self._copy = torch.empty(count, ring.shape[1], dtype=ring.dtype, pin_memory=ring.is_cuda)
        self._copy.copy_(ring[:count], non_blocking=True)
        self._event: torch.cuda.Event | None = None
        if ring.is_cuda:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def rows(self) -> Rows:
        """[count, 1 + L * 2 * E]: tokens and counts, as soon as they are there."""
        if self._event is not None:
            self._event.synchronize()
        rows: Rows = self._copy.numpy()
        return rows
