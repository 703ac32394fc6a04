"""The table of sizes: what each takes, and whether it fits. Words and symbols, not only colour."""

from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import DataTable

from app.units import size
from compress.plan import Choice, PaperScore, Plan

PERPLEXITY = "perplexity"
UNKNOWN = "  ? unknown"
_COLUMNS = (
    ("  bits", 6),
    ("in all", 9),
    ("  fits", 11),
    (PERPLEXITY, 11),
    ("weights", 9),
    ("KV cache", 10),
    ("workspace", 11),
)
"""Headings and widths in cells. What counts comes first: 60 columns have room for all but the
workspace, which stands below the fit bar too."""


class PlanTable(DataTable[Content]):
    """One row per choice, the recommended one marked with a star: a slider for the bits, that Up
    and Down move, and Left and Right as they move the other."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Compress", key_display="Enter"),
        Binding("left", "cursor_up", "Fewer bits", show=False),
        Binding("right", "cursor_down", "More bits", show=False),
    ]

    def __init__(self, **options: Any) -> None:
        super().__init__(cursor_type="row", cell_padding=0, **options)
        self.plan: Plan | None = None

    def show(self, plan: Plan, bits: float | None = None) -> None:
        """Show another plan, the row of ``bits`` under the cursor; without one the recommended."""
        self.plan = plan
        self.clear(columns=True)
        scored = any(choice.paper_score for choice in plan.choices)
        for label, width in _COLUMNS:
            if scored or label != PERPLEXITY:
                self.add_column(_heading(label, width), width=width)
        for choice in plan.choices:
            fit = _fit(choice) if plan.device.memory_known else Content.styled(UNKNOWN, "$quiet")
            self.add_row(*_cells(choice, choice == plan.recommended, fit, scored))
        wanted = next((row for row in plan.choices if row.nominal_bits == bits), plan.recommended)
        chosen = wanted or plan.choices[0]
        self.move_cursor(row=plan.choices.index(chosen))

    @property
    def chosen(self) -> Choice | None:
        """The choice under the cursor."""
        return self.plan.choices[self.cursor_row] if self.plan else None


def _heading(label: str, width: int) -> str:
    """Figures stand at the right of their column; what begins with a space stands at the left."""
    return label if label.startswith(" ") else label.rjust(width)


def _cells(choice: Choice, recommended: bool, fit: Content, scored: bool) -> list[Content]:
    star = ("★ ", "$primary") if recommended else "  "
    parts = ((choice.weights_bytes, 9), (choice.kv_bytes, 10), (choice.workspace_bytes, 11))
    return [
        Content.assemble(star, (f"{choice.nominal_bits:.2f}", "bold")),
        Content(size(choice.total_bytes).rjust(9)),
        fit,
        *([Content(_perplexity(choice.paper_score).rjust(11))] if scored else []),
        *(Content(size(count).rjust(width)) for count, width in parts),
    ]


def _perplexity(score: PaperScore | None) -> str:
    return "–" if score is None or score.perplexity is None else f"{score.perplexity:.2f}"


def _fit(choice: Choice) -> Content:
    if not choice.fits:
        return Content.styled("  ✕ too big", "$error")
    if choice.tight:
        return Content.styled("  ! tight", "$warning")
    return Content.styled("  ✓ fits", "$success")
