"""What this machine can hold, and which size to make: the first run, and whenever asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import DataTable, Input, Static

from app import jobs, models, sources
from app.device_words import memory_words
from app.engine_client import WorkerDied, WorkerEvent
from app.failure_words import Ways
from app.job_words import job_words
from app.jobs import Job, TransferJob
from app.load_choices import LoadChoice, remember
from app.render import safe_text
from app.screens.compressing import CompressScreen
from app.screens.joining import joining
from app.screens.report import ReportScreen
from app.screens.transferring import TransferScreen
from app.services import Services
from app.units import size
from app.widgets.context_slider import ContextSlider, stops
from app.widgets.header import HeaderLine
from app.widgets.keys_footer import KeysFooter
from app.widgets.plan_table import PlanTable
from app.widgets.running_line import RunningLine
from app.widgets.size_panel import SizePanel
from app.widgets.source_list import SourceList
from compress.plan import Choice, Plan, at_contexts, plan
from engine import protocol
from engine.errors import CheckpointError, McChatError
from engine.manifest import is_compressed, read_manifest

DEMO, MIXTRAL, OTHER = range(3)
SOURCES = (
    "Demo: comes with mc-chat, works offline, ready in about a minute",
    "Mixtral 8x7B Instruct: the hub's original, compressed on this machine",
    "Another Mixtral: a folder with the original, or OWNER/NAME on the hub",
)
INTRO = Content.from_markup(
    "[bold]Welcome to mc-chat.[/]  [$quiet]Choose what this machine shall run; Enter begins.[/]"
)
LOOKING = "looking at this machine…"
IN_BACKGROUND = "It goes on in the background, also when you quit mc-chat."
NEEDS_NAME = (
    "Type the folder that holds an original (config.json and safetensors), or OWNER/NAME of a "
    "repository on the hub; Enter looks at it."
)
ASKING = "asking the hub…"


class WizardScreen(Screen[Path | None]):
    """Ends with the folder of a compressed model, or, if it may be left, with None."""

    CSS_PATH = "wizard.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", "Next field", key_display="Tab"),
        Binding("d", "device", "Device"),
        Binding("c", "context", "Context"),
        Binding("w", "watch", "Watch"),
        Binding("ctrl+r", "detect", "Look again", show=False),
        # The lists are too short to need these keys.
        Binding("pageup", "scroll_page(-1)", "Up", show=False, priority=True),
        Binding("pagedown", "scroll_page(1)", "Down", show=False, priority=True),
        Binding("escape", "leave", "Back", key_display="Esc"),
    ]

    def __init__(self, services: Services, may_leave: bool = False) -> None:
        super().__init__()
        self._services = services
        self._may_leave = may_leave
        self._devices: tuple[protocol.Device, ...] = ()
        self._device = 0
        self._tokens = services.settings.context
        originals = [sources.demo(), sources.mixtral(), sources.unnamed()]
        self._sources = [*originals, *sources.ready()]
        self._chosen = DEMO
        self._dared: _Attempt | None = None

    def compose(self) -> ComposeResult:
        """Machine, model, context, size: in the order of the decisions; then what it takes."""
        yield HeaderLine()
        with VerticalScroll(id="wizard", can_focus=False):
            yield Static(INTRO, id="intro")
            yield RunningLine(id="running")
            yield Static("THIS MACHINE", classes="heading")
            yield Static(LOOKING, id="machine")
            yield Static("MODEL", classes="heading")
            yield SourceList([*SOURCES, *map(_build_line, self._sources[len(SOURCES) :])])
            yield Input(placeholder="a folder, or OWNER/NAME", id="folder", compact=True)
            yield SizePanel()
            yield Static("", id="message", markup=False)
        yield KeysFooter()

    def on_mount(self) -> None:
        """Ask the engine for this machine's devices."""
        self._services.events.subscribe(self, self._hear)
        header = self.query_one(HeaderLine)
        header.about = "set up"
        header.show("starting", LOOKING)
        self.query_one("#folder").display = False
        self.query_one(PlanTable).focus()
        # The chat's model would count as another program's; the chat loads it again.
        self._services.engine.send(protocol.Unload())
        self._services.engine.send(protocol.Detect())
        for model in models.damaged():
            self.notify(model.problem, title=model.name, severity="warning", markup=False)

    # --- what the user does -------------------------------------------------------------------

    def on_source_list_chosen(self, event: SourceList.Chosen) -> None:
        """Another model: another table."""
        self._chosen = event.index
        self.query_one("#folder").display = event.index == OTHER
        self._show_plan()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """An original was named: its config says what would fit."""
        event.stop()
        self._write(ASKING if sources.is_repository(event.value.strip()) else "", "quiet")
        self._look_at(event.value.strip())

    @work(thread=True, exclusive=True, group="config")
    def _look_at(self, text: str) -> None:
        """In a thread: the hub may take its time."""
        try:
            found: sources.SourceChoice | McChatError = sources.named(text)
        except McChatError as error:
            found = error
        self.app.call_from_thread(self._show_named, found)

    def _show_named(self, found: sources.SourceChoice | McChatError) -> None:
        if isinstance(found, McChatError):
            self._say(str(found), "error")
            return
        self._sources[OTHER] = found
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

    def action_context(self) -> None:
        """Plan for the next longer context, after the longest for the shortest."""
        slider = self.query_one(ContextSlider)
        if slider.disabled:
            self._say(f"This model was trained for {self._longest:,} tokens and no more.")
        elif self._devices:
            slider.go_round()

    def on_context_slider_moved(self, event: ContextSlider.Moved) -> None:
        """Another context: what the chosen width takes there."""
        chosen = self.query_one(PlanTable).chosen
        self._tokens = event.tokens
        self._show_plan(chosen.nominal_bits if chosen else None)

    def action_scroll_page(self, pages: int) -> None:
        """Up or down, where the screen is low."""
        scroll = self.query_one("#wizard", VerticalScroll)
        scroll.scroll_relative(y=pages * scroll.size.height // 2, animate=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """On the first run there is nothing to go back to; often no job runs, and there is one
        device."""
        if action == "watch":
            return any(line.job for line in self.query(RunningLine))
        if action == "device":
            return len(self._devices) > 1
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
        elif self._source.source is None and self._source.build is None:
            self._say(NEEDS_NAME)
            self.query_one("#folder").focus()
        elif choice.fits or self._is_dared(choice):
            self._begin(choice)

    def _is_dared(self, choice: Choice) -> bool:
        """Whether Enter was pressed a second time on what does not fit; the first asks for it."""
        now = self._plan()
        device = now.device
        if device.problem:
            self._say(f"{device.name} cannot be used: {device.problem}.", "error")
            return False
        attempt = _Attempt(self._source, choice, device.id, now.context)
        if attempt == self._dared:
            return True
        self._dared = attempt
        short = size(choice.total_bytes - device.free_bytes)
        self._say(
            f"{choice.nominal_bits:g} bits need {short} more than is free on {device.name}. "
            "Enter again tries it anyway; loading it, or a long chat, may then fail."
        )
        return False

    def _begin(self, choice: Choice) -> None:
        """Open the model if it is there, else get it; how to load it is kept for the chat."""
        source, device = self._source, self._devices[self._device]
        folder = source.folder(choice.nominal_bits)
        try:
            remember(folder, LoadChoice(device.id, self._plan().context, not choice.fits))
        except OSError as error:
            self.notify(f"the device could not be remembered: {error}", severity="warning")
        if is_compressed(folder):
            self.dismiss(folder)
        elif source.build:
            build = source.build
            pull = TransferJob("pull", build.repository, folder, build.revision)
            self._show_job(TransferScreen(pull, self._services))
        elif source.source is not None:
            self._run_job(Job(source.source, choice.nominal_bits, folder, device.id))

    def action_watch(self) -> None:
        """Look at the job that runs."""
        running = self.query_one(RunningLine).job
        if running is not None:
            self._show_job(joining(running, self._services))

    def _run_job(self, job: Job) -> None:
        ways = self._ways(job.bits)
        self._show_job(CompressScreen(job, self._source.title, self._services, ways))

    def _ways(self, bits: float) -> Ways:
        """What else could be chosen."""
        fewer = [row.nominal_bits for row in self._plan().choices if row.nominal_bits < bits]
        chosen, source = self._devices[self._device], self._source
        others = [one for one in self._devices if one.id != chosen.id and not one.problem]
        saved = 0
        if fewer:
            most, less = (source.disk_bytes(one, chosen.kind) for one in (bits, fewer[-1]))
            saved = most - less
        return Ways(fewer[-1] if fewer else None, saved, others[0].name if others else "")

    @work(exclusive=True)
    async def _show_job(self, screen: CompressScreen | TransferScreen) -> None:
        done = await self.app.push_screen_wait(screen)
        self.query_one(RunningLine).look()
        if done is not None:
            await self._report(Path(done.folder))
            self.dismiss(Path(done.folder))
        elif jobs.running(screen.place):
            self._say(IN_BACKGROUND)
        else:
            self._say("Stopped. What was done is kept: Enter goes on from there.")

    async def _report(self, folder: Path) -> None:
        """Show how good it has become, where that was measured."""
        try:
            manifest = read_manifest(folder)
        except CheckpointError:
            return  # the chat says what is wrong when it loads it
        if manifest.quality is not None:
            name, pruning = models.display_name(folder), self._services.settings.pruning
            await self.app.push_screen_wait(ReportScreen(name, manifest, pruning))

    # --- what the engine tells ----------------------------------------------------------------

    def _hear(self, event: WorkerEvent) -> None:
        header = self.query_one(HeaderLine)
        match event:
            case protocol.Devices():
                self._devices = event.devices
                self._device = self._preferred_device()
                header.show("ready")
                self._show_machine()
                self._show_plan()
                self.refresh_bindings()
            case protocol.Failed():
                header.show("down", "no answer")
                self._say(event.message, "error")
            case WorkerDied():
                header.show("down", "engine stopped")
                self._say(f"The engine has stopped ({event.reason}). Ctrl+R tries again.", "error")

    # --- what is shown ------------------------------------------------------------------------

    @property
    def _source(self) -> sources.SourceChoice:
        return self._sources[self._chosen]

    @property
    def _longest(self) -> int:
        """Tokens that the model was trained for."""
        return self._source.config.max_context

    def _preferred_device(self) -> int:
        """The one that the settings name, or the best."""
        ids = [device.id for device in self._devices]
        wanted = self._services.settings.device
        return ids.index(wanted) if wanted in ids else 0

    def _plan(self, bits: float | None = None) -> Plan:
        """For what is chosen now; ``bits``: a width that is shown even where it does not fit."""
        source, device = self._source, self._devices[self._device]
        context = None if self._tokens is None else min(self._tokens, self._longest)
        only = source.build.nominal_bits if source.build else None
        return plan(
            source.config,
            device,
            context,
            source.preferred_bits,
            self._devices,
            only=only,
            kv_bits=self._services.settings.kv_bits,
            also=bits,
        )

    def _show_machine(self) -> None:
        lines = [
            _device_line(device, chosen=index == self._device)
            for index, device in enumerate(self._devices)
        ]
        self.query_one("#machine", Static).update(Content("\n").join(lines))

    def _show_plan(self, bits: float | None = None) -> None:
        """``bits``: the width to stay at, None: the recommended."""
        if not self._devices:
            return
        source, settings, table = self._source, self._services.settings, self._plan(bits)
        wanted = [tokens for tokens in (settings.context, table.context) if tokens]
        contexts = stops(self._longest, wanted)

        def weigh(bits: float) -> tuple[Choice, ...]:
            kv_bits = settings.kv_bits
            return at_contexts(source.config, table.device, contexts, bits, kv_bits=kv_bits)

        self.query_one(SizePanel).show(table, contexts, weigh, bits)
        if table.recommended is None:
            self._write(f"{table.reason}. Enter twice tries anyway.", "warning")
            return
        words = [f"★ recommended: {table.reason}."]
        words += job_words(source, table.recommended.nominal_bits, table.device.kind)
        if any(choice.paper_score for choice in table.choices):
            words.append("Perplexity as the paper measured it on WikiText-2; lower is better.")
        self._write("\n".join(words), "quiet")

    def _say(self, text: str, style: str = "warning") -> None:
        """What must be seen at once."""
        self._write(text, style)
        self.call_after_refresh(self.query_one("#message").scroll_visible, animate=False)

    def _write(self, text: str, style: str) -> None:
        message = self.query_one("#message", Static)
        message.update(safe_text(text))
        message.set_classes(f"-{style}")


@dataclass(frozen=True)
class _Attempt:
    """Something that does not fit, and that Enter was pressed on."""

    source: sources.SourceChoice
    choice: Choice
    device: str
    context: int


def _build_line(source: sources.SourceChoice) -> str:
    return f"Ready: {safe_text(source.title)}, {size(source.download_bytes)} to download"


def _device_line(device: protocol.Device, chosen: bool) -> Content:
    note = f"  {device.note}" if device.note else ""
    return Content.assemble(
        ("▸ " if chosen else "  ", "$primary"),
        (safe_text(device.name), "bold" if chosen else ""),
        (safe_text(f"  {memory_words(device)}{note}"), "$quiet"),
    )
