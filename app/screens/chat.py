"""The chat: messages, the prompt, and the gauges beside them."""

import itertools
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Footer

from app.conversation import Conversation
from app.engine_client import WorkerDied, WorkerEvent
from app.history import HistoryError, MadeWith, State
from app.load_choices import LoadChoice, recall
from app.models import display_name
from app.screens.chats import ChatsScreen
from app.services import Services
from app.welcome import welcome
from app.widgets.chat_view import ChatView
from app.widgets.gauge import Readings
from app.widgets.gauges import Gauges, NewReadings
from app.widgets.header import HeaderLine
from app.widgets.messages import ModelMessage, Notice
from app.widgets.prompt import Prompt
from engine import protocol
from engine.protocol import PruningMode

SAVE_SECONDS = 0.25
READING = "reading the chat"
"""Before the first token: a long chat takes its time."""


class ChatScreen(Screen[None]):
    """One model and one chat with it at a time.

    Keys act outside the screen's own message queue. What changes the chat goes through that queue
    (`call_next`), one thing after the other, as the engine's events do.
    """

    CSS_PATH = "chat.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", key_display="Esc"),
        Binding("f2", "pruning", "ODP", key_display="F2"),
        Binding("f3", "gauges", "Gauges", key_display="F3"),
        Binding("f4", "models", "Models", key_display="F4"),
        Binding("ctrl+n", "new_chat", "New"),
        Binding("ctrl+o", "chats", "Chats"),
        Binding("ctrl+r", "restart", "Restart engine", show=False),
        Binding("pageup", "page(-1)", "Scroll up", show=False, priority=True),
        Binding("pagedown", "page(1)", "Scroll down", show=False, priority=True),
    ]

    def __init__(self, model: Path, services: Services) -> None:
        super().__init__()
        self._model = model
        self._model_name = display_name(model)
        self._services = services
        self._mode: PruningMode = services.settings.pruning
        self._readings = Readings(pruning=self._mode)
        self._reply_ids = itertools.count(1)
        self._reply_view: ModelMessage | None = None
        self._warned = False
        self._loaded: protocol.Loaded | None = None
        self._header = HeaderLine()
        self._gauges = Gauges()
        self._view = ChatView()
        self._prompt = Prompt()
        last = services.history.last_chat(self._model_name)
        self._conversation = self._open(last.id if last else None)

    def compose(self) -> ComposeResult:
        """The gauges are docked beside or above the messages by the style sheet."""
        yield self._header
        with Container(id="body"):
            yield self._gauges
            yield self._view
            yield self._prompt
        yield Footer(show_command_palette=False, compact=True)

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

    # --- what the user does -------------------------------------------------------------------

    async def on_prompt_sent(self, event: Prompt.Sent) -> None:
        """Save the message, show it, and ask the engine."""
        if self._conversation.reply:
            self._refuse(event, "A reply is being written; Esc stops it.")
            return
        if self._header.state == "down":
            self._refuse(event, "The engine is not running; Ctrl+R restarts it.")
            return
        try:
            self._conversation.using = self._made_with()
            self._conversation.say(event.text, next(self._reply_ids))
        except HistoryError as error:
            self._refuse(event, str(error))
            return
        await self._view.drop_notices()
        self._reply_view = await self._view.begin(event.text)
        self._services.engine.send(self._conversation.request())
        self._show_readings(self._readings.at_start_of_reply())
        if self._header.state == "ready":
            self._header.show("writing", READING)
        self._warned = False
        self.refresh_bindings()

    def _refuse(self, event: Prompt.Sent, reason: str) -> None:
        self._prompt.give_back(event.text)
        self.notify(reason, title="Not sent", severity="warning", markup=False)

    async def on_notice_chosen(self, event: Notice.Chosen) -> None:
        """What a notice offers is one of the actions below."""
        await self.run_action(event.action)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """There is something to stop only while a reply is written; else the key is dimmed."""
        if action == "stop" and self._conversation.reply is None:
            return None
        return True

    def action_stop(self) -> None:
        """Stop the reply; the engine answers with what it wrote."""
        if self._conversation.reply:
            self._services.engine.send(protocol.Cancel(self._conversation.reply.id))
            self._header.show("stopping")

    def action_pruning(self) -> None:
        """Switch ODP, also in the middle of a reply."""
        self._mode = "off" if self._mode == "odp" else "odp"
        self._services.engine.send(protocol.SetPruning(self._mode))
        self._show_readings(replace(self._readings, pruning=self._mode))

    def action_gauges(self) -> None:
        """Show or hide the gauges."""
        self._gauges.toggle_class("-hidden")

    def action_page(self, pages: int) -> None:
        """Scroll the messages while the prompt keeps the focus."""
        self._view.scroll_page_up() if pages < 0 else self._view.scroll_page_down()

    def action_models(self) -> None:
        """Leave for the wizard; a running reply is stopped and kept."""
        self.action_stop()
        self.dismiss()

    def action_new_chat(self) -> None:
        """Leave this chat in the history and begin another."""
        self.call_next(self._switch, None)

    @work
    async def action_chats(self) -> None:
        """Open an earlier chat."""
        chat = await self.app.push_screen_wait(ChatsScreen(self._services.history))
        if chat is not None:
            self.call_next(self._switch, chat)

    def action_restart(self) -> None:
        """Start the engine's process anew and load the model again."""
        self.call_next(self._restart)

    # --- what the engine tells ----------------------------------------------------------------

    async def _hear(self, event: WorkerEvent) -> None:
        match event:
            case protocol.LoadProgress():
                percent = f"{event.stage} {event.fraction:.0%}"
                self._header.show("loading", percent)
            case protocol.Loaded():
                self._hear_loaded(event)
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
        bits = "16 bits" if loaded.nominal_bits is None else f"{loaded.nominal_bits:.2f} bits"
        self._header.about = f"{self._model_name} · {bits} · {loaded.device}"
        if self._conversation.reply:
            self._header.show("writing", READING)
        else:
            self._header.show("ready")
        self._show_readings(
            replace(
                self._readings,
                memory=loaded.memory,
                total_params=loaded.total_params,
                context=loaded.context,
            )
        )

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
            await self._tell_context_full("The context is full: this chat cannot grow further.")

    async def _hear_failed(self, failed: protocol.Failed) -> None:
        if failed.id is None and self._header.state in {"starting", "loading"}:
            await self._hear_not_loaded(failed)
        elif failed.id is None:
            await self._tell(failed.message)
        elif self._is_current(failed.id):
            await self._end_reply("failed")
            self._header.show("ready")
            if failed.kind == "ContextFullError":
                await self._tell_context_full(failed.message)
            else:
                await self._tell(failed.message)

    async def _hear_not_loaded(self, failed: protocol.Failed) -> None:
        self._header.show("down", "not loaded")
        await self._end_reply("failed")
        await self._tell(failed.message, "Try again (Ctrl+R)", "screen.restart")

    async def _hear_death(self, died: WorkerDied) -> None:
        self._header.show("down", "engine stopped")
        self._show_readings(Readings(pruning=self._mode))
        await self._end_reply("failed")
        await self._tell(
            f"The engine has stopped ({died.reason}). The chat is safe.",
            "Restart engine (Ctrl+R)",
            "screen.restart",
        )

    # --- the rest -----------------------------------------------------------------------------

    def _load(self) -> None:
        settings = self._services.settings
        chosen = recall(self._model) or LoadChoice(settings.device, settings.context)
        load = protocol.Load(
            str(self._model), chosen.device, chosen.context, chosen.force, chosen.kv_bits
        )
        self._services.engine.send(load)

    def _open(self, chat: int | None) -> Conversation:
        services = self._services
        return Conversation(services.history, self._model_name, services.settings.system, chat)

    def _made_with(self) -> MadeWith:
        settings, loaded = self._services.settings, self._loaded
        return MadeWith(
            model=self._model_name,
            nominal_bits=loaded.nominal_bits if loaded else None,
            device=loaded.device if loaded else "",
            pruning=self._mode,
            sampling=settings.sampling,
            max_tokens=settings.max_tokens,
        )

    async def _restart(self) -> None:
        await self._end_reply("stopped")
        await self._view.drop_notices()
        self._header.show("starting")
        await self._services.engine.restart()
        self._load()

    async def _switch(self, chat: int | None) -> None:
        self.action_stop()
        await self._end_reply("stopped")
        self._conversation = self._open(chat)
        await self._show_conversation()
        self._prompt.focus()

    async def _show_conversation(self) -> None:
        await self._view.show(self._conversation.line(), welcome(self._model_name))

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

    def _is_current(self, reply: int) -> bool:
        return self._conversation.reply is not None and self._conversation.reply.id == reply

    def _show_readings(self, readings: Readings) -> None:
        self._readings = readings
        self._gauges.post_message(NewReadings(readings))

    async def _tell(self, text: str, label: str = "", action: str = "") -> None:
        await self._view.notice(text, label, action)

    async def _tell_context_full(self, message: str) -> None:
        await self._tell(message, "New chat (Ctrl+N)", "screen.new_chat")
