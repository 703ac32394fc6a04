"""Where a compression is: its bar, its stage, its layer and its times."""

from collections.abc import Sequence

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from app.render import safe_text
from app.units import clock
from app.widgets.bars import bar, spread
from compress.progress import STAGES, Progress, Stage


class JobView(Widget):
    """Four lines; ``since`` is how many seconds ago ``progress`` was told."""

    DEFAULT_CSS = """
    JobView { height: 4; }
    """

    progress: reactive[Progress | None] = reactive(None)
    since: reactive[float] = reactive(0.0)

    _stages: tuple[Stage, ...] = tuple(stage for stage in STAGES if stage != "download")

    def watch_progress(self, progress: Progress | None) -> None:
        """A job that downloads once will do so again; most never do."""
        if progress is not None and progress.stage == "download":
            self._stages = STAGES

    def render(self) -> Content:
        """The bar first: it is what one looks at."""
        width = self.content_size.width
        progress = self.progress
        if progress is None:
            return Content("\n").join([bar(0, width, "$primary"), Content("starting…")])
        percent = f"{progress.fraction:.0%}".rjust(5)
        layer = "beginning"
        if progress.layers:
            layer = f"layer {progress.layer + 1} of {progress.layers}"
        return Content("\n").join(
            [
                Content.assemble(bar(progress.fraction, width - 5, "$primary"), (percent, "bold")),
                spread(Content(layer), Content.styled(self._times(progress), "$quiet"), width),
                Content.styled(_bytes_line(progress), "$quiet"),
                _stage_line(progress, self._stages, width),
            ]
        )

    def _times(self, progress: Progress) -> str:
        elapsed = clock(progress.elapsed_seconds + self.since)
        if progress.eta_seconds is None:
            return f"{elapsed} so far"
        return f"{elapsed} so far · about {clock(max(0.0, progress.eta_seconds - self.since))} left"


def _bytes_line(progress: Progress) -> str:
    """What is being downloaded and how fast; all else that is told stands in the log."""
    return safe_text(progress.message) if progress.stage == "download" else ""


def _stage_line(progress: Progress, stages: Sequence[Stage], width: int) -> Content:
    """The stages in their order; each layer goes through most of them anew."""
    present = stages.index(progress.stage)
    pieces = [_stage(stage, index - present) for index, stage in enumerate(stages)]
    # What is done may go when there is no room, never what is to come.
    while present > 0 and sum(piece.cell_length + 1 for piece in pieces) - 1 > width:
        del pieces[0]
        present -= 1
    room = (width - sum(piece.cell_length for piece in pieces)) // max(1, len(pieces) - 1)
    return Content(" " * min(max(room, 1), 3)).join(pieces)


def _stage(name: str, distance: int) -> Content:
    if distance < 0:
        return Content.styled(f"✓ {name}", "$success")
    if distance == 0:
        return Content.styled(f"▸ {name}", "bold $primary")
    return Content.styled(f"· {name}", "$quiet")
