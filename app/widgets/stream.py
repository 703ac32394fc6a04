"""Markdown that grows: text goes in as fast as it comes, the widget is drawn as fast as it can.

Appending inside a long code fence highlights the whole fence again: 400 ms at 400 lines. Textual's
own stream appends again at once, which leaves no time for keys. This one rests after each append,
in proportion to what it took, so that the screen stays awake however long a fence becomes.
"""

import asyncio
from time import perf_counter

from textual.widgets import Markdown

FRAME_SECONDS = 1 / 20
REST = 3.0
"""Rest after an append, as a multiple of its time: at most a quarter of the time is drawing."""


class PacedStream:
    """Feeds one Markdown widget from its own task."""

    def __init__(self, markdown: Markdown) -> None:
        self._markdown = markdown
        self._pending: list[str] = []
        self._some = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def write(self, text: str) -> None:
        """Take text; it shows within a frame, later where drawing is slow."""
        self._pending.append(text)
        self._some.set()

    async def stop(self) -> None:
        """End without drawing what is pending: one update with the whole text comes next."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while await self._some.wait():
            self._some.clear()
            text = "".join(self._pending)
            self._pending.clear()
            started = perf_counter()
            # An append that is cut in half leaves the widget broken.
            await asyncio.shield(self._append(text))
            await asyncio.sleep(max(FRAME_SECONDS, REST * (perf_counter() - started)))

    async def _append(self, text: str) -> None:
        await self._markdown.append(text)
