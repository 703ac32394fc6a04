"""How much two texts agree, word by word. Knows no screen."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Agreement:
    """The first ``same`` words are alike; then ``words`` stand against each other, empty where a
    text has ended, at the places ``starts`` of the texts. ``share``: words of the longest common
    course, of all words; 1 for two empty texts."""

    same: int
    words: tuple[str, str]
    starts: tuple[int, int]
    share: float

    @property
    def whole(self) -> bool:
        """Whether every word agrees."""
        return self.words == ("", "")


def agreement(left: str, right: str) -> Agreement:
    """Compare two texts; spaces and line breaks count as one."""
    ours, theirs = list(_WORD.finditer(left)), list(_WORD.finditer(right))
    pairs = zip(ours, theirs, strict=False)
    same = next((place for place, (a, b) in enumerate(pairs) if a[0] != b[0]), None)
    if same is None:
        same = min(len(ours), len(theirs))
    ends = [(words[same : same + 1], text) for words, text in ((ours, left), (theirs, right))]
    count = len(ours) + len(theirs)
    common = same + _longest_common([a[0] for a in ours[same:]], [b[0] for b in theirs[same:]])
    first, second = (
        (found[0][0], found[0].start()) if found else ("", len(text)) for found, text in ends
    )
    return Agreement(
        same, (first[0], second[0]), (first[1], second[1]), 2 * common / count if count else 1.0
    )


def _longest_common(left: Sequence[str], right: Sequence[str]) -> int:
    """Words of the longest common subsequence.

    Bit by bit (Hyyro, "Bit-parallel LCS-length computation revisited", 2004): a 0 at a word of
    ``left`` says that the course grows by one there. A row is one integer, so that thousands of
    words take some hundredths of a second.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(left)) - 1
    row = full
    for word in right:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(left) - row.bit_count()
