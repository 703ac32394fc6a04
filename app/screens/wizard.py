"""What this machine can hold, and which size to make: the first run, and whenever asked for."""

from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, Static

from app import models, sources
from app.engine_client import WorkerDied, WorkerEvent
from app.jobs import Job
from app.render import safe_text
from app.screens.compressing import CompressScreen
from app.services import Services
from app.units import size
from app.widgets.header import HeaderLine
from app.widgets.plan_table import PlanTable
from app.widgets.running_line import RunningLine
from app.widgets.source_list import SourceList
from compress.plan import plan
from engine import protocol
from engine.errors import McChatError
from engine.manifest import is_compressed

SOURCES = (
    "Demo: comes with mc-chat, works offline, ready in about a minute",
    "Mixtral 8x7B Instruct: from a folder that holds the original",
)
INTRO = Content.from_markup(
    "[bold]Welcome to mc-chat.[/]  [$quiet]Choose what this machine shall run; Enter begins.[/]"
)
LOOKING = "looking at this machine…"
IN_BACKGROUND = "The compression goes on in the background, also when you quit mc-chat."
NEEDS_FOLDER = (
    "This version does not download it: type the folder that holds the original "
    "(config.json and safetensors, 93 GB)."
)


class WizardScreen(Screen[Path | None]):
    """Ends with the folder of a compressed model, or, if it may be left, with None."""

    CSS_PATH = "wizard.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", "Next field", key_display="Tab"),
        Binding("d", "device", "Other device"),
        Binding("w", "watch", "Watch"),
        Binding("ctrl+r", "detect", "Look again", show=False),
        Binding("escape", "leave", "Back", key_display="Esc"),
    ]

    def __init__(self, services: Services, may_leave: bool = False) -> None:
        super().__init__()
        self._services = services
        self._may_leave = may_leave
        self._devices: tuple[protocol.Device, ...] = ()
        self._device = 0
        self._demo = sources.demo()
        self._original = sources.mixtral()
        self._source = self._demo

    def compose(self) -> ComposeResult:
        """Machine, model, size: in the order of the decisions."""
        yield HeaderLine()
        with VerticalScroll(id="wizard", can_focus=False):
            yield Static(INTRO, id="intro")
            yield RunningLine(id="running")
            yield Static("THIS MACHINE", classes="heading")
            yield Static(LOOKING, id="machine")
            yield Static("MODEL", classes="heading")
            yield SourceList(SOURCES)
            yield Input(placeholder="folder of the original checkpoint", id="folder", compact=True)
            yield Static("SIZE", classes="heading")
            yield PlanTable()
            yield Static("", id="message", markup=False)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Ask the engine for this machine's devices."""
        self._services.events.subscribe(self, self._hear)
        header = self.query_one(HeaderLine)
        header.about = "set up"
        header.show("starting", LOOKING)
        self.query_one("#folder").display = False
        self.query_one(PlanTable).focus()
        self._services.engine.send(protocol.Detect())
        for model in models.damaged():
            self.notify(model.problem, title=model.name, severity="warning", markup=False)

    # --- what the user does -------------------------------------------------------------------

    def on_source_list_chosen(self, event: SourceList.Chosen) -> None:
        """Another model: another table."""
        is_demo = event.index == 0
        self._source = self._demo if is_demo else self._original
        self.query_one("#folder").display = not is_demo
        self._show_plan()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """A folder was named: its config says what would fit."""
        event.stop()
        try:
            self._original = self._source = sources.local(event.value)
        except McChatError as error:
            self._say(str(error), "error")
            return
        self._show_plan()
        self.query_one(PlanTable).focus()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter on a size, or a click."""
        self.action_compress()

    def action_device(self) -> None:
        """Plan for the next device of this machine."""
        if self._devices:
            self._device = (self._device + 1) % len(self._devices)
            self._show_machine()
            self._show_plan()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """On the first run there is nothing to go back to; often no job runs."""
        if action == "watch":
            return any(line.job for line in self.query(RunningLine))
        return self._may_leave if action == "leave" else super().check_action(action, parameters)

    def action_leave(self) -> None:
        """Back to the chat, with the model as it was."""
        self.dismiss(None)

    async def action_detect(self) -> None:
        """Start the engine's process again and ask once more."""
        self.query_one(HeaderLine).show("starting", LOOKING)
        self.query_one("#machine", Static).update(LOOKING)
        await self._services.engine.restart()
        self._services.engine.send(protocol.Detect())

    def action_compress(self) -> None:
        """Begin with the chosen size, or say what is missing."""
        choice = self.query_one(PlanTable).chosen
        if choice is None:
            self._say("One moment: still looking at this machine.")
        elif self._source.source is None:
            self._say(NEEDS_FOLDER)
            self.query_one("#folder").focus()
        else:
            folder = self._source.folder(choice.nominal_bits)
            if is_compressed(folder):
                self.dismiss(folder)
                return
            self._run_job(Job(self._source.source, choice.nominal_bits, folder))

    def action_watch(self) -> None:
        """Look at the job that runs."""
        running = self.query_one(RunningLine).job
        if running is not None:
            self._show_job(CompressScreen.joining(running, self._services))

    def _run_job(self, job: Job) -> None:
        self._show_job(CompressScreen(job, self._source.title, self._services))

    @work(exclusive=True)
    async def _show_job(self, screen: CompressScreen) -> None:
        folder = await self.app.push_screen_wait(screen)
        line = self.query_one(RunningLine)
        line.look()
        if folder is not None:
            self.dismiss(folder)
        elif line.job is not None:
            self._say(IN_BACKGROUND)
        else:
            self._say("Stopped. What was done is kept: Enter goes on from there.")

    # --- what the engine tells ----------------------------------------------------------------

    def _hear(self, event: WorkerEvent) -> None:
        header = self.query_one(HeaderLine)
        match event:
            case protocol.Devices():
                self._devices = event.devices
                self._device = 0
                header.show("ready")
                self._show_machine()
                self._show_plan()
            case protocol.Failed():
                header.show("down", "no answer")
                self._say(event.message, "error")
            case WorkerDied():
                header.show("down", "engine stopped")
                self._say(f"The engine has stopped ({event.reason}). Ctrl+R tries again.", "error")

    # --- what is shown ------------------------------------------------------------------------

    def _show_machine(self) -> None:
        lines = [
            _device_line(device, chosen=index == self._device)
            for index, device in enumerate(self._devices)
        ]
        self.query_one("#machine", Static).update(Content("\n").join(lines))

    def _show_plan(self) -> None:
        if not self._devices:
            return
        table = plan(
            self._source.config,
            self._devices[self._device],
            preferred_bits=self._source.preferred_bits,
        )
        self.query_one(PlanTable).show(table)
        if table.recommended is None:
            self._say(f"{table.reason}.")
            return
        words = f"★ recommended: {table.reason}, at a context of {table.context:,} tokens."
        if any(choice.paper_score for choice in table.choices):
            words += "\nPerplexity as the paper measured it on WikiText-2; lower is better."
        self._say(words, "quiet")

    def _say(self, text: str, style: str = "warning") -> None:
        message = self.query_one("#message", Static)
        message.update(safe_text(text))
        message.set_classes(f"-{style}")


def _device_line(device: protocol.Device, chosen: bool) -> Content:
    memory = f"{size(device.free_bytes)} free of {size(device.total_bytes)}"
    note = f"  {device.note}" if device.note else ""
    return Content.assemble(
        ("▸ " if chosen else "  ", "$primary"),
        (safe_text(device.name), "bold" if chosen else ""),
        (f"  {memory}{safe_text(note)}", "$quiet"),
    )
