"""A pull or a publishing while it runs."""

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from app import models
from app.jobs import TransferJob
from app.render import safe_text
from app.screens.job_screen import JobScreen
from app.services import Services
from app.transfer_words import transfer_words
from app.widgets.bars import bar
from app.widgets.header import HeaderLine
from compress.progress import JobEvent, Transfer

ASKING = "asking the hub…"


class TransferScreen(JobScreen):
    """Its bar, and bytes, speed and time left."""

    def __init__(self, job: TransferJob, services: Services) -> None:
        name = models.display_name(job.folder)
        heading, noun = f"Downloading {job.repository}", "download"
        if job.what == "publish":
            heading, noun = f"Publishing {name} to {job.repository}", "upload"
        super().__init__(job, services.transfer_command, safe_text(heading), noun)

    def compose_state(self) -> ComposeResult:
        """Two lines."""
        yield Static(ASKING, id="transfer", markup=False)

    def begin(self) -> None:
        """Nothing is known yet."""
        self.query_one(HeaderLine).show("writing", f"{self._noun}ing")
        self.query_one("#transfer", Static).update(ASKING)

    def hear(self, event: JobEvent) -> None:
        """Show where it is."""
        if isinstance(event, Transfer):
            line = self.query_one("#transfer", Static)
            fraction = event.done / event.total if event.total else 0.0
            words = Content.styled(safe_text(transfer_words(event)), "$quiet")
            line.update(Content("\n").join([bar(fraction, line.size.width, "$primary"), words]))
