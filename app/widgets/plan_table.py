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
    ("weights", 10),
    ("KV cache", 10),
    ("workspace", 11),
    ("in all", 10),
    ("  fits", 11),
    (PERPLEXITY, 12),
)
"""Headings and widths in cells: 70 in all, for 80 columns."""


class PlanTable(DataTable[Content]):
    """One row per choice, the recommended one under the cursor and marked with a star."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Compress", key_display="Enter")
    ]

    def __init__(self, **options: Any) -> None:
        super().__init__(cursor_type="row", cell_padding=0, **options)
        self._plan: Plan | None = None

    def show(self, plan: Plan) -> None:
        """Show another plan."""
        self._plan = plan
        self.clear(columns=True)
        scored = any(choice.paper_score for choice in plan.choices)
        for label, width in _COLUMNS:
            if scored or label != PERPLEXITY:
                self.add_column(_heading(label, width), width=width)
        for choice in plan.choices:
            fit = _fit(choice) if plan.device.memory_known else Content.styled(UNKNOWN, "$quiet")
            self.add_row(*_cells(choice, choice == plan.recommended, fit, scored))
        chosen = plan.recommended or plan.choices[0]
        self.move_cursor(row=plan.choices.index(chosen))

    @property
    def chosen(self) -> Choice | None:
        """The choice under the cursor."""
        return self._plan.choices[self.cursor_row] if self._plan else None


def _heading(label: str, width: int) -> str:
    """Figures stand at the right of their column; what begins with a space stands at the left."""
    return label if label.startswith(" ") else label.rjust(width)


def _cells(choice: Choice, recommended: bool, fit: Content, scored: bool) -> list[Content]:
    sizes = (
        (choice.weights_bytes, 10),
        (choice.kv_bytes, 10),
        (choice.workspace_bytes, 11),
        (choice.total_bytes, 10),
    )
    star = ("★ ", "$primary") if recommended else "  "
    cells = [
        Content.assemble(star, (f"{choice.nominal_bits:.2f}", "bold")),
        *(Content(size(count).rjust(width)) for count, width in sizes),
        fit,
    ]
    if scored:
        cells.append(Content(_perplexity(choice.paper_score).rjust(12)))
    return cells


def _perplexity(score: PaperScore | None) -> str:
    return "–" if score is None or score.perplexity is None else f"{score.perplexity:.2f}"


def _fit(choice: Choice) -> Content:
    if not choice.fits:
        return Content.styled("  ✕ too big", "$error")
    if choice.tight:
        return Content.styled("  ! tight", "$warning")
    return Content.styled("  ✓ fits", "$success")
