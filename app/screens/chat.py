"""What the keys of the chat do beside its messages: stop, prune, switch chats, open other pages."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual import events, work
from textual.binding import Binding, BindingType

from app import models, paths
from app.chat_files import export_as
from app.history import HistoryError
from app.key_names import ACTIONS
from app.key_words import keys_words
from app.models import display_name
from app.pruning_words import known_prunings, pruning_of, stepped, switched
from app.render import safe_text
from app.screens.answering import Answering, AnsweringScreen
from app.screens.chat_messages import MessagesScreen
from app.screens.chats import ChatsScreen
from app.screens.talking import OTHER_MODEL
from app.widgets.gauge import Readings
from app.widgets.messages import Notice
from engine import protocol
from engine.errors import CheckpointError, McChatError, UsageError
from engine.manifest import read_manifest
from engine.protocol import ODP_OR_NOT

BROAD = 150
"""Columns from which the map of the experts fits beside the chat."""
TOO_NARROW = "/map shows it by itself."
ONE_TURN = "Only the last message is left, and it alone is too long; shorten it."


class ChatScreen(MessagesScreen):
    """The chat, as a person uses it."""

    CSS_PATH = "chat.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="stop"),
        Binding("escape", "leave", "Back", id="leave"),
        Binding("f2", "pruning", "Prune", id="pruning"),
        Binding("f8", "strength(-1)", "Prune less", id="weaker", show=False),
        Binding("f9", "strength(1)", "Prune more", id="stronger", show=False),
        Binding("f3", "gauges", "Gauges", id="gauges"),
        Binding("f4", "app.models", "Models", id="models"),
        Binding("f10", "own_model", "Its model", id="own_model", show=False),
        Binding("ctrl+l", "app.map", "Map", id="map", show=False),
        Binding("ctrl+s", "beside", "Map beside", id="beside", show=False),
        Binding("f12", "app.sleep", "Sleep", id="sleep", show=False),
        Binding("f5", "answering", "Answers", id="answering", show=False),
        Binding("ctrl+g", "again", "Again", id="again"),
        Binding("ctrl+t", "go_on", "Go on", id="go_on", show=False),
        # Before the prompt has it: what is typed next, however fast, goes to the new chat.
        Binding("ctrl+n", "new_chat", "New", id="new_chat", priority=True),
        Binding("ctrl+o", "chats", "Chats", id="chats"),
        Binding("ctrl+r", "restart", "Restart engine", id="restart", show=False),
        Binding("pageup", "page(-1)", "Scroll up", show=False, priority=True),
        Binding("pagedown", "page(1)", "Scroll down", show=False, priority=True),
    ]

    # --- a full context -----------------------------------------------------------------------

    async def action_drop_oldest(self) -> None:
        """Leave the older half of the chat out of what the model is shown, and ask again."""
        self.call_next(self._drop_oldest)

    async def _drop_oldest(self) -> None:
        if self._refusal:
            self._warn(self._refusal)
            return
        before = self._conversation.left_out
        if self._conversation.drop_oldest_turns() == before:
            self._warn(ONE_TURN)
        elif self._conversation.can_continue:
            await self._go_on()
        else:
            await self._again()

    def action_summarise(self) -> None:
        """A new chat, with a draft of a summary of this one to change and send."""
        self.call_next(self._summarise)

    async def _summarise(self) -> None:
        if self._conversation.reply:
            self._warn(self._refusal)
            return
        draft = self._conversation.summary_draft()
        await self._switch(None)
        self._prompt.show_text(draft)

    # --- the keys -----------------------------------------------------------------------------

    async def on_notice_chosen(self, event: Notice.Chosen) -> None:
        """What a notice offers is one of the actions below."""
        await self.run_action(event.action)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In the footer stands what can be done now; Esc stops a reply first."""
        replying = self._conversation.reply is not None
        if action == "stop":
            return replying
        if action == "leave":
            elsewhere = self.focused is not None and self.focused is not self._prompt
            return not replying and (elsewhere or self._editing is not None)
        if action == "again":
            return self._conversation.can_regenerate
        return True

    def action_stop(self) -> None:
        """Stop the reply; the engine answers with what it wrote."""
        self._cancel()
        self._prompt.focus()

    def action_leave(self) -> None:
        """Leave the messages, or the one that is edited, for the prompt."""
        if self._editing is not None:
            self._prompt.show_text("")
            self._end_editing()
        self._prompt.focus()

    def action_pruning(self) -> None:
        """The model's next way to prune, or none, also in the middle of a reply."""
        known = self._loaded.prunings if self._loaded else ODP_OR_NOT
        self._prune(switched(self._odp, known))

    def action_strength(self, steps: int) -> None:
        """Prune more or less, also in the middle of a reply."""
        self._prune(stepped(self._odp, steps))

    def action_prune_as(self, text: str) -> None:
        """Prune as a command says: on, off, or a strength."""
        try:
            self._prune(pruning_of(text, self._odp))
        except UsageError as error:
            self._warn(str(error))

    def _prune(self, pruning: protocol.SetPruning) -> None:
        self._odp = pruning
        self._services.engine.send(pruning)
        self._show_readings(replace(self._readings, pruning=pruning))

    @work
    async def action_answering(self) -> None:
        """Change the system prompt and the sampling of this chat."""
        now = Answering(
            self._conversation.system,
            self._conversation.preset,
            self._sampling,
            self._max_tokens,
        )
        screen = AnsweringScreen(now, self._services.settings)
        wanted = await self.app.push_screen_wait(screen)
        if wanted is not None and wanted != now:
            self._answer_as(wanted)

    def _answer_as(self, wanted: Answering) -> None:
        self._sampling, self._max_tokens = wanted.sampling, wanted.max_tokens
        try:
            self._conversation.set_system(wanted.system, wanted.preset)
        except HistoryError as error:
            self._warn(str(error))
        self._show_about()
        self._count()
        self.notify("Holds from the next reply on.", timeout=2)

    def action_system_as(self, text: str) -> None:
        """Tell the model this from the next reply on; ``none`` is nothing."""
        text = "" if text == "none" else text
        self._answer_as(Answering(text, "", self._sampling, self._max_tokens))

    def action_export_to(self, name: str = "") -> None:
        """Write this chat to a file; without a name, one of its title."""
        chat = self._conversation.chat
        if chat is None:
            self._warn("There is nothing to write yet.")
            return
        try:
            path = export_as(self._services.history, chat, name)
        except McChatError as error:
            self._warn(str(error), "Not written")
        else:
            self.notify(paths.shown(path.absolute()), title="This chat is in", markup=False)

    def action_gauges(self) -> None:
        """Show or hide the gauges."""
        self._gauges.toggle_class("-hidden")

    def on_resize(self, event: events.Resize) -> None:
        """Whether there is room for the map beside the chat."""
        self.set_class(event.size.width >= BROAD, "-broad")

    async def action_beside(self) -> None:
        """The map of the experts beside the chat: what runs, what is pruned, and away again."""
        if not self.has_class("-broad"):
            self._warn(f"The map beside the chat needs {BROAD} columns; {TOO_NARROW}")
            return
        try:
            await self._map.turn(read_manifest(self.model))
        except CheckpointError as error:
            self._warn(str(error), "No map")

    def action_page(self, pages: int) -> None:
        """Scroll the messages while the prompt keeps the focus."""
        if pages < 0:
            self._view.scroll_page_up(animate=False)
        else:
            self._view.scroll_page_down(animate=False)

    def leave(self) -> None:
        """End this chat's screen; a running reply is stopped and kept."""
        self._cancel()
        self.dismiss()

    def action_new_chat(self) -> None:
        """Leave this chat in the history and begin another."""
        self.call_next(self._switch, None)

    @work
    async def action_chats(self) -> None:
        """Open an earlier chat."""
        opened = await self.app.push_screen_wait(ChatsScreen(self._services.history))
        if opened is not None:
            self.call_next(self._switch, opened.chat, opened.depth)

    def action_restart(self) -> None:
        """Start the engine's process anew and load the model again."""
        self.call_next(self._restart)

    async def _restart(self) -> None:
        await self._end_reply("stopped")
        await self._view.drop_notices()
        self._header.show("starting")
        await self._services.engine.restart()
        self._load()

    async def _switch(self, chat: int | None, around: int | None = None) -> None:
        """To another chat, or a new one; the message at the depth ``around`` has the focus."""
        self._cancel()
        await self._end_reply("stopped")
        if self._header.state == "stopping":  # what the engine still tells of it is not heard
            self._header.show("ready")
        self._end_editing()
        self._conversation = self._open(chat)
        await self._show_conversation(around)
        if around is None:
            self._prompt.focus()
        self._show_offer()

    # --- which model --------------------------------------------------------------------------

    def action_load_model(self, name: str) -> None:
        """Go on with another model, in the same chat."""
        try:
            folder = models.resolve(name)
        except McChatError as error:
            self._warn(str(error))
            return
        self.call_next(self._change_model, folder)

    def action_own_model(self) -> None:
        """Load the model that this chat was held with."""
        if self._own_model:
            self.action_load_model(self._own_model)
        else:
            self._warn(f"This chat was held with {self._model_name}, or has not begun.")

    async def _change_model(self, folder: Path) -> None:
        if self._conversation.reply:
            self._warn(self._refusal)
            return
        self.model, self._model_name, self._loaded = folder, display_name(folder), None
        await self._view.drop_notices()
        await self._map.hide()
        self._show_about()
        self._show_readings(Readings(pruning=self._odp))
        self._show_offer()
        if not self._conversation.records:
            await self._show_conversation()
        if self._services.engine.running:
            self._header.show("loading")
            self._load()
        else:
            await self._restart()

    def lose_model(self) -> None:
        """The model was removed: the chat can be read, and go on with another one."""
        self.call_next(self._lose_model)

    async def _lose_model(self) -> None:
        self._loaded = None
        self._show_about()
        self._header.show("down", "removed")
        self._show_readings(Readings(pruning=self._odp))
        await self._map.hide()
        await self._tell(self._refusal, OTHER_MODEL)

    def look_again(self) -> None:
        """Load the model anew where it has learned another way to prune since."""
        if self._loaded is None or self.is_writing:
            return
        try:
            known = known_prunings(read_manifest(self.model).otp)
        except CheckpointError:
            return  # an original, or gone: what is loaded stays
        if known != self._loaded.prunings:
            self.notify(f"{self._model_name} has changed: it is loaded anew.", markup=False)
            self._load()

    @property
    def _own_model(self) -> str:
        """The model that the chat was held with, where that is another one; else empty."""
        made = self._conversation.last_made
        return made.model if made and made.model != self._model_name else ""

    def _show_offer(self) -> None:
        """Ask once, and quietly, where a chat was held with another model."""
        own = self._own_model
        self._offer.display = bool(own)
        if not own:
            return
        key = keys_words(self._services.settings.keys.get("own_model", ACTIONS["own_model"]))
        ways = f"{key} loads {own}" if _is_here(own) else f"{own} is not on this machine"
        words = f"This chat was held with {own}. A message goes on with {self._model_name}; {ways}."
        self._offer.update(safe_text(words))  # a name may come from a file

    def _cancel(self) -> None:
        if self._conversation.reply:
            self._services.engine.send(protocol.Cancel(self._conversation.reply.id))
            self._header.show("stopping")


def _is_here(name: str) -> bool:
    """Whether there is a model of this name."""
    try:
        models.resolve(name)
    except McChatError:
        return False
    return True
