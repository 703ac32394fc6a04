"""The tokens that a model has seen, and their keys and values: one conversation at a time."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.budget import PREFILL_CHUNK, KvBits
from engine.cache import KVCache
from engine.counters import Counters
from engine.decoding.request import Request
from engine.model import Model, RoutingCounter
from engine.pruning import Pruning, Routing


class Context:
    """A model, its KV cache, and which tokens are in it.

    Cached tokens keep the keys and values they got under the pruning of their time, and token
    importance in a prompt refers to the chunk being prefilled: chunks are of a fixed size, so that
    the same prompt always gives the same reply.
    """

    def __init__(self, model: Model, capacity: int, kv_bits: KvBits = 16) -> None:
        """Allocates the cache for ``capacity`` tokens, at ``kv_bits`` an element."""
        self.model = model
        self.cache = KVCache(
            model.config,
            capacity,
            device=model.embed.device,
            dtype=model.dtype,
            bits=kv_bits,
        )
        self.prefill_chunk = PREFILL_CHUNK["cuda" if model.embed.is_cuda else "cpu"]
        self._tokens: list[int] = []

    def forget(self) -> None:
        """Empty the cache: the next prompt is prefilled as a whole."""
        self.reuse([])

    def reuse(self, prompt: Sequence[int]) -> int:
        """Cut the cache back to what it has in common with ``prompt``; returns that length.

        At least the last token of the prompt is left to run: its logits begin the reply.
        """
        common = 0
        for ours, theirs in zip(self._tokens, prompt[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        self.cache.truncate(common)
        del self._tokens[common:]
        return common

    def forward(self, tokens: Sequence[int], pruning: Pruning, counters: RoutingCounter) -> Tensor:
        """Run ``tokens`` after those in the cache; the last one's logits [V]."""
        ids = torch.tensor([tokens], device=self.model.embed.device)  # [1, T]
        with torch.inference_mode():
            logits = self.model.forward(
                ids, self.cache, pruning, counters, last_only=True
            )  # [1, 1, V]
        self._tokens.extend(tokens)
        return logits[0, 0]

    def accept(self, token: int) -> None:
        """A step outside this class has put the next token's keys and values into the cache."""
        self.cache.length += 1
        self._tokens.append(token)

    def prefill(self, request: Request, counters: Counters) -> Tensor | None:
        """Run what is new of the request's prompt; the logits [V] after it, None if cancelled.

        A cancelled chunk leaves nothing: neither in the cache nor in ``counters``.
        """
        prompt, logits = request.prompt, None
        pace = _Pace(self.model.embed.device)
        for first in range(self.reuse(prompt), len(prompt), self.prefill_chunk):
            attentive = _Attentive(request.cancelled)
            try:
                attentive.ask()
                chunk = prompt[first : first + self.prefill_chunk]
                logits = self.forward(chunk, request.pruning(), attentive)
            except _Cancelled:
                return None
            attentive.pass_on(counters)
            pace.step()
        return logits


class _Cancelled(Exception):  # noqa: N818 - not a fault
    """The user does not want this reply any more."""


class _Attentive:
    """Hears the routing of every layer, and gives up the forward pass when it is not wanted.

    A chunk can take minutes on a CPU, a layer takes a second or two.
    """

    def __init__(self, cancelled: Callable[[], bool]) -> None:
        self._cancelled = cancelled
        self._heard: list[tuple[int, Routing]] = []

    def ask(self) -> None:
        """Raise _Cancelled if that is so."""
        if self._cancelled():
            raise _Cancelled

    def record(self, layer: int, routing: Routing) -> None:
        """See `RoutingCounter.record`; nothing is counted before the pass is over."""
        self._heard.append((layer, routing))
        self.ask()

    def pass_on(self, counters: Counters) -> None:
        """Count what was heard."""
        for layer, routing in self._heard:
            counters.record(layer, routing)


class _Pace:
    """Keeps the host at most two chunks ahead of a GPU: what is queued cannot be cancelled."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: torch.cuda.Event | None = None

    def step(self) -> None:
        """A chunk is queued: wait until the one before it is done."""
        if self._device.type != "cuda":
            return
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        if self._before is not None:
            self._before.synchronize()
        self._before = event
