"""Draw the next token from its logits: penalty, temperature, top-k, top-p, min-p, in that order.

On the host, in NumPy: over a vocabulary torch's dispatch and its 32-bit exponentials took ten times
as long. Only tokens that the cuts may keep are ever exponentiated or sorted. What is drawn depends
on the logits, the options and `engine.random_numbers`, and `engine.decoding` draws the same tokens
on a device.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError, WorkerError
from engine.protocol import SamplingOptions
from engine.random_numbers import key_of, uniform

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Tokens = NDArray[np.intp]

NOT_A_NUMBER = "the model's output is not a number; `mc-chat verify` the checkpoint"

COLDEST = 1e-20
"""Temperatures between 0 and this one are this one: a smaller one overflows float32."""


class Sampler:
    """Draws tokens for one reply, reproducibly: the same seed and logits give the same tokens."""

    def __init__(self, options: SamplingOptions, vocabulary: int, seen: Iterable[int] = ()) -> None:
        """``seen`` are the tokens of the prompt, for the penalty; a drawn one is seen from then on.

        Without a seed in ``options`` a random one is taken. Raises UsageError.
        """
        check_options(options)
        self._options = options
        self._key = key_of(options.seed)
        self._drawn = 0
        self._seen = np.zeros(vocabulary, dtype=np.bool_)
        self._seen[list(seen)] = True

    def draw(self, logits: Floats) -> int:
        """The next token for ``logits`` [V]. Raises WorkerError where they are no numbers."""
        options = self._options
        if options.repetition_penalty != 1:
            logits = penalise(logits, np.flatnonzero(self._seen), options.repetition_penalty)
        token = self._pick(logits)
        self._drawn += 1
        self._seen[token] = True
        return token

    def _pick(self, logits: Floats) -> int:
        likeliest = int(logits.argmax())
        if not math.isfinite(logits[likeliest]):
            raise WorkerError(NOT_A_NUMBER)
        if self._options.temperature == 0:
            return likeliest
        tokens, shares = distribution(logits, self._options)
        place = _first_beyond(shares, uniform(self._key, self._drawn))
        return int(tokens[place])


def check_options(options: SamplingOptions) -> None:
    """Raise UsageError for a value outside its range."""
    rules = (
        (options.temperature >= 0, "temperature must be 0 (greedy) or more"),
        (options.top_k >= 0, "top-k must be 0 (off) or more"),
        (0 < options.top_p <= 1, "top-p must be above 0 and at most 1 (off)"),
        (0 <= options.min_p <= 1, "min-p must be 0 (off) to 1"),
        (options.repetition_penalty > 0, "the repetition penalty must be above 0 (1 is off)"),
    )
    for holds, rule in rules:
        if not holds:
            raise UsageError(rule)


def penalise(logits: Floats, seen: Tokens, penalty: float) -> Floats:
    """Make ``seen`` tokens less likely: divide positive logits, multiply negative ones.

    The penalty of CTRL (arXiv 1909.05858, section 4.1). The logits given stay as they are.
    """
    penalised = logits.copy()
    marked = logits[seen]
    penalised[seen] = np.where(marked > 0, marked / penalty, marked * penalty)
    return penalised


def distribution(logits: Floats, options: SamplingOptions) -> tuple[Tokens, Floats]:
    """The tokens that may be drawn, ascending, and their shares, which need not add up to 1.

    At least one token always survives. top-k keeps tokens as likely as the last one kept; top-p
    (arXiv 1904.09751) the fewest of what is left that together reach p; min-p (arXiv 2407.01082)
    those at least p times as likely as the likeliest.
    """
    temperature = max(options.temperature, COLDEST)
    peak = logits[logits.argmax()]
    tokens = _above(logits, _floor(logits, peak, temperature, options))
    shares = np.exp((logits[tokens] - peak) / np.float32(temperature))  # the likeliest is 1
    if options.top_p < 1:
        kept = _nucleus(shares, options.top_p)
        tokens, shares = tokens[kept], shares[kept]
        kept = shares >= options.min_p
        tokens, shares = tokens[kept], shares[kept]
    return tokens, shares


def _floor(logits: Floats, peak: np.float32, temperature: float, options: SamplingOptions) -> float:
    """The least logit that top-k lets pass, and min-p, where top-p has no say before it."""
    floor = -math.inf
    if 0 < options.top_k < len(logits):
        place = len(logits) - options.top_k
        floor = float(np.partition(logits, place)[place])
    if options.min_p and options.top_p == 1:
        floor = max(floor, float(peak) + temperature * math.log(options.min_p))
    return floor


def _above(logits: Floats, floor: float) -> Tokens:
    if floor == -math.inf:
        return np.arange(len(logits))
    return (logits >= floor).nonzero()[0]


def _nucleus(shares: Floats, p: float) -> Tokens:
    """The places, ascending, of the fewest largest ``shares`` that together reach ``p``.

    All those below (1 - p) / n of the sum add up to less than 1 - p of it: the others reach p
    without them, so that few have to be sorted. Of equal ones those of lower places come first.
    """
    total = float(shares.sum(dtype=np.float64))
    likely = shares[shares >= (1 - p) * total / len(shares)]
    likely.sort()
    reached = likely[::-1].cumsum(dtype=np.float64)
    count = 1 + int(np.searchsorted(reached[:-1], p * total))
    least = likely[-count]
    larger = np.flatnonzero(shares > least)
    equal = np.flatnonzero(shares == least)[: count - len(larger)]
    return np.sort(np.concatenate((larger, equal)))


_BLOCK = 256
"""Shares that are added up at once, where the sums of single ones would take longer."""


def _first_beyond(shares: Floats, number: float) -> int:
    """The first place where the running sum is above ``number`` times the whole one."""
    if len(shares) <= _BLOCK:
        return _place(shares.cumsum(dtype=np.float64), number)
    starts = np.arange(0, len(shares), _BLOCK)
    blocks = np.add.reduceat(shares, starts, dtype=np.float64).cumsum()
    block = _place(blocks, number)
    within = shares[block * _BLOCK : (block + 1) * _BLOCK].cumsum(dtype=np.float64)
    before = float(blocks[block - 1]) if block else 0.0
    part = (number * float(blocks[-1]) - before) / float(within[-1])
    return block * _BLOCK + _place(within, part)


def _place(sums: Doubles, number: float) -> int:
    """The first of ascending ``sums`` that is above ``number`` times the last one."""
    return min(int(sums.searchsorted(number * sums[-1], side="right")), len(sums) - 1)
