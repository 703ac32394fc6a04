"""From token ids, one at a time, to text that may be shown: whole characters, no stop string."""

from collections.abc import Sequence

from engine.tokenizer import Tokenizer

_LONGEST_CHARACTER = 4  # bytes of UTF-8, at worst an id each
_INCOMPLETE = "\ufffd"  # what a decoder writes for bytes that are no character yet


class Detokenizer:
    """Turns the ids of one reply into text, a piece per id; pieces add up to the whole.

    A character may be spread over several tokens, and whether a token starts with a space can
    depend on the one before it: so a token is decoded together with its predecessor, and kept
    back until its last character is complete. The one space that the chat format puts before
    every reply is left out.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()) -> None:
        """``after``: the ids that the text goes on from, none for a reply from its beginning."""
        self._tokenizer = tokenizer
        self._ids = self._last_character(after)
        self._window = 0  # where decoding starts
        self._shown = len(self._ids)  # ids before this one are out
        self._started = bool(after)

    def push(self, token: int) -> str:
        """The text that ``token`` completes; empty while a character is incomplete."""
        self._ids.append(token)
        text = self._tail()
        if text.endswith(_INCOMPLETE):
            return ""
        return self._show(text)

    def flush(self) -> str:
        """What is left at the end; an incomplete character comes out as U+FFFD."""
        return self._show(self._tail())

    def _last_character(self, ids: Sequence[int]) -> list[int]:
        """The fewest ids at the end that begin with a character: one, or all of its bytes."""
        tails = [list(ids[-count:]) for count in range(1, _LONGEST_CHARACTER + 1)]
        whole = (tail for tail in tails if _INCOMPLETE not in self._tokenizer.decode(tail))
        return next(whole, tails[0])

    def _tail(self) -> str:
        before = self._tokenizer.decode(self._ids[self._window : self._shown])
        return self._tokenizer.decode(self._ids[self._window :])[len(before) :]

    def _show(self, text: str) -> str:
        self._window, self._shown = self._shown, len(self._ids)
        if self._started or not text:
            return text
        self._started = True
        return text.removeprefix(" ")


class StopStrings:
    """Cuts a stream of text before the first stop string to be complete.

    Where a stop string may have begun, the text is kept back, so no part of one ever comes out.
    The result does not depend on how the stream is cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False
        """Whether a stop string was found; what comes after it is swallowed."""

    def push(self, text: str) -> str:
        """The part of the stream that is now known to be free of stop strings."""
        if self.stopped:
            return ""
        text = self._held + text
        start = self._first_stop(text)
        if start is not None:
            self.stopped, self._held = True, ""
            return text[:start]
        keep = self._possible_start(text)
        self._held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """What was kept back and is no stop string after all, at the end of the stream."""
        held, self._held = self._held, ""
        return held

    def _first_stop(self, text: str) -> int | None:
        """Where the stop string that ends first begins; the longest of those that end there."""
        found = [(text.find(stop), len(stop)) for stop in self._stops]
        ends = [(start + length, start) for start, length in found if start >= 0]
        return min(ends)[1] if ends else None

    def _possible_start(self, text: str) -> int:
        """The first place from which all the rest of ``text`` is the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for start in range(max(0, len(text) - longest), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stops):
                return start
        return len(text)
