"""Context, size, and what both take of the memory: two sliders and the bar that follows them."""

from collections.abc import Callable, Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.events import DescendantFocus
from textual.widgets import DataTable, Static

from app.widgets.context_slider import ContextSlider, stop_words
from app.widgets.fit_bar import FitBar
from app.widgets.plan_table import PlanTable
from compress.plan import Choice, Plan

Weigh = Callable[[float], Sequence[Choice]]
"""What a width takes at each of the contexts that can be chosen."""


class SizePanel(Vertical):
    """Another row of the table is weighed here; another context is for whoever makes the plan."""

    def __init__(self) -> None:
        super().__init__()
        self._contexts: tuple[int, ...] = ()
        self._weigh: Weigh = lambda bits: ()

    def compose(self) -> ComposeResult:
        """In the order of the decisions."""
        yield Static("CONTEXT", id="context", classes="heading")
        yield ContextSlider()
        yield Static("SIZE", id="size", classes="heading")
        yield PlanTable()
        yield FitBar()

    def show(self, plan: Plan, contexts: Sequence[int], weigh: Weigh, bits: float | None) -> None:
        """Show another plan, its context one of ``contexts``, at the width ``bits`` or without one
        at the recommended."""
        self._contexts, self._weigh = tuple(contexts), weigh
        self.query_one(PlanTable).show(plan, bits)
        self._show_fit()

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Another width; what Enter begins is seen, where the screen is low and the plan came late,
        too."""
        event.stop()
        self._show_fit()
        if event.data_table.has_focus:
            self.call_after_refresh(self.scroll_visible, animate=False)

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        """Where the screen is low: with a slider comes what it changes."""
        self.call_after_refresh(self.scroll_visible, animate=False)

    def _show_fit(self) -> None:
        table = self.query_one(PlanTable)
        plan, chosen = table.plan, table.chosen
        if plan is None or chosen is None:
            return
        choices = self._weigh(chosen.nominal_bits)
        self.query_one(ContextSlider).show(self._contexts, plan.context, choices)
        self.query_one(FitBar).show(chosen, plan.device)
        words = f"  {plan.context:,} tokens"
        fitting = [tokens for tokens, row in zip(self._contexts, choices, strict=True) if row.fits]
        if len(fitting) < len(choices):
            most = f"up to {stop_words(fitting[-1])}" if fitting else "at none of these"
            words += f"; {chosen.nominal_bits:.2f} bits fit {most}"
        self.query_one("#context", Static).update(Content.assemble("CONTEXT", (words, "$quiet")))
