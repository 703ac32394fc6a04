"""The context as a slider of one line: stops to choose among, marked where a size stops fitting."""

from collections.abc import Iterable, Sequence
from itertools import count, takewhile
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from compress.plan import Choice

SHORTEST = 1024
_LINE = 5
"""Cells between two stops at most: a longer line would only part them."""


def stops(longest: int, wanted: Iterable[int]) -> tuple[int, ...]:
    """Contexts in tokens, the shortest first: 1k and its doubles below ``longest``, the model's
    limit, that limit, and those that are ``wanted``, as far as it reaches."""
    doubles = takewhile(lambda tokens: tokens < longest, (SHORTEST << step for step in count()))
    return tuple(sorted({*doubles, longest, *(min(tokens, longest) for tokens in wanted)}))


def stop_words(tokens: int) -> str:
    """A stop's name: 8k, or 5,000 where it is no multiple of 1024."""
    thousands, rest = divmod(tokens, 1024)
    return f"{tokens:,}" if rest else f"{thousands}k"


class ContextSlider(Widget, can_focus=True):
    """Left and Right, Home and End, or the mouse move it; with a single stop it is disabled."""

    class Moved(Message):
        """Another context is chosen, in ``tokens``."""

        def __init__(self, tokens: int) -> None:
            super().__init__()
            self.tokens = tokens

    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(-1)", "Move", key_display="←→"),
        Binding("right", "move(1)", "Longer", show=False),
        Binding("home", "end(0)", "Shortest", show=False),
        Binding("end", "end(-1)", "Longest", show=False),
        Binding("enter", "screen.compress", "Compress", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._stops: tuple[int, ...] = ()
        self._chosen = 0
        self._choices: tuple[Choice, ...] = ()

    def show(self, stops: Sequence[int], tokens: int, choices: Sequence[Choice]) -> None:
        """Stand at ``tokens``, one of ``stops``; ``choices``: what a size takes at each of them."""
        self._stops, self._choices = tuple(stops), tuple(choices)
        self._chosen = self._stops.index(tokens)
        self.disabled = len(self._stops) == 1
        self.refresh()

    def render(self) -> Content:
        """The line up to the chosen stop is thick."""
        gap = self._gap()
        pieces = []
        for index, choice in enumerate(self._choices):
            if index:
                reached = index <= self._chosen
                pieces.append(("━" * gap, "$primary") if reached else ("─" * gap, "$quiet"))
            pieces += self._stop(index, choice)
        return Content.assemble(*pieces)

    def _stop(self, index: int, choice: Choice) -> list[tuple[str, str]]:
        name = stop_words(self._stops[index])
        if index != self._chosen:
            return [_mark(choice), (name, "$quiet")]
        on = "$block-cursor-foreground on $block-cursor-background" if self.has_focus else ""
        return [("●", f"bold {on or '$primary'}"), (name, f"bold {on}")]

    def _gap(self) -> int:
        """Cells between two stops."""
        names = sum(1 + len(stop_words(tokens)) for tokens in self._stops)
        room = self.content_size.width - names
        return min(max(1, room // max(1, len(self._stops) - 1)), _LINE)

    def action_move(self, steps: int) -> None:
        """To the next longer or shorter context, if there is one."""
        self._choose(min(max(self._chosen + steps, 0), len(self._stops) - 1))

    def action_end(self, index: int) -> None:
        """To the shortest or the longest."""
        self._choose(index % max(1, len(self._stops)))

    def go_round(self) -> None:
        """To the next longer context, after the longest to the shortest."""
        self._choose((self._chosen + 1) % len(self._stops))

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """To the stop under the mouse, and hold it."""
        self.capture_mouse()
        self._choose_at(event.x)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Drag it."""
        if self.app.mouse_captured is self:
            self._choose_at(event.x)

    def on_mouse_up(self) -> None:
        """Let it go."""
        self.release_mouse()

    def _choose_at(self, column: int) -> None:
        """The stop that is nearest."""
        gap, start, middles = self._gap(), 0, []
        for tokens in self._stops:
            width = 1 + len(stop_words(tokens))
            middles.append(start + width // 2)
            start += width + gap
        near = min(range(len(middles)), key=lambda index: abs(middles[index] - column), default=0)
        self._choose(near)

    def _choose(self, index: int) -> None:
        if self._stops and index != self._chosen:
            self._chosen = index
            self.refresh()
            self.post_message(self.Moved(self._stops[index]))


def _mark(choice: Choice) -> tuple[str, str]:
    if not choice.fits:
        return "✕", "$error"
    return ("!", "$warning") if choice.tight else ("○", "$quiet")
