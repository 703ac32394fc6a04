"""The table of sizes: what each takes, and whether it fits. Words and symbols, not only colour."""

from typing import Any

from textual.content import Content
from textual.widgets import DataTable

from app.units import size
from compress.plan import Choice, Plan


class PlanTable(DataTable[Content]):
    """One row per choice, the recommended one under the cursor."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cursor_type="row", zebra_stripes=False, **options)
        self._plan: Plan | None = None

    def show(self, plan: Plan) -> None:
        """Show another plan."""
        self._plan = plan
        self.clear(columns=True)
        scored = any(choice.paper_score for choice in plan.choices)
        columns = ["bits", "weights", "KV cache", "workspace", "in all", "fits"]
        self.add_columns(*columns, *(["perplexity"] if scored else []), "")
        for choice in plan.choices:
            self.add_row(*_cells(choice, choice == plan.recommended, scored))
        chosen = plan.recommended or plan.choices[0]
        self.move_cursor(row=plan.choices.index(chosen))

    @property
    def chosen(self) -> Choice | None:
        """The choice under the cursor."""
        return self._plan.choices[self.cursor_row] if self._plan else None


def _cells(choice: Choice, recommended: bool, scored: bool) -> list[Content]:
    figures = [
        choice.weights_bytes,
        choice.kv_bytes,
        choice.workspace_bytes,
        choice.total_bytes,
    ]
    cells = [
        Content.styled(f"{choice.nominal_bits:.2f}", "bold"),
        *(Content(size(count).rjust(8)) for count in figures),
        _fit(choice),
    ]
    if scored:
        score = choice.paper_score
        cells.append(Content(f"{score.perplexity:.2f}".rjust(6) if score else "     –"))
    cells.append(Content.styled("★ recommended", "$primary") if recommended else Content())
    return cells


def _fit(choice: Choice) -> Content:
    if not choice.fits:
        return Content.styled("✕ too big", "$error")
    if choice.tight:
        return Content.styled("! tight", "$warning")
    return Content.styled("✓ fits", "$success")
