"""One prompt, two replies side by side: pruned otherwise, or by another model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen
from textual.signal import Signal
from textual.widgets import Static

from app.compare_words import agreement_words, task_words, variant_words
from app.comparison import Build, Comparison, Take, Variant, on_next_build, prunings_of
from app.engine_client import WorkerEvent
from app.pruning_words import stepped, switched
from app.render import safe_text
from app.widgets.header import HeaderLine
from app.widgets.keys_footer import KeysFooter
from app.widgets.take_view import TakeView
from engine.protocol import SetPruning

DRAW_SECONDS = 0.1
QUOTED = 400
"""Characters of the question; two lines of them are seen."""
SIDE_BY_SIDE = 76
"""Columns below which one reply stands above the other."""


class CompareScreen(Screen[Take | None]):
    """Ends with the right reply where it is to be kept, else with None.

    The engine is lent: when the screen ends, what brings the chat's model back has been asked for.
    """

    CSS_PATH = "compare.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "begin", "Ask", key_display="Enter"),
        Binding("escape", "stop", "Stop", key_display="Esc"),
        Binding("escape", "leave", "Back", key_display="Esc"),
        Binding("f2", "pruning", "Prune", id="pruning"),
        Binding("f8", "strength(-1)", "Less", id="weaker"),
        Binding("f9", "strength(1)", "More", id="stronger"),
        Binding("m", "model", "Model"),
        Binding("n", "anew", "A anew"),
        Binding("u", "keep", "Keep B"),
        Binding("up,k", "scroll(-1)", "Up", show=False),
        Binding("down,j", "scroll(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
    ]

    def __init__(
        self,
        comparison: Comparison,
        events: Signal[WorkerEvent],
        builds: Sequence[Build],
    ) -> None:
        """``builds`` are those that the right reply can be made with."""
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-stacked"), (SIDE_BY_SIDE, "-beside")]
        self._comparison = comparison
        self._told = events
        self._builds = builds
        self._views = (TakeView(id="left"), TakeView(id="right"))
        self._new = True
        """Something has changed since it was drawn."""

    def compose(self) -> ComposeResult:
        """What was asked, the two replies, and how they agree."""
        yield HeaderLine()
        yield Static(self._question(), id="question", markup=False)
        with Container(id="takes"):
            yield from self._views
        yield Static(id="verdict", markup=False)
        yield KeysFooter()

    def on_mount(self) -> None:
        """Nothing is asked before Enter is pressed."""
        self.query_one(HeaderLine).about = "A/B: one prompt, two replies"
        self._told.subscribe(self, self._hear)
        self.set_interval(DRAW_SECONDS, self._draw)
        self._draw()

    def on_unmount(self) -> None:
        """However it ends, the chat's model comes back."""
        self._comparison.stop()

    # --- what the user does -------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In the footer stands what can be done now; Esc stops what runs first."""
        busy = self._comparison.busy
        match action:
            case "stop":
                return busy
            case "leave":
                return not busy
            case "begin":
                return not busy and not self._comparison.problem
            case "pruning" | "strength" | "model" | "anew":
                return not busy
            case "keep":
                return not busy and self._comparison.right.new
        return True

    def action_begin(self) -> None:
        """Ask."""
        self._comparison.begin()
        self._changed()

    def action_stop(self) -> None:
        """What is written stays."""
        self._comparison.stop()
        self._changed()

    def action_leave(self) -> None:
        """Back to the chat, which stays as it was."""
        self.dismiss(None)

    def action_keep(self) -> None:
        """Back to the chat, with the right reply as a branch of it."""
        self.dismiss(self._comparison.right)

    def action_pruning(self) -> None:
        """The next way to prune that the right one's model knows, or none."""
        now = self._comparison.right.variant
        self._prune(switched(now.pruning, prunings_of(now, self._builds)))

    def action_strength(self, steps: int) -> None:
        """Prune the right one more or less."""
        self._prune(stepped(self._comparison.right.variant.pruning, steps))

    def _prune(self, pruning: SetPruning) -> None:
        self._choose(replace(self._comparison.right.variant, pruning=pruning))

    def action_model(self) -> None:
        """The right one's models in turn."""
        now = self._comparison.right.variant
        if {build.name for build in self._builds} <= {now.name}:
            self.notify("No other model is installed.", severity="warning")
            return
        self._choose(on_next_build(now, self._builds))

    def _choose(self, variant: Variant) -> None:
        self._comparison.choose(variant)
        self._changed()

    def action_anew(self) -> None:
        """Make the left one anew, too, or show the reply that is there."""
        if not self._comparison.set_both_anew(not self._comparison.both_anew):
            name = self._comparison.left.variant.name
            self.notify(f"{name} is not on this machine.", severity="warning", markup=False)
        self._changed()

    def action_scroll(self, lines: int) -> None:
        """Both together."""
        for view in self._views:
            view.scroll_by_lines(lines)

    def action_page(self, pages: int) -> None:
        """Both together."""
        for view in self._views:
            view.scroll_by_lines(pages * view.page)

    # --- what is shown ------------------------------------------------------------------------

    def _hear(self, event: WorkerEvent) -> None:
        before = self._comparison.busy
        self._comparison.hear(event)
        self._new = True
        if before and not self._comparison.busy:
            self._changed()
            for view in self._views:
                view.go_to_start()

    def _changed(self) -> None:
        self._new = True
        self._draw()
        self.refresh_bindings()

    def _draw(self) -> None:
        """A few times a second at most: a reply of thousands of words is laid out each time."""
        if not self._new:
            return
        self._new = False
        comparison = self._comparison
        found = None if comparison.busy else comparison.agreement()
        takes = (comparison.left, comparison.right)
        for side, (view, take) in enumerate(zip(self._views, takes, strict=True)):
            differs = None
            if found is not None and not found.whole:
                start = found.starts[side]
                differs = (start, start + len(found.words[side]))
            view.show(f"{'AB'[side]}  {self._variant_words(take)}", take, differs)
        verdict = agreement_words(found) if found else task_words(comparison)
        self.query_one("#verdict", Static).update(safe_text(comparison.problem or verdict))
        self._draw_state()

    def _draw_state(self) -> None:
        comparison, header = self._comparison, self.query_one(HeaderLine)
        if comparison.problem:
            header.show("down", "engine stopped")
        elif comparison.busy:
            loading = "loading" in (comparison.left.state, comparison.right.state)
            header.show("loading" if loading else "writing")
        elif comparison.coming_back:
            header.show("loading", f"the chat's model comes back: {comparison.coming_back}")
        else:
            header.show("ready")

    def _variant_words(self, take: Take) -> str:
        known = {build.name: build.nominal_bits for build in self._builds}
        bits = take.made.nominal_bits if take.made else known.get(take.variant.name)
        return variant_words(take.variant, bits)

    def _question(self) -> str:
        said = " ".join(self._comparison.subject.messages[-1].content.split())
        return f"▌ {safe_text(said[:QUOTED])}"
