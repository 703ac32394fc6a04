"""The terminal application: it opens the wizard or the chat, and keeps the engine's process."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import App
from textual.binding import Binding, BindingType
from textual.signal import Signal

from app import jobs, models, paths, settings
from app.engine_client import WORKER_COMMAND, EngineClient, WorkerEvent
from app.history import History
from app.jobs import JOB_COMMAND
from app.last_used import last_used
from app.render import safe_text
from app.screens.chat import ChatScreen
from app.screens.help import HelpScreen
from app.screens.wizard import WizardScreen
from app.services import Services
from app.theme import MC_THEME

NARROW = 100
"""Columns below which the gauges become a strip."""


class McChatApp(App[None]):
    """Chats with ``model``; without one, with the last used, or the wizard makes one.

    ``worker_command`` and ``job_command`` start the engine's and the compression's process.
    """

    TITLE = "mc-chat"
    CSS_PATH = "tui.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1,question_mark", "help", "Keys", key_display="?"),
        Binding("ctrl+q", "quit", "Quit", priority=True),
    ]

    def __init__(
        self,
        model: Path | None = None,
        worker_command: Sequence[str] = WORKER_COMMAND,
        job_command: Sequence[str] = JOB_COMMAND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (NARROW, "-wide")]
        self.register_theme(MC_THEME)
        self.theme = MC_THEME.name
        events: Signal[WorkerEvent] = Signal(self, "engine")
        self._model = model
        self._services = Services(
            engine=EngineClient(events.publish, worker_command),
            events=events,
            history=History(paths.history_db()),
            settings=settings.load(paths.settings_file()),
            job_command=job_command,
            clock=clock,
        )

    def on_mount(self) -> None:
        """Draw first; the engine's process starts when the screen is on the terminal."""
        self._open()
        self.call_after_refresh(self._services.engine.start)

    async def on_unmount(self) -> None:
        """Leave no process and no open file behind."""
        await self._services.engine.stop()
        self._services.history.close()

    def action_help(self) -> None:
        """List the keys."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen())

    @work
    async def _open(self) -> None:
        model = self._model or last_used(self._services.history)
        while True:
            if model is not None:
                await self.push_screen_wait(ChatScreen(model, self._services))
            wizard = WizardScreen(self._services, may_leave=model is not None)
            model = await self.push_screen_wait(wizard) or model


def run(model: str | None = None) -> None:
    """Open the application, with a model by name or folder.

    Raises McChatError for what is wrong before the screen opens.
    """
    folder = models.resolve(model) if model else None
    McChatApp(folder).run()
    for job in jobs.running_jobs():
        name = models.display_name(job.out)
        print(safe_text(f"{name} is still being compressed: `mc-chat watch {name}` shows it"))
