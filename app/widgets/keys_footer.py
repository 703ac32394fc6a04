"""The line of keys at the bottom: those that do something now.

Textual's own footer has a widget for each key and makes them all anew whenever one changes, at the
beginning and the end of every reply: that took longer than the rest of a reply's drawing. This one
is a line of text.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from textual import events
from textual.content import Content
from textual.reactive import reactive
from textual.screen import Screen
from textual.style import Style
from textual.widget import Widget

GAP = "  "
"""Between two keys."""
_KEY = "key"
"""What a place of the line belongs to, for the mouse."""


@dataclass(frozen=True)
class ShownKey:
    """A key, its name as it is shown, what it does in a word, and whether it does that now."""

    key: str
    display: str
    description: str
    enabled: bool = True


class KeysFooter(Widget):
    """A click on a key is as good as its press. Where not all fit, the last one is in sight: it
    leads to the list of all."""

    ALLOW_SELECT = False
    DEFAULT_CSS = """
    KeysFooter {
        dock: bottom;
        height: 1;
        padding: 0 1;
        color: $footer-foreground;
        background: $footer-background;
        text-wrap: nowrap;
    }
    KeysFooter:hover {
        pointer: pointer;
    }
    """

    keys: reactive[tuple[ShownKey, ...]] = reactive(())
    hovered: reactive[str] = reactive("")

    def __init__(self) -> None:
        super().__init__()
        self._is_looking = False

    def on_mount(self) -> None:
        """Hear of every change."""
        self.screen.bindings_updated_signal.subscribe(self, self._look_soon)

    def on_unmount(self) -> None:
        """Nothing is to be drawn any more."""
        self.screen.bindings_updated_signal.unsubscribe(self)

    def render(self) -> Content:
        """The keys from the left, as many as fit; the last one and the way back in any case."""
        shown = list(self.keys)
        while True:
            line = _joined([self._words(key) for key in shown])
            spare = [key for key in shown[:-1] if key.key != "escape"] or shown[:-1]
            if line.cell_length <= self.content_size.width or not spare:
                return line
            shown.remove(spare[-1])

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Press the key that is there."""
        for key in self.keys:
            if key.key == event.style.meta.get(_KEY):
                if key.enabled:
                    self.app.simulate_key(key.key)
                else:
                    self.app.bell()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Show which key a click would press."""
        self.hovered = event.style.meta.get(_KEY, "")

    def on_leave(self) -> None:
        """None."""
        self.hovered = ""

    def _words(self, key: ShownKey) -> Content:
        dim = "" if key.enabled else " dim"
        words = Content.assemble(
            (key.display, f"bold $footer-key-foreground on $footer-key-background{dim}"),
            (
                f" {key.description}" if key.description else "",
                f"$footer-description-foreground on $footer-description-background{dim}",
            ),
        )
        if key.key == self.hovered:
            words = words.stylize("on $block-hover-background")
        return words.stylize(Style.from_meta({_KEY: key.key}))

    def _look_soon(self, screen: Screen[object]) -> None:
        """Several changes at once are looked at once. Without the terminal's focus nothing has
        it, and the line stays as it was."""
        if screen.app.app_focus and not self._is_looking:
            self._is_looking = True
            self.call_after_refresh(self._look)

    def _look(self) -> None:
        self._is_looking = False
        if self.is_attached:  # the screen may have gone meanwhile
            self.keys = tuple(self._active())

    def _active(self) -> Iterable[ShownKey]:
        """The first key of each action."""
        actions = set()
        for _, binding, enabled, _ in self.screen.active_bindings.values():
            if binding.show and binding.action not in actions:
                actions.add(binding.action)
                display = self.app.get_key_display(binding)
                yield ShownKey(binding.key, display, binding.description, enabled)


def _joined(words: list[Content]) -> Content:
    return Content(GAP).join(words)
