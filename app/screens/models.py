"""The installed models: loaded, looked into, verified, published, removed; or another is made."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import OptionList, Static

from app import jobs, models
from app.date_words import date_words
from app.jobs import RunningTransfer, TransferJob
from app.models import InstalledModel
from app.render import safe_text
from app.screens.expert_map import ExpertMapScreen
from app.screens.job_screen import JobScreen
from app.screens.joining import joining
from app.screens.publishing import PublishScreen
from app.screens.report import ReportScreen
from app.screens.transferring import TransferScreen
from app.services import Services
from app.units import size
from app.widgets.bars import bar
from app.widgets.header import HeaderLine
from app.widgets.keys_footer import KeysFooter
from app.widgets.model_list import ModelList
from app.widgets.running_line import RunningLine
from app.widgets.wish_list import WishList
from engine.errors import Interrupted, McChatError
from engine.manifest import open_manifest, verify_hashes

IN_BACKGROUND = "It goes on in the background, also when you quit mc-chat."
STOPPED = "Stopped. What was done is kept: the next start goes on from there."
NONE_YET = "No model is installed. C compresses one or downloads it."
Wanted = Path | Literal["set up"]


class Read(Message, bubble=False):
    """A file of the model that is verified is read next; ``fraction`` of its bytes are done."""

    def __init__(self, name: str, fraction: float) -> None:
        super().__init__()
        self.name = name
        self.fraction = fraction

    def can_replace(self, message: Message) -> bool:
        """Only where it is now matters."""
        return isinstance(message, Read)


class Verified(Message, bubble=False):
    """It is over; ``error`` None: every byte is what it was."""

    def __init__(self, model: InstalledModel, error: McChatError | None) -> None:
        super().__init__()
        self.model = model
        self.error = error


class ModelsScreen(Screen[Wanted | None]):
    """Ends with the folder of a model to load, with "set up" for the wizard, or with None."""

    CSS_PATH = "models.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "set_up", "New"),
        Binding("escape,f4", "back", "Back", key_display="Esc"),
        Binding("w", "watch", "Watch"),
    ]

    def __init__(self, in_use: str, services: Services, is_writing: Callable[[], bool]) -> None:
        """``in_use`` is the name of the chat's model; ``is_writing``: a reply with it."""
        super().__init__()
        self._in_use = in_use
        self._is_writing = is_writing
        self._services = services
        self._list = ModelList(date_words, services.settings.pruning)
        self._verifying = False
        self._stopping = False
        self._sure = ""

    def compose(self) -> ComposeResult:
        """The list, and a line for what goes on."""
        yield HeaderLine()
        yield Static(NONE_YET, id="none")
        yield self._list
        yield RunningLine(id="running")
        yield Static(id="told", markup=False)
        yield KeysFooter()

    def on_mount(self) -> None:
        """The model in use is highlighted."""
        self._fill()
        self._list.focus()

    def on_unmount(self) -> None:
        """The thread ends with the screen."""
        self._stopping = True

    # --- what the user does -------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Often no job runs."""
        return any(line.job for line in self.query(RunningLine)) if action == "watch" else True

    def action_back(self) -> None:
        """Stop verifying, or leave."""
        if self._verifying:
            self._stopping = True
        else:
            self.dismiss(None)

    def action_set_up(self) -> None:
        """To the wizard."""
        self.dismiss("set up")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter, or a click: load it."""
        model = self._list.model
        if isinstance(model, InstalledModel):
            self.dismiss(model.folder)
        elif model is not None:
            self._tell(model.problem, "error")

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Another one: what was asked of the one before is not meant any more."""
        self._sure = ""

    def on_wish_list_wish(self, event: WishList.Wish) -> None:
        """One letter each."""
        model = self._list.model
        if event.what == "remove" and model is not None:
            self._remove(model.name)
        elif isinstance(model, InstalledModel) and event.what == "map":
            told = self._services.events if model.name == self._in_use else None
            self.app.push_screen(ExpertMapScreen(model.name, model.manifest, told))
        elif isinstance(model, InstalledModel) and event.what == "report":
            pruning = self._services.settings.pruning
            self.app.push_screen(ReportScreen(model.name, model.manifest, pruning))
        elif isinstance(model, InstalledModel) and event.what == "publish":
            self._publish(model)
        elif isinstance(model, InstalledModel) and not self._verifying:
            self._verifying, self._stopping = True, False
            self._verify(model)
        elif model is not None and not self._verifying:
            self._tell("It is damaged: compress or pull it again, or remove it with X.", "error")

    def _remove(self, name: str) -> None:
        """The first press asks, the second removes."""
        is_ours = name == self._in_use
        if is_ours and self._is_writing():
            self._tell(f"{name} is writing a reply: Esc goes back, Esc there stops it.", "error")
        elif self._sure != name:
            self._sure = name
            ours = " It is the chat's: the memory is given back, chats are kept." if is_ours else ""
            self._tell(f"X again removes {name} for good; any other model's key leaves it.{ours}")
        else:
            self._sure = ""
            if is_ours:
                self._services.engine.sleep()
            try:
                freed = models.remove(name)
            except McChatError as error:
                self._tell(str(error), "error")
                return
            self._gone(f"{name} is gone, {size(freed)} are free again.", is_ours)

    def _gone(self, words: str, was_ours: bool) -> None:
        """Show what is left; without any model there is nothing to do but to set one up."""
        if was_ours:
            self._in_use = ""
        if not models.scan():
            self.notify(words, markup=False)
            self.dismiss("set up")
            return
        self._fill()
        self._tell(f"{words} Enter loads another one." if was_ours else words)

    # --- publishing ---------------------------------------------------------------------------

    @work
    async def _publish(self, model: InstalledModel) -> None:
        """Ask where to, and upload it; or look at the upload that runs."""
        running = jobs.running(jobs.publishing_place(model.folder))
        if isinstance(running, RunningTransfer):
            job: TransferJob | None = running.job
        else:
            job = await self.app.push_screen_wait(PublishScreen(model))
        if job is not None:
            await self._watch(TransferScreen(job, self._services))

    @work
    async def action_watch(self) -> None:
        """Look at the job that runs."""
        running = self.query_one(RunningLine).job
        if running is not None:
            await self._watch(joining(running, self._services))

    async def _watch(self, screen: JobScreen) -> None:
        done = await self.app.push_screen_wait(screen)
        self.query_one(RunningLine).look()
        self._fill()
        if done is None:
            left = jobs.running(screen.place) is not None
            self._tell(IN_BACKGROUND if left else STOPPED)
        else:
            name = models.display_name(Path(done.folder))
            self._tell(f"✓ {name} is at {done.url}" if done.url else f"✓ {name} is here.")

    # --- verifying ----------------------------------------------------------------------------

    @work(thread=True, exclusive=True)
    def _verify(self, model: InstalledModel) -> None:
        """In a thread: every byte is read."""
        done = 0

        def hear(name: str) -> None:
            nonlocal done
            if self._stopping:
                raise Interrupted("stopped")
            total = sum(record.bytes for record in manifest.files.values())
            self.post_message(Read(name, done / max(1, total)))
            done += manifest.files[name].bytes

        try:
            manifest = open_manifest(model.folder)
            verify_hashes(model.folder, manifest, hear)
        except McChatError as error:
            self.post_message(Verified(model, error))
        else:
            self.post_message(Verified(model, None))

    def on_read(self, message: Read) -> None:
        """Show how far it is."""
        told = self.query_one("#told", Static)
        told.set_classes("-quiet")
        words = Content.styled(f"Reading {safe_text(message.name)}; Esc stops.", "$quiet")
        width = max(10, told.content_size.width)
        told.update(Content("\n").join([bar(message.fraction, width, "$primary"), words]))

    def on_verified(self, message: Verified) -> None:
        """Say what was found."""
        self._verifying = False
        name, error = message.model.name, message.error
        if error is None:
            count = len(message.model.manifest.files)
            self._tell(f"✓ {name} is whole: {count} files are what they were.")
        elif isinstance(error, Interrupted):
            self._tell("Stopped; not all of it was read.")
        else:
            self._tell(f"✕ {error}", "error")

    # --- what is shown ------------------------------------------------------------------------

    def _fill(self) -> None:
        found = models.scan()
        self._list.show(found, self._in_use)
        self._list.display = bool(found)
        self.query_one("#none").display = not found
        header = self.query_one(HeaderLine)
        total = sum(
            model.manifest.sizes.total_bytes for model in found if isinstance(model, InstalledModel)
        )
        count = "1 model" if len(found) == 1 else f"{len(found)} models"
        header.about = f"{count} · {size(total)}"
        header.show("ready", "installed")

    def _tell(self, text: str, kind: str = "quiet") -> None:
        told = self.query_one("#told", Static)
        told.update(safe_text(text))
        told.set_classes(f"-{kind}")
