"""Tells that a job is running somewhere on this machine."""

from textual.content import Content
from textual.widgets import Static

from app import jobs, models
from app.jobs import RunningJob, RunningTransfer
from app.render import safe_text


class RunningLine(Static):
    """One line while a job runs, nothing otherwise; ``job`` is the one to be watched."""

    DEFAULT_CSS = """
    RunningLine { height: auto; }
    """

    LOOK_SECONDS = 1.0

    job: RunningJob | RunningTransfer | None = None

    def on_mount(self) -> None:
        """Look now, and again and again: jobs start and end elsewhere too."""
        self.look()
        self.set_interval(self.LOOK_SECONDS, self.look)

    def look(self) -> None:
        """See which jobs run."""
        running = jobs.all_running()
        first = running[0] if running else None
        self.display = first is not None
        if first is not None:
            others = f" and {len(running) - 1} more" if len(running) > 1 else ""
            self.update(
                Content.assemble(
                    ("▸ ", "$primary"),
                    (f"{_words(first)}{others} is running: ", ""),
                    ("W", "bold $primary"),
                    (" watches.", ""),
                )
            )
        if first != self.job:
            self.job = first
            self.screen.refresh_bindings()


def _words(job: RunningJob | RunningTransfer) -> str:
    if isinstance(job, RunningJob):
        return f"A compression of {safe_text(models.display_name(job.out))}"
    what = "A download" if job.what == "pull" else "An upload"
    return f"{what} of {safe_text(models.display_name(job.folder))}"
