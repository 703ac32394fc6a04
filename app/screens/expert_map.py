"""The map of a model's experts: widths, use and errors, and which of them run while it talks."""

from collections import deque
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import ScrollableContainer
from textual.content import Content
from textual.screen import Screen
from textual.signal import Signal
from textual.widgets import Static

from app.engine_client import WorkerEvent
from app.expert_facts import TALKING, VIEWS, Live, View, in_words, legend
from app.render import safe_text
from app.widgets.expert_map import ExpertMap
from app.widgets.gauge import LIVE_READINGS
from app.widgets.header import HeaderLine
from app.widgets.keys_footer import KeysFooter
from engine import protocol
from engine.manifest import Manifest
from engine.protocol import Meters


class ExpertMapScreen(Screen[None]):
    """One model's experts; ``events`` tells what runs, None for a model that is not loaded."""

    CSS_PATH = "expert_map.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "next_view", "Next view", key_display="Tab"),
        *(
            Binding(str(number), f"show({view!r})", view, show=False)
            for number, view in enumerate(VIEWS, start=1)
        ),
        Binding("escape,ctrl+l", "dismiss", "Back", key_display="Esc"),
    ]

    def __init__(
        self,
        name: str,
        manifest: Manifest,
        events: Signal[WorkerEvent] | None,
        view: View = "bits",
        before: Meters | None = None,
    ) -> None:
        """``before``: the meters of the last reply."""
        super().__init__()
        self._model_name = name
        self._manifest = manifest
        self._told = events
        self._answering: int | None = None
        self._latest: deque[Meters] = deque(maxlen=LIVE_READINGS)
        self._map = ExpertMap(manifest)
        self._map.view = view
        self._map.live = Live.of_reply(before)

    def compose(self) -> ComposeResult:
        """The views, the grid, what it means, and the chosen expert in words."""
        yield HeaderLine()
        yield Static(id="views")
        with ScrollableContainer(id="grid", can_focus=False):
            yield self._map
        yield Static(id="legend")
        yield Static(id="expert", markup=False)
        yield KeysFooter()

    def on_mount(self) -> None:
        """The grid has the focus, always."""
        header = self.query_one(HeaderLine)
        header.about = safe_text(f"{self._model_name} · experts")
        header.show("ready", "loaded" if self._told else "not loaded")
        if self._told is not None:
            self._told.subscribe(self, self._hear)
        self._map.focus()
        self._show_words()

    def on_resize(self, event: events.Resize) -> None:
        """Wide cells where there is room."""
        self._map.fit(event.size.width - 4)

    def on_expert_map_moved(self) -> None:
        """Read the new one out."""
        self._show_words()

    def action_show(self, view: View) -> None:
        """Show another figure of each expert."""
        self._map.view = view
        self._show_words()

    def action_next_view(self) -> None:
        """The views in turn."""
        self.action_show(VIEWS[(VIEWS.index(self._map.view) + 1) % len(VIEWS)])

    def _hear(self, event: WorkerEvent) -> None:
        if isinstance(event, protocol.MetersUpdate):
            if event.id != self._answering:
                self._answering = event.id
                self._latest.clear()
            self._latest.append(event.meters)
            self._map.live = Live.between(self._latest)
            self._show_words()

    def _show_words(self) -> None:
        current = self._map.view
        views = [
            Content.styled(f" {number} {view} ", "reverse bold" if view == current else "$quiet")
            for number, view in enumerate(VIEWS, start=1)
        ]
        self.query_one("#views", Static).update(Content("").join(views))
        waiting = current in TALKING and not self._map.live.runs
        quiet = "nothing has run yet: it shows what runs while the model talks"
        words = f"digit: bits · bar: {quiet if waiting else legend(current, self._map.live)}"
        self.query_one("#legend", Static).update(Content.styled(words, "$quiet"))
        layer, expert = self._map.cursor
        read_out = in_words(self._manifest, layer, expert, self._map.live)
        self.query_one("#expert", Static).update(read_out)
