"""A compression while it runs."""

from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Log, Static

from app.compress_client import CompressClient
from app.jobs import Job, RunningJob
from app.render import safe_text
from app.screens.parting import PartingScreen
from app.services import Services
from app.units import clock
from app.widgets.header import HeaderLine
from app.widgets.job_view import JobView
from compress.progress import Done, JobEvent, JobFailed, Progress

KEPT = "Closing the terminal does not stop it. Esc: stop it, or leave it."
STOPPING = "Stopping at the next whole step…"


class JobTold(Message, bubble=False):
    """The job said something."""

    def __init__(self, event: JobEvent) -> None:
        super().__init__()
        self.event = event


class CompressScreen(Screen[Path | None]):
    """Shows one job, started here or joined; ends with the folder of the model, or None when it
    was stopped or left to itself. The job does not need this screen."""

    CSS_PATH = "wizard.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "part", "Stop or leave", key_display="Esc"),
        Binding("escape", "back", "Back", key_display="Esc"),
        Binding("r", "retry", "Try again"),
        Binding("n", "anew", "Begin anew"),
    ]

    def __init__(self, job: Job, title: str, services: Services) -> None:
        super().__init__()
        self._job = job
        self._heading = f"Compressing {title} to {job.bits:g} bits"
        self._services = services
        self._client = CompressClient(self._pass_on, job, services.job_command)
        self._failed = False
        self._has_ended = False
        self._result: Path | None = None
        self._told_at = 0.0

    @classmethod
    def joining(cls, running: RunningJob, services: Services) -> "CompressScreen":
        """Watch a job that was started elsewhere, or earlier."""
        job = Job(running.source, running.bits, running.out)
        return cls(job, safe_text(Path(running.source).name), services)

    def compose(self) -> ComposeResult:
        """The state above, what happened below."""
        yield HeaderLine()
        with Vertical(id="job") as box:
            box.border_title = self._heading
            yield JobView()
            yield Log(id="log", max_lines=200)
            yield Static(KEPT, id="ending", markup=False)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Begin."""
        self.query_one(HeaderLine).about = "set up"
        self.query_one(Log).can_focus = False
        self.set_interval(0.5, self._tick)
        self._start()

    def on_unmount(self) -> None:
        """The job goes on without us."""
        self._client.leave()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A running job can be stopped or left; a failed one tried again, or left."""
        if action in {"retry", "anew", "back"}:
            return self._failed
        return not self._failed if action == "part" else True

    @work(exclusive=True)
    async def action_part(self) -> None:
        """Ask which: stop the job, which ends with what it has finished, or let it go on."""
        match await self.app.push_screen_wait(PartingScreen()):
            case "stop":
                self._end_line(STOPPING)
                self._client.cancel()
            case "leave":
                self.dismiss(None)

    def action_back(self) -> None:
        """Return to the choices."""
        self.dismiss(None)

    def action_retry(self) -> None:
        """Run the job again; it goes on from what is done."""
        self._start()

    def action_anew(self) -> None:
        """Discard what is done, and a model of this name, and run the job from the beginning."""
        self._start(restart=True)

    def _start(self, restart: bool = False) -> None:
        self._set_failed(False)
        self._end_line(KEPT)
        self.query_one(HeaderLine).show("writing", "compressing")
        self.query_one(JobView).progress = None
        self._client.start(restart)

    def _pass_on(self, event: JobEvent) -> None:
        self.post_message(JobTold(event))

    def on_job_told(self, message: JobTold) -> None:
        """Show progress; end with the job."""
        match message.event:
            case Progress() as progress:
                self._show(progress)
            case Done(folder):
                self._end(Path(folder))
            case JobFailed("Interrupted", _):
                self._end(None)
            case JobFailed(_, reason):
                self._set_failed(True)
                self.query_one(HeaderLine).show("down", "failed")
                self._end_line(f"✕ {reason}", error=True)

    def _end(self, result: Path | None) -> None:
        """Leave with this result, or, where something lies above, when that is gone."""
        if self.is_current:
            self.dismiss(result)
            return
        self._has_ended = True
        self._result = result
        if isinstance(self.app.screen, PartingScreen):
            self.app.screen.dismiss(None)  # the question has answered itself

    def on_screen_resume(self) -> None:
        """What lay above is gone."""
        if self._has_ended:
            self._has_ended = False
            self.dismiss(self._result)

    def _show(self, progress: Progress) -> None:
        view = self.query_one(JobView)
        if _is_news(progress, view.progress):
            layer = f"layer {progress.layer + 1}/{progress.layers}"
            line = f"{clock(progress.elapsed_seconds)}  {layer}  {safe_text(progress.message)}"
            self.query_one(Log).write_line(line)
        self._told_at = self._services.clock()
        view.since = 0.0
        view.progress = progress

    def _tick(self) -> None:
        view = self.query_one(JobView)
        if view.progress is not None and not self._failed:
            view.since = self._services.clock() - self._told_at

    def _set_failed(self, failed: bool) -> None:
        self._failed = failed
        self.refresh_bindings()

    def _end_line(self, text: str, error: bool = False) -> None:
        ending = self.query_one("#ending", Static)
        ending.update(safe_text(text))
        ending.set_class(error, "-error")


def _is_news(progress: Progress, before: Progress | None) -> bool:
    """Whether it belongs in the log: not the bytes of a download, which change all the time."""
    if before is None or progress.stage != before.stage:
        return True
    return progress.stage != "download" and progress.message != before.message
