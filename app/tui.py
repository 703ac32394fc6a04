"""The terminal application: it opens the wizard or the chat, and keeps the engine's process."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.notifications import SeverityLevel
from textual.screen import Screen
from textual.signal import Signal
from textual.theme import Theme

from app import jobs, models, paths, settings
from app.ascii_filter import AsciiFilter
from app.background import Background
from app.command_table import COMMANDS, Command
from app.engine_client import WORKER_COMMAND, EngineClient, WorkerEvent
from app.garbage import collect_seldom
from app.history import History
from app.idle import Idleness
from app.jobs import JOB_COMMAND, TRANSFER_COMMAND, RunningTransfer
from app.key_words import key_words, keys_words
from app.keys_here import keys_here
from app.last_used import last_used
from app.render import safe_text
from app.screens.chat import ChatScreen
from app.screens.expert_map import ExpertMapScreen
from app.screens.help import HelpScreen
from app.screens.job_screen import JobScreen
from app.screens.models import ModelsScreen
from app.screens.wizard import WizardScreen
from app.services import Services
from app.setting_words import THEMES as THEME_NAMES
from app.theme import THEMES
from engine.errors import CheckpointError, UsageError
from engine.manifest import read_manifest

NARROW = 100
"""Columns below which the gauges become a strip."""
IDLE_LOOK_SECONDS = 15.0
JOBS_LOOK_SECONDS = 2.0


class McChatApp(App[None]):
    """Chats with ``model``; without one, with the last used, or the wizard makes one.

    ``worker_command``, ``job_command`` and ``transfer_command`` start the processes of the engine,
    of a compression, and of a pull or a publishing.
    """

    TITLE = "mc-chat"
    CSS_PATH = "tui.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1,question_mark", "help", "Keys", key_display="?", id="help"),
        Binding("ctrl+q", "quit", "Quit", priority=True, id="quit"),
    ]

    def __init__(
        self,
        model: Path | None = None,
        worker_command: Sequence[str] = WORKER_COMMAND,
        job_command: Sequence[str] = JOB_COMMAND,
        transfer_command: Sequence[str] = TRANSFER_COMMAND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (NARROW, "-wide")]
        chosen = settings.load(paths.settings_file())
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = chosen.theme
        self.set_keymap(_keymap(chosen.keys))
        if chosen.reduce_motion:
            self.animation_level = "none"
        self._ascii = [AsciiFilter()] if chosen.ascii else []
        self._background = Background()
        self._idleness = Idleness(chosen.idle_unload_minutes, clock)
        events: Signal[WorkerEvent] = Signal(self, "engine")
        self._model = model
        self._next: Path | None = None
        self._services = Services(
            engine=EngineClient(events.publish, worker_command),
            events=events,
            history=History(paths.history_db()),
            settings=chosen,
            job_command=job_command,
            transfer_command=transfer_command,
            clock=clock,
        )

    def on_mount(self) -> None:
        """Draw first; the engine's process starts when the screen is on the terminal."""
        self.theme_changed_signal.subscribe(self, self._keep_theme)
        self._services.events.subscribe(self, self._idleness.hear)
        self.set_interval(IDLE_LOOK_SECONDS, self._sleep_when_idle)
        self.set_interval(JOBS_LOOK_SECONDS, self._tell_of_jobs)
        self._open()
        self.call_after_refresh(self._services.engine.start)
        self.call_after_refresh(self._collect)

    async def on_unmount(self) -> None:
        """Leave no process and no open file behind."""
        await self._services.engine.stop()
        self._services.history.close()

    def action_help(self) -> None:
        """List the keys, those of the screen first; those of the chat are all commands."""
        if not isinstance(self.screen, HelpScreen):
            here = [] if isinstance(self.screen, ChatScreen) else keys_here(self.screen)
            self.push_screen(HelpScreen(self._services.settings.keys, here))

    def action_use_theme(self, name: str) -> None:
        """Change the colours, by the theme's name."""
        if name in self.available_themes:
            self.theme = name
        else:
            known = ", ".join(sorted(self.available_themes))
            self.notify(f"there is no theme {name}; there are: {known}", severity="warning")

    @work
    async def action_models(self) -> None:
        """Load another model, or leave for the wizard."""
        chat = self.screen
        if isinstance(chat, ChatScreen):
            name = models.display_name(chat.model)
            screen = ModelsScreen(name, self._services, lambda: chat.is_writing)
            wanted = await self.push_screen_wait(screen)
            if wanted == "set up":
                chat.leave()
            elif wanted not in {None, chat.model}:
                self._next = wanted
                chat.leave()
            elif not chat.model.is_dir():
                chat.lose_model()
            else:
                chat.look_again()

    def action_sleep(self) -> None:
        """Give the model's memory back; the next message loads it again."""
        chat = self.screen
        if not isinstance(chat, ChatScreen) or not self._idleness.loaded:
            return
        if chat.is_writing:
            self.notify("A reply is being written; Esc stops it.", severity="warning")
        else:
            self._services.engine.sleep()

    def action_map(self) -> None:
        """Show the experts of the chat's model, and which of them run."""
        chat = self.screen
        if isinstance(chat, ChatScreen):
            folder = chat.model
            try:
                manifest = read_manifest(folder)
            except CheckpointError as error:
                self.notify(str(error), title="No map", severity="warning", markup=False)
                return
            name = models.display_name(folder)
            events = self._services.events
            self.push_screen(ExpertMapScreen(name, manifest, events, "live", chat.meters))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What the palette lists: our commands, where the screen below has their actions."""
        keys = self._services.settings.keys
        for command in COMMANDS:
            if self._has(screen, command):
                beside = f"{keys_words(command.keys(keys))}  /{command.name}".strip()
                yield SystemCommand(
                    f"{command.words[0].upper()}{command.words[1:]}",
                    beside,
                    lambda action=command.action: self.run_action(action),
                )

    def get_key_display(self, binding: Binding) -> str:
        """As in our texts; letters and Ctrl are short in the footer."""
        is_short = len(binding.key) == 1 or "ctrl+" in binding.key
        if binding.key_display or is_short:
            return super().get_key_display(binding)
        return key_words(binding.key)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Those of Textual, and plain characters where the settings ask for them."""
        return [*super().get_line_filters(), *self._ascii]

    def _has(self, screen: Screen[object], command: Command) -> bool:
        where, _, action = command.action.partition(".")
        name = f"action_{action.partition('(')[0]}"
        return hasattr(self if where == "app" else screen, name)

    def _sleep_when_idle(self) -> None:
        if self._idleness.is_over:
            self.action_sleep()

    def _tell_of_jobs(self) -> None:
        """Say when a job has ended that was left to itself."""
        screens = [screen for screen in self.screen_stack if isinstance(screen, JobScreen)]
        for ended in self._background.look({screen.place for screen in screens}):
            severity: SeverityLevel = "error" if ended.failed else "information"
            title = safe_text(ended.name)
            self.notify(safe_text(ended.words), title=title, severity=severity, markup=False)

    def _keep_theme(self, theme: Theme) -> None:
        """The next start has the same colours."""
        file = paths.settings_file()
        if theme.name in THEME_NAMES:
            try:
                if theme.name != settings.load(file).theme:
                    settings.set_value(file, ("theme",), theme.name)
            except UsageError as error:
                self.notify(str(error), title="Not saved", severity="warning", markup=False)

    @work
    async def _collect(self) -> None:
        await collect_seldom()

    @work
    async def _open(self) -> None:
        model = self._model or last_used(self._services.history)
        while True:
            if model is not None:
                await self.push_screen_wait(ChatScreen(model, self._services))
                if self._next is not None:
                    model, self._next = self._next, None
                    continue
            if model is not None and not model.is_dir():  # it was removed
                model = last_used(self._services.history)
            wizard = WizardScreen(self._services, may_leave=model is not None)
            model = await self.push_screen_wait(wizard) or model


def _keymap(keys: dict[str, str]) -> dict[str, str]:
    """The settings' keys as Textual takes them."""
    return {
        action: ",".join(key.strip() for key in text.split(",")) for action, text in keys.items()
    }


def run(model: str | None = None) -> None:
    """Open the application, with a model by name or folder.

    Raises McChatError for what is wrong before the screen opens.
    """
    folder = models.resolve(model) if model else None
    McChatApp(folder).run()
    for job in jobs.all_running():
        if isinstance(job, RunningTransfer):
            doing = "downloaded" if job.what == "pull" else "published"
            print(safe_text(f"{models.display_name(job.folder)} is still being {doing}"))
        else:
            name = models.display_name(job.out)
            print(safe_text(f"{name} is still being compressed: `mc-chat watch {name}` shows it"))
