"""The loop from a prompt to a reply: prefill in chunks, then one token after another."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.budget import PREFILL_CHUNK
from engine.cache import KVCache
from engine.counters import Counters
from engine.errors import ContextFullError, UsageError
from engine.meters import ReplyMeter
from engine.model import Model
from engine.protocol import FinishReason, SamplingOptions
from engine.pruning import NO_PRUNING, Pruning
from engine.sampling import Sampler
from engine.stream import Detokenizer, StopStrings
from engine.tokenizer import Tokenizer


def _never() -> bool:
    return False


def _unpruned() -> Pruning:
    return NO_PRUNING


@dataclass(frozen=True)
class Request:
    """What to generate.

    ``pruning`` is asked before every forward pass, so that a switch holds from the next token;
    ``cancelled`` is asked between tokens and between the chunks of a prompt. ``max_tokens`` None:
    until the context is full.
    """

    prompt: Sequence[int]
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    pruning: Callable[[], Pruning] = _unpruned
    cancelled: Callable[[], bool] = _never


class Generator:
    """Generates replies with one model and one KV cache, for one conversation at a time.

    A prompt that begins like what the cache holds (the next turn of a chat) is prefilled from
    where it differs. Cached tokens keep the keys and values they got under the pruning of their
    time, and token importance in a prompt refers to the chunk being prefilled.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, context: int) -> None:
        """Allocates the cache for ``context`` tokens."""
        self.model = model
        self.tokenizer = tokenizer
        self.cache = KVCache(model.config, context, device=model.embed.device, dtype=model.dtype)
        self.prefill_chunk = PREFILL_CHUNK["cuda" if model.embed.is_cuda else "cpu"]
        self.stop_ids = frozenset(model.config.eos_ids) | (
            frozenset() if tokenizer.eos_id is None else {tokenizer.eos_id}
        )
        self._cached: list[int] = []

    def start(self, request: Request) -> "Reply":
        """Begin a reply; iterating over it runs the model.

        Raises ContextFullError when the prompt leaves no room for a reply, UsageError for an empty
        prompt or an option out of range.
        """
        self._check(request)
        return Reply(self, request)

    def _check(self, request: Request) -> None:
        tokens, context = len(request.prompt), self.cache.capacity
        if not tokens:
            raise UsageError("the prompt is empty; write something first")
        if request.max_tokens is not None and request.max_tokens < 1:
            raise UsageError(f"a reply of {request.max_tokens} tokens is none; ask for 1 or more")
        if tokens >= context:
            longest = self.model.config.max_context
            larger = f", load with a context of up to {longest}" if context < longest else ""
            raise ContextFullError(
                f"the prompt has {tokens} tokens and the context holds {context}, the reply "
                f"included; shorten the prompt{larger} or start a new chat"
            )

    def forget(self) -> None:
        """Empty the cache: the next prompt is prefilled as a whole."""
        self.reuse([])

    def reuse(self, prompt: Sequence[int]) -> int:
        """Cut the cache back to what it has in common with ``prompt``; returns that length.

        At least the last token of the prompt is left to run: its logits begin the reply.
        """
        common = 0
        for ours, theirs in zip(self._cached, prompt[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        self.cache.truncate(common)
        del self._cached[common:]
        return common

    def forward(self, tokens: Sequence[int], pruning: Pruning, counters: Counters) -> Tensor:
        """Run ``tokens`` after those in the cache; the last one's logits [V]."""
        ids = torch.tensor([tokens], device=self.model.embed.device)  # [1, T]
        with torch.inference_mode():
            logits = self.model.forward(
                ids, self.cache, pruning, counters, last_only=True
            )  # [1, 1, V]
        self._cached.extend(tokens)
        return logits[0, 0]


class Reply:
    """One reply under way: iterate over it for text; the rest says where it stands.

    Every piece of text is whole characters, and no part of a stop string ever comes out. Leaving
    the iteration early is fine: the cache stays whole.
    """

    def __init__(self, generator: Generator, request: Request) -> None:
        self._generator = generator
        self._request = request
        device = generator.model.embed.device
        self._sampler = Sampler(request.sampling, device)
        self._detokenizer = Detokenizer(generator.tokenizer)
        self._stops = StopStrings(request.stop)
        self._seen = torch.tensor(request.prompt, device=device)  # [N], grows
        self.meter = ReplyMeter(generator.model)
        self.finish_reason: FinishReason | None = None
        self.prompt_tokens = len(request.prompt)
        self.tokens = 0

    def __iter__(self) -> Iterator[str]:
        """The text, a piece per token, perhaps empty; the last pieces flush what was held."""
        logits = self._prefill()
        while logits is not None:
            piece = self._take(self._sampler.draw(logits, self._seen))
            if piece is not None:
                yield piece
            if self.finish_reason:
                break
            logits = self._run([int(self._seen[-1])])
        yield self._stops.push(self._detokenizer.flush()) + self._stops.flush()

    @property
    def context_used(self) -> int:
        """Tokens in the cache."""
        return self._generator.cache.length

    def _prefill(self) -> Tensor | None:
        """The logits after the prompt, None when cancelled on the way."""
        prompt = self._request.prompt
        logits = None
        start, chunk = self._generator.reuse(prompt), self._generator.prefill_chunk
        for first in range(start, len(prompt), chunk):
            logits = self._run(prompt[first : first + chunk])
            if logits is None:
                return None
        return logits

    def _run(self, tokens: Sequence[int]) -> Tensor | None:
        """Logits after ``tokens``, None (and the reason set) when cancelled before."""
        if self._request.cancelled():
            self.finish_reason = "cancelled"
            return None
        return self._generator.forward(tokens, self._request.pruning(), self.meter.counters)

    def _take(self, token: int) -> str | None:
        """Add a drawn token to the reply; its text, or None for the end token."""
        self.meter.token()
        if token in self._generator.stop_ids:
            self.finish_reason = "stop"
            return None
        self.tokens += 1
        self._seen = torch.cat([self._seen, self._seen.new_tensor([token])])
        piece = self._stops.push(self._detokenizer.push(token))
        self.finish_reason = self._reason_to_end()
        return piece

    def _reason_to_end(self) -> FinishReason | None:
        if self._stops.stopped:
            return "stop"
        if self.tokens == self._request.max_tokens:
            return "length"
        if self._generator.cache.length == self._generator.cache.capacity:
            return "context"
        return None
