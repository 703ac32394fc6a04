"""A reply is drawn in portions: large ones where they cost no more, small ones where they do."""

import asyncio
from collections.abc import Callable
from time import thread_time
from typing import cast

from app.widgets.document import Document
from app.widgets.stream import MOMENT_SECONDS, PORTION, PacedStream


class Slow:
    """A document that takes its time."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self._seconds = seconds
        self.drawn: list[str] = []

    async def append(self, text: str) -> None:
        self.drawn.append(text)
        end = thread_time() + self._seconds(len(text))
        while thread_time() < end:
            pass

    async def finish(self, text: str) -> None:
        assert "".join(self.drawn) == text


def portions(seconds: Callable[[int], float], characters: int) -> list[int]:
    """The sizes in which a text is drawn that was written at once."""

    async def write() -> list[int]:
        document = Slow(seconds)
        stream = PacedStream(cast(Document, document))
        text = "x" * characters
        stream.write(text)
        await stream.finish(text)
        while sum(map(len, document.drawn)) < characters:
            await asyncio.sleep(0.01)
        return [len(part) for part in document.drawn]

    return asyncio.run(write())


def test_a_block_that_is_drawn_anew_each_time_gets_more_at_a_time() -> None:
    sizes = portions(lambda _: 1.5 * MOMENT_SECONDS, 60 * PORTION)
    assert len(sizes) < 12
    assert sizes[0] == PORTION


def test_what_takes_the_longer_the_more_there_is_comes_in_small_portions() -> None:
    sizes = portions(lambda size: 1.5 * MOMENT_SECONDS * size / PORTION, 10 * PORTION)
    assert max(sizes) <= 2 * PORTION
    assert len(sizes) > 5


def test_what_is_drawn_in_no_time_comes_nearly_at_once() -> None:
    assert len(portions(lambda _: 0.0, 60 * PORTION)) < 8
