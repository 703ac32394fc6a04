"""The loop from a prompt to a reply: prefill in chunks, then one token after another."""

from collections import abc
from collections.abc import Iterator
from contextlib import closing

from engine.budget import KvBits
from engine.decoding.choice import choose_steps
from engine.decoding.context import Context
from engine.decoding.request import Request
from engine.errors import ContextFullError, UsageError
from engine.meters import ReplyMeter
from engine.model import Model
from engine.protocol import FinishReason
from engine.sampling import check_options
from engine.stream import Detokenizer, StopStrings
from engine.tokenizer import Tokenizer


class Generator(Context):
    """Generates replies with one model and one KV cache, for one conversation at a time.

    A prompt that begins like what the cache holds (the next turn of a chat) is prefilled from
    where it differs. ``steps`` draws the tokens; ``decoding`` says in a few words how.
    """

    def __init__(
        self, model: Model, tokenizer: Tokenizer, context: int, kv_bits: KvBits = 16
    ) -> None:
        """Allocates the cache for ``context`` tokens, and captures a step on a GPU."""
        super().__init__(model, context, kv_bits)
        self.tokenizer = tokenizer
        self.stop_ids = frozenset(model.config.eos_ids) | (
            frozenset() if tokenizer.eos_id is None else {tokenizer.eos_id}
        )
        self.steps, self.decoding = choose_steps(self)

    def start(self, request: Request) -> "Reply":
        """Begin a reply; iterating over it runs the model.

        Raises ContextFullError when the prompt leaves no room for a reply, UsageError for an empty
        prompt or an option out of range.
        """
        self._check(request)
        return Reply(self, request)

    def _check(self, request: Request) -> None:
        check_options(request.sampling)
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


class Reply:
    """One reply under way: iterate over it for text; the rest says where it stands.

    Every piece of text is whole characters, and no part of a stop string ever comes out. Leaving
    the iteration early is fine: the cache stays whole.
    """

    def __init__(self, generator: Generator, request: Request) -> None:
        self._generator = generator
        self._request = request
        after = request.prompt if request.continues else ()
        self._detokenizer = Detokenizer(generator.tokenizer, after)
        self._stops = StopStrings(request.stop)
        self.meter = ReplyMeter(generator.model)
        self.finish_reason: FinishReason | None = None
        self.prompt_tokens = len(request.prompt)
        self.tokens = 0

    def __iter__(self) -> Iterator[str]:
        """The text, a piece per token, perhaps empty; the last pieces flush what was held."""
        with closing(self._draws()) as draws:
            for token in draws:
                piece = self._take(token)
                if piece is not None:
                    yield piece
                if self.finish_reason:
                    break
            else:
                self.finish_reason = "cancelled"
        yield self._stops.push(self._detokenizer.flush()) + self._stops.flush()

    @property
    def context_used(self) -> int:
        """Tokens in the cache."""
        return self._generator.cache.length

    def _draws(self) -> abc.Generator[int, None, None]:
        """The tokens drawn after the prompt, which is run first; none if cancelled before."""
        counters = self.meter.counters
        logits = self._generator.prefill(self._request, counters)
        if logits is not None:
            yield from self._generator.steps.draws(logits, self._request, counters)

    def _take(self, token: int) -> str | None:
        """Add a drawn token to the reply; its text, or None for the end token."""
        self.meter.token()
        if token in self._generator.stop_ids:
            self.finish_reason = "stop"
            return None
        self.tokens += 1
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
