"""The map of the experts beside the chat: which run and which are pruned, while the model talks."""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from app.expert_facts import TALKING, Live, View, legend
from app.widgets.expert_map import ExpertMap
from app.widgets.gauge import Readings
from engine.manifest import Manifest

WIDTH = 41
"""Columns, the padding included: label, eight narrow cells, the share that is pruned."""


class MapPanel(Vertical):
    """Hidden until `turn` shows it; each further turn shows the next view, after the last none."""

    def __init__(self) -> None:
        super().__init__(classes="-hidden")
        self._view: View | None = None
        self._live = Live()

    def compose(self) -> ComposeResult:
        """Which view, the grid, what it means."""
        yield Static(id="map-title")
        yield Static(id="map-legend")

    async def turn(self, manifest: Manifest) -> None:
        """Show the first view, or the next one; hide after the last."""
        before = self._view
        await self.hide()
        place = 0 if before is None else TALKING.index(before) + 1
        if place < len(TALKING):
            await self._show(manifest, TALKING[place])

    async def hide(self) -> None:
        """Away with it."""
        self._view = None
        self.add_class("-hidden")
        await self.query(ExpertMap).remove()

    async def _show(self, manifest: Manifest, view: View) -> None:
        self._view = view
        grid = ExpertMap(manifest)
        grid.can_focus = False
        grid.view, grid.live = view, self._live
        await self.mount(grid, before="#map-legend")
        grid.fit(WIDTH - 4)
        title = Content.assemble(("EXPERTS ", "bold $quiet"), (f" {view} ", "reverse bold"))
        self.query_one("#map-title", Static).update(title)
        words = f"digit: bits · bar: {legend(view, self._live)}"
        self.query_one("#map-legend", Static).update(Content.styled(words, "$quiet"))
        self.remove_class("-hidden")

    def tell(self, readings: Readings) -> None:
        """What ran in the last second."""
        self._live = Live.between(readings.latest)
        for grid in self.query(ExpertMap):
            grid.live = self._live
