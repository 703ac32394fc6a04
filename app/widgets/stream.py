"""Markdown that grows: text goes in as fast as it comes, the widget is drawn as fast as it can.

Appending to a block draws the whole block again: 100 ms for a fence of 1,000 lines. Textual's own
stream appends again at once, which leaves no time for keys. This one draws no more at a time than
is drawn in a moment, and rests in proportion to what it took, so that the screen stays awake
however fast the engine writes and however long a block becomes. Times are those of this thread:
on busy cores it must not rest the longer.
"""

import asyncio
from contextlib import suppress
from time import thread_time

from app.widgets.document import Document

FRAME_SECONDS = 1 / 20
MOMENT_SECONDS = 0.02
PORTION = 500
"""Characters drawn at a time, at least; twice as many after each that took less than a moment."""
FREE = 1.3
"""Twice as much that takes no more than so many times as long: it is the block, not what is new."""
REST = 8.0
"""Rest after a portion, as a multiple of what the one before took with its picture: at most a ninth
of the time is drawing, and half of it once the engine has written all."""


class PacedStream:
    """Feeds one document from its own task."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._pending = ""
        self._portion = PORTION
        self._last = (PORTION, 0.0)
        """The size of the portion before, and what it took."""
        self._cost = 0.0
        self._whole: str | None = None
        self._some = asyncio.Event()
        self._hurry = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def write(self, text: str) -> None:
        """Take text; it shows within a frame, later where drawing is slow."""
        self._pending += text
        self._some.set()

    async def finish(self, whole: str) -> None:
        """No more comes, and ``whole`` is the text. What is left of it is drawn before this
        returns, unless that is much: then it goes on to appear as it did."""
        self._whole = whole
        self._some.set()
        if len(self._pending) <= PORTION:
            self._hurry.set()
            await asyncio.wait([self._task])

    async def stop(self) -> None:
        """Draw no more: the document is about to go."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._whole is None or self._pending:
            await self._some.wait()
            self._some.clear()
            await self._draw()
        await self._document.finish(self._whole)

    def _next_portion(self, size: int, took: float) -> int:
        """More at a time where that is drawn in a moment, or takes no longer than less did: a long
        fence is drawn anew whatever is added to it."""
        before, self._last = self._last, (size, took)
        is_free = size > before[0] and took < FREE * before[1]
        if took <= MOMENT_SECONDS or is_free or size == PORTION:
            return 2 * size
        return max(PORTION, size // 2)

    async def _draw(self) -> None:
        while self._pending:
            size = self._portion
            text, self._pending = self._pending[:size], self._pending[size:]
            started = thread_time()
            await self._document.append(text)
            took = thread_time() - started
            if len(text) == size:
                self._portion = self._next_portion(size, took)
            rest = max(FRAME_SECONDS, (REST if self._whole is None else 1.0) * self._cost)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), rest)
            self._cost = thread_time() - started  # its picture is made while this one rests
