"""A chat with the engine: replies begin here, grow and end. What the keys do is in `ChatScreen`."""

import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from textual.app import ComposeResult
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Static

from app.conversation import Conversation
from app.engine_client import WorkerDied, WorkerEvent
from app.history import HistoryError, MadeWith, State
from app.load_choices import load_request
from app.load_words import load_words
from app.models import display_name
from app.render import safe_text
from app.services import Services
from app.welcome import welcome
from app.widgets.chat_view import ChatView
from app.widgets.chips import Chips
from app.widgets.gauge import Readings
from app.widgets.gauges import Gauges, NewReadings
from app.widgets.header import HeaderLine
from app.widgets.keys_footer import KeysFooter
from app.widgets.map_panel import MapPanel
from app.widgets.messages import ModelMessage
from app.widgets.prompt import Prompt
from engine import protocol
from engine.protocol import PruningMode, SamplingOptions

SAVE_SECONDS = 0.25
READING = "reading the chat"
"""Before the first token: a long chat takes its time."""
WAITING = "waits until the model is loaded"

RESTART = (("Restart engine (Ctrl+R)", "screen.restart"),)
OTHER_MODEL = (("Choose a model (F4)", "app.models"),)
CONTEXT_FULL = (
    ("Drop oldest turns", "screen.drop_oldest"),
    ("Summarise by hand", "screen.summarise"),
    ("New chat (Ctrl+N)", "screen.new_chat"),
)


class TalkingScreen(Screen[None]):
    """One model and one chat with it at a time.

    Keys act outside the screen's own message queue. What changes the chat goes through that queue
    (`call_next`), one thing after the other, as the engine's events do.
    """

    def __init__(self, model: Path, services: Services) -> None:
        super().__init__()
        self.model = model
        self._model_name = display_name(model)
        self._services = services
        self._odp = protocol.SetPruning(services.settings.pruning)
        self._sampling: SamplingOptions = services.settings.sampling
        self._max_tokens = services.settings.max_tokens
        self._readings = Readings(pruning=self._odp)
        self._reply_ids = itertools.count(1)
        self._count_id = 0
        self._reply_view: ModelMessage | None = None
        self._warned = False
        self._loaded: protocol.Loaded | None = None
        self._header = HeaderLine()
        self._gauges = Gauges()
        self._gauges.set_class(not services.settings.show_gauges, "-hidden")
        self._map = MapPanel()
        self._view = ChatView()
        self._chips = Chips()
        self._offer = Static(id="offer", markup=False)
        self._offer.display = False
        self._prompt = Prompt(services.settings.enter_sends)
        last = services.history.last_chat(self._model_name)
        self._conversation = self._open(last.id if last else None)

    def compose(self) -> ComposeResult:
        """The gauges are docked beside or above the messages by the style sheet."""
        yield self._header
        with Container(id="body"):
            yield self._map
            yield self._gauges
            yield self._view
            yield self._chips
            yield self._offer
            yield self._prompt
        yield KeysFooter()

    async def on_mount(self) -> None:
        """Show the last chat at once; the model loads meanwhile."""
        self._services.events.subscribe(self, self._hear)
        self.set_interval(SAVE_SECONDS, self._save)
        self._header.about = self._model_name
        self._load()
        self._prompt.focus()
        await self._show_conversation()

    async def on_unmount(self) -> None:
        """A reply that is being written ends with the program, and is kept."""
        if self._conversation.reply:
            # What was saved a moment ago is there; nobody is left to tell more to.
            with suppress(HistoryError):
                self._conversation.end("stopped")

    # --- a reply ------------------------------------------------------------------------------

    @property
    def _refusal(self) -> str:
        """Why no reply can begin now, empty if one can."""
        if self._conversation.reply:
            return "A reply is being written; Esc stops it."
        if self._header.state == "down" and not self.model.is_dir():
            return f"{self._model_name} is not on this machine any more; F4 chooses another model."
        if self._header.state == "down" and self._services.engine.running:
            return "No model is loaded; Ctrl+R tries again, F4 chooses another one."
        if self._header.state == "down":
            return "The engine is not running; Ctrl+R restarts it."
        return ""

    async def _begin_reply(self) -> None:
        """Ask the engine for the reply that the conversation has begun."""
        await self._view.drop_notices()
        self._offer.display = False
        self._reply_view = await self._view.begin()
        self._services.engine.send(self._conversation.request())
        self._show_readings(self._readings.at_start_of_reply())
        if self._header.state == "ready":
            self._header.show("writing", READING)
        else:
            self._reply_view.wait(WAITING)
        self._warned = False
        self.refresh_bindings()

    async def _end_reply(self, state: State, finished: protocol.Finished | None = None) -> None:
        if self._conversation.reply is None:
            return
        view, self._reply_view = self._reply_view, None
        assert view is not None
        try:
            record = self._conversation.end(state, finished)
        except HistoryError as error:
            record = self._conversation.records[-1]
            self._warn_unsaved(error)
        await view.finish(record)
        self.refresh_bindings()

    def _made_with(self) -> MadeWith:
        loaded = self._loaded
        return MadeWith(
            model=self._model_name,
            nominal_bits=loaded.nominal_bits if loaded else None,
            device=loaded.device if loaded else "",
            pruning=self._odp.mode,
            pruning_strength=self._odp.strength,
            sampling=self._sampling,
            max_tokens=self._max_tokens,
        )

    # --- what the engine tells ----------------------------------------------------------------

    async def _hear(self, event: WorkerEvent) -> None:
        match event:
            case protocol.LoadProgress():
                self._header.show("loading", load_words(event))
            case protocol.Loaded() if self._is_ours(event.model):
                self._hear_loaded(event)
            case protocol.Counted() if event.id == self._count_id:
                self._show_readings(replace(self._readings, counted=event.tokens))
            case protocol.Unloaded() if self._header.state != "down":
                self._header.show("ready", "asleep; a message wakes it")
                self._show_readings(replace(self._readings, memory=None))
            case protocol.Token() if self._is_current(event.id):
                self._hear_token(event)
            case protocol.MetersUpdate() if self._is_current(event.id):
                self._show_readings(self._readings.with_meters(event.meters))
            case protocol.Finished() if self._is_current(event.id):
                await self._hear_finished(event)
            case protocol.Failed():
                await self._hear_failed(event)
            case WorkerDied():
                await self._hear_death(event)

    def _hear_loaded(self, loaded: protocol.Loaded) -> None:
        self._loaded = loaded
        self._keep_to(loaded.prunings)
        self._show_about()
        if self._reply_view is not None:
            self._header.show("writing", READING)
            self._reply_view.wait("")
        else:
            self._header.show("ready")
        self._show_readings(
            replace(
                self._readings,
                memory=loaded.memory,
                total_params=loaded.total_params,
                context=loaded.context,
                kernels=loaded.kernels,
            )
        )
        self._count()

    def _keep_to(self, prunings: Sequence[PruningMode]) -> None:
        """Prune as this model can: another one, or the settings, may have asked for more."""
        if self._odp.mode in prunings:
            return
        self._odp = replace(self._odp, mode="odp")
        self._show_readings(replace(self._readings, pruning=self._odp))
        words = (
            f"{self._model_name} has learned no OTP: ODP prunes instead. `mc-chat prune` adds it."
        )
        self.notify(words, severity="warning", markup=False)

    def _hear_token(self, token: protocol.Token) -> None:
        assert self._reply_view is not None
        self._reply_view.write(self._conversation.add(token.text))
        if self._header.state == "writing":
            self._header.status = ""

    async def _hear_finished(self, finished: protocol.Finished) -> None:
        self._show_readings(self._readings.with_meters(finished.meters))
        state: State = "stopped" if finished.finish_reason == "cancelled" else "done"
        await self._end_reply(state, finished)
        self._header.show("ready")
        if finished.finish_reason == "context":
            await self._tell("The context is full: the reply was cut.", CONTEXT_FULL)
        elif finished.finish_reason == "length":
            await self._tell(
                "The reply was cut at the token limit.", (("Go on (Ctrl+T)", "screen.go_on"),)
            )

    async def _hear_failed(self, failed: protocol.Failed) -> None:
        if self._is_ours(failed.model):
            await self._hear_not_loaded(failed)
        elif failed.id is None and not failed.model:
            await self._tell(failed.message)
        elif failed.id is not None and self._is_current(failed.id):
            await self._end_reply("failed")
            self._header.show("ready")
            full = failed.kind == "ContextFullError"
            await self._tell(failed.message, CONTEXT_FULL if full else ())

    async def _hear_not_loaded(self, failed: protocol.Failed) -> None:
        self._header.show("down", "not loaded")
        await self._end_reply("failed")
        await self._tell(failed.message, (("Try again (Ctrl+R)", "screen.restart"), *OTHER_MODEL))

    async def _hear_death(self, died: WorkerDied) -> None:
        self._header.show("down", "engine stopped")
        self._show_readings(Readings(pruning=self._odp))
        await self._end_reply("failed")
        reason = f"The engine has stopped ({died.reason}). The chat is safe."
        await self._tell(reason, RESTART)

    # --- the rest -----------------------------------------------------------------------------

    def _load(self) -> None:
        self._services.engine.send(load_request(self.model, self._services.settings))

    def _count(self) -> None:
        """Have the engine count what the next reply will find in the context."""
        if self._loaded is None or self._conversation.reply:
            return
        self._count_id = next(self._reply_ids)
        prompt = self._conversation.prompt()
        if prompt:
            self._services.engine.send(protocol.Count(self._count_id, prompt))
        else:
            self._show_readings(replace(self._readings, counted=0))

    def _open(self, chat: int | None) -> Conversation:
        """A chat goes on as its last reply was made, a new one as the settings say."""
        services = self._services
        chat_opened = Conversation(
            services.history, self._model_name, services.settings.system, chat
        )
        made = chat_opened.last_made
        self._sampling = made.sampling if made else services.settings.sampling
        self._max_tokens = made.max_tokens if made else services.settings.max_tokens
        return chat_opened

    async def _show_conversation(self, around: int | None = None) -> None:
        """From its end, or around a message's depth, which has the focus then."""
        turn = await self._view.show(self._conversation, welcome(self._model_name), around)
        if turn:
            self.set_focus(turn)  # at once, so that it is not let go
        self._show_about()
        # What the engine counted last was of another line.
        readings = replace(self._readings, meters=None, counted=None)
        self._show_readings(readings.at_start_of_reply())
        self._count()
        self.refresh_bindings()

    def _show_about(self) -> None:
        words = [self._model_name]
        if loaded := self._loaded:
            bits = loaded.nominal_bits
            words += ["16 bits" if bits is None else f"{bits:.2f} bits", loaded.device]
        if self._conversation.preset:
            words.append(safe_text(self._conversation.preset))
        self._header.about = " · ".join(words)

    def _save(self) -> None:
        try:
            self._conversation.save()
        except HistoryError as error:
            self._warn_unsaved(error)

    def _warn_unsaved(self, error: HistoryError) -> None:
        """Once per reply: saving is tried again four times a second."""
        if not self._warned:
            self._warned = True
            self.notify(str(error), title="Not saved", severity="error", markup=False)

    @property
    def is_writing(self) -> bool:
        """Whether a reply is being written."""
        return self._conversation.reply is not None

    @property
    def meters(self) -> protocol.Meters | None:
        """Of the reply that is written, or that was written last."""
        return self._readings.meters

    def _is_current(self, reply: int) -> bool:
        return self._conversation.reply is not None and self._conversation.reply.id == reply

    def _is_ours(self, folder: str) -> bool:
        """Whether a load was this chat's: for a while another model may be in its place."""
        return folder == str(self.model)

    def _show_readings(self, readings: Readings) -> None:
        self._readings = readings
        self._gauges.post_message(NewReadings(readings))
        self._map.tell(readings)

    async def _tell(self, text: str, choices: tuple[tuple[str, str], ...] = ()) -> None:
        await self._view.notice(text, choices)
