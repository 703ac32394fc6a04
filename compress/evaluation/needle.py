"""Far recall: something told at some depth of prompts of some length, asked for at their end.

The demo's prompts are chats of its own small world. For another model the haystack is a text, and
the needle a sentence with a number in it.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from assets import corpus
from compress.calibration import demo_tokenizer, read_documents, speaks_demo
from compress.evaluation.demo_tasks import DEMO_SEED
from compress.evaluation.replies import greedy_replies
from engine.budget import KvBits
from engine.errors import SourceError, UsageError
from engine.model import Model
from engine.pruning import NO_PRUNING, Pruning
from engine.tokenizer import Tokenizer

NEEDLE = "needle"
"""The task's name."""
ITEMS = 10
"""Prompts in each cell."""

_DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_LENGTHS = (0.125, 0.25, 0.5, 0.75, 1.0)
"""As shares of the longest prompt."""
_REPLY_ROOM = 64
"""Tokens of the context that no prompt takes."""
_SHORTEST = 1024
"""In less, the shortest prompts would have no room for a haystack."""


@dataclass(frozen=True)
class RecallGrid:
    """``shares[length][depth]`` of ``items`` prompts each are answered right, 0 to 1.

    ``lengths`` are the longest that the prompts of a row may be, in tokens; ``depths`` say how far
    into the prompt the needle is, 0 (at its beginning) to 1 (right before the question).
    """

    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    shares: tuple[tuple[float, ...], ...]
    items: int


@dataclass(frozen=True)
class Needle:
    """A chat that ends with a question, and what a right reply contains."""

    messages: Sequence[dict[str, str]]
    answer: str


Haystack = Callable[[int, float], Sequence[Needle]]
"""Needles by the prompts' length in tokens and the needle's depth."""


@dataclass(frozen=True)
class NeedleTask:
    """Every length and depth, in ``haystack``."""

    lengths: tuple[int, ...]
    haystack: Haystack

    @classmethod
    def of(cls, folder: Path, text: Path | None, longest: int) -> "NeedleTask":
        """In prompts and replies of ``longest`` tokens at most.

        The haystack is the demo's own chats for a model that speaks its language, else ``text``.
        Raises UsageError where there is none, or no far away, SourceError for a text that is
        unreadable or too short.
        """
        if longest < _SHORTEST:
            raise UsageError(f"the needle needs a context of {_SHORTEST} tokens, not {longest}")
        lengths = tuple(int(share * (longest - _REPLY_ROOM)) for share in _LENGTHS)
        if speaks_demo(folder):
            return cls(lengths, _demo_needles)
        if text is None:
            raise UsageError("the needle needs a haystack: give a text with --text FILE")
        haystack = TextHaystack(Tokenizer.from_folder(folder), "\n\n".join(read_documents(text)))
        if haystack.tokens < lengths[-1]:
            raise SourceError(
                f"{text} has {haystack.tokens} tokens, the longest prompt {lengths[-1]}: take a "
                "longer text, or shorter prompts with --window"
            )
        return cls(lengths, haystack)

    def run(
        self,
        model: Model,
        tokenizer: Tokenizer,
        pruning: Pruning = NO_PRUNING,
        kv_bits: KvBits = 16,
        listener: Callable[[str], None] = lambda cell: None,
    ) -> RecallGrid:
        """Measure; ``listener`` hears of each cell before it is measured."""

        def cell(length: int, depth: float) -> float:
            listener(f"{length} tokens, depth {depth:.0%}")
            return _share(model, tokenizer, self.haystack(length, depth), pruning, kv_bits)

        shares = tuple(tuple(cell(length, depth) for depth in _DEPTHS) for length in self.lengths)
        return RecallGrid(self.lengths, _DEPTHS, shares, ITEMS)


def _share(
    model: Model,
    tokenizer: Tokenizer,
    needles: Sequence[Needle],
    pruning: Pruning,
    kv_bits: KvBits,
) -> float:
    prompts = [tokenizer.encode_turns(needle.messages) for needle in needles]
    replies = greedy_replies(model, tokenizer, prompts, pruning, kv_bits)
    found = [needle.answer in reply for needle, reply in zip(needles, replies, strict=True)]
    return sum(found) / len(found)


def _demo_needles(length: int, depth: float) -> list[Needle]:
    items = corpus.needle_items(demo_tokenizer(), DEMO_SEED, ITEMS, length, depth)
    return [Needle(item.messages, item.answer) for item in items]


_END = re.compile(r"[.!?](?=\s)|\n")
_OWNERS = ("Ada", "Boris", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jonas")
_TELL = "The secret number of {owner} is {number}."
_ASK = (
    "Here is a text. Read it, then answer the question below it.\n\n{text}\n\nWhat is the secret "
    "number of {owner}? Answer with the number alone."
)


class TextHaystack:
    """Needles in pieces of a text, the same pieces and numbers at every depth."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self._tokenizer = tokenizer
        self._ids = tokenizer.encode(text)

    @property
    def tokens(self) -> int:
        """How many the text has: no prompt may be longer."""
        return len(self._ids)

    def __call__(self, length: int, depth: float) -> list[Needle]:
        """See `Haystack`."""
        rng = random.Random(f"text needle/{DEMO_SEED}/{length}")
        return [self._needle(rng, owner, length, depth) for owner in _OWNERS]

    def _needle(self, rng: random.Random, owner: str, length: int, depth: float) -> Needle:
        number = str(rng.randrange(10_000, 100_000))
        told = _TELL.format(owner=owner, number=number)
        room = length - len(self._tokenizer.encode_turns(_question(told, owner)))
        start = rng.randrange(len(self._ids) - room + 1)
        # Cut into words and put together again, a piece may have a few tokens more than before.
        while True:
            piece = self._tokenizer.decode(self._ids[start : start + room])
            messages = _question(_insert(piece, told, depth), owner)
            excess = len(self._tokenizer.encode_turns(messages)) - length
            if excess <= 0:
                return Needle(messages, number)
            room -= excess


def _question(text: str, owner: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": _ASK.format(text=text, owner=owner)}]


def _insert(text: str, told: str, depth: float) -> str:
    """``told`` between two sentences or lines of ``text``, nearest to ``depth``; what is left of
    a sentence at the end goes."""
    ends = [0, *(match.end() for match in _END.finditer(text))]
    at = min(ends, key=lambda end: abs(end - depth * ends[-1]))
    return f"{text[:at]} {told} {text[at : ends[-1]]}".strip()
