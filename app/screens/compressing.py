"""A compression while it runs."""

from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Log

from app.failure_words import Ways, failure_words
from app.jobs import Job, RunningJob
from app.render import safe_text
from app.screens.job_screen import JobScreen
from app.services import Services
from app.units import clock
from app.widgets.header import HeaderLine
from app.widgets.job_view import JobView
from compress.progress import JobEvent, JobFailed, Progress

NO_WAYS = Ways()


class CompressScreen(JobScreen):
    """Its bar, its stages, its times, and what happened."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("n", "anew", "Begin anew")]

    def __init__(self, job: Job, title: str, services: Services, ways: Ways = NO_WAYS) -> None:
        """``ways``: what else could be chosen, should it fail."""
        heading = f"Compressing {title} to {job.bits:g} bits"
        super().__init__(job, services.job_command, heading, "compression")
        self._services = services
        self._ways = ways
        self._told_at = 0.0

    @classmethod
    def joining(cls, running: RunningJob, services: Services) -> "CompressScreen":
        """Watch a job that was started elsewhere, or earlier."""
        job = Job(running.source, running.bits, running.out)
        return cls(job, safe_text(Path(running.source).name), services)

    def compose_state(self) -> ComposeResult:
        """The state above, what happened below."""
        yield JobView()
        yield Log(id="log", max_lines=200)

    def on_mount(self) -> None:
        """The clock runs between two words, too."""
        self.query_one(Log).can_focus = False
        self.set_interval(0.5, self._tick)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What failed can be begun anew."""
        return self._failed if action == "anew" else super().check_action(action, parameters)

    def action_anew(self) -> None:
        """Discard what is done, and a model of this name, and run the job from the beginning."""
        self._start(restart=True)

    def begin(self) -> None:
        """Nothing is known yet."""
        self.query_one(HeaderLine).show("writing", "compressing")
        self.query_one(JobView).progress = None

    def failure_words(self, failed: JobFailed) -> str:
        """Why, and what could be chosen instead."""
        return failure_words(failed, self._ways)

    def hear(self, event: JobEvent) -> None:
        """Show a step."""
        if not isinstance(event, Progress):
            return
        view = self.query_one(JobView)
        if _is_news(event, view.progress):
            when = clock(event.elapsed_seconds)
            if event.layers:  # known once the layers begin
                when += f"  layer {event.layer + 1}/{event.layers}"
            self.query_one(Log).write_line(f"{when}  {safe_text(event.message)}")
        self._told_at = self._services.clock()
        view.since = 0.0
        view.progress = event

    def _tick(self) -> None:
        view = self.query_one(JobView)
        if view.progress is not None and not self._failed:
            view.since = self._services.clock() - self._told_at


def _is_news(progress: Progress, before: Progress | None) -> bool:
    """Whether it belongs in the log: not the bytes of a download, which change all the time."""
    if before is None or progress.stage != before.stage:
        return True
    return progress.stage != "download" and progress.message != before.message
