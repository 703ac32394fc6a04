"""What the screens of all jobs share: starting and joining, stopping and leaving, and the end."""

from collections.abc import Sequence
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static

from app.job_client import JobClient
from app.jobs import AnyJob
from app.render import safe_text
from app.screens.parting import PartingScreen
from app.widgets.header import HeaderLine
from app.widgets.keys_footer import KeysFooter
from compress.progress import Done, JobEvent, JobFailed

KEPT = "Closing the terminal does not stop it. Esc: stop it, or leave it."
STOPPING = "Stopping at the next whole step…"


class JobTold(Message, bubble=False):
    """The job said something."""

    def __init__(self, event: JobEvent) -> None:
        super().__init__()
        self.event = event


class JobScreen(Screen[Done | None]):
    """Shows one job, started here or joined; ends with its last word, or None when it was stopped
    or left to itself. The job does not need this screen."""

    CSS_PATH = "wizard.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "part", "Stop or leave", key_display="Esc"),
        Binding("escape", "back", "Back", key_display="Esc"),
        Binding("r", "retry", "Try again"),
    ]

    def __init__(self, job: AnyJob, command: Sequence[str], heading: str, noun: str) -> None:
        """``command`` starts the job; ``noun`` is what a person calls it."""
        super().__init__()
        self.place = job.place
        self._heading = heading
        self._noun = noun
        self._client = JobClient(self._pass_on, job, command)
        self._failed = False
        self._has_ended = False
        self._result: Done | None = None

    def compose(self) -> ComposeResult:
        """The state above, the way out below."""
        yield HeaderLine()
        with Vertical(id="job") as box:
            box.border_title = self._heading
            yield from self.compose_state()
            yield Static(KEPT, id="ending", markup=False)
        yield KeysFooter()

    def compose_state(self) -> ComposeResult:
        """The widgets that show where the job is."""
        raise NotImplementedError

    def begin(self) -> None:
        """The job starts, or starts again: nothing is known of it."""
        raise NotImplementedError

    def hear(self, event: JobEvent) -> None:
        """The job is somewhere else."""
        raise NotImplementedError

    def on_mount(self) -> None:
        """Begin."""
        self.query_one(HeaderLine).about = "set up"
        self._start()

    def on_unmount(self) -> None:
        """The job goes on without us."""
        self._client.leave()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A running job can be stopped or left; a failed one tried again, or left."""
        if action in {"retry", "back"}:
            return self._failed
        return not self._failed if action == "part" else True

    @work(exclusive=True)
    async def action_part(self) -> None:
        """Ask which: stop the job, which ends with what it has finished, or let it go on."""
        match await self.app.push_screen_wait(PartingScreen(self._noun)):
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

    def _start(self, restart: bool = False) -> None:
        self._set_failed(False)
        self._end_line(KEPT)
        self.begin()
        self._client.start(restart)

    def _pass_on(self, event: JobEvent) -> None:
        self.post_message(JobTold(event))

    def on_job_told(self, message: JobTold) -> None:
        """Show progress; end with the job."""
        match message.event:
            case Done() as done:
                self._end(done)
            case JobFailed("Interrupted", _):
                self._end(None)
            case JobFailed() as failed:
                self._set_failed(True)
                self.query_one(HeaderLine).show("down", "failed")
                self._end_line(self.failure_words(failed), error=True)
            case event:
                self.hear(event)

    def failure_words(self, failed: JobFailed) -> str:
        """Why, and what could be done."""
        return f"✕ {failed.message}"

    def _end(self, result: Done | None) -> None:
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

    def _set_failed(self, failed: bool) -> None:
        self._failed = failed
        self.refresh_bindings()

    def _end_line(self, text: str, error: bool = False) -> None:
        ending = self.query_one("#ending", Static)
        ending.update(safe_text(text))
        ending.set_class(error, "-error")
