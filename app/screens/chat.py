"""What the keys of the chat do: send, stop, ask again, edit, copy, and the pages beside it."""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from textual import work
from textual.binding import Binding, BindingType

from app.attachments import with_attachments
from app.clipboard_words import code_blocks, copied_words
from app.command_table import action_of
from app.estimate import estimate_words
from app.history import HistoryError
from app.mentions import mentions
from app.pruning_words import pruning_of, stepped
from app.render import safe_text
from app.screens.answering import Answering, AnsweringScreen
from app.screens.chats import ChatsScreen
from app.screens.talking import TalkingScreen
from app.widgets.messages import Notice, Turn
from app.widgets.prompt import Prompt
from engine import protocol
from engine.errors import UsageError
from engine.protocol import PruningMode

EDITING = "Editing an earlier message · Esc leaves it as it was"
NOTHING_TO_CONTINUE = "The last reply is whole: there is nothing to go on with."
NOTHING_TO_REGENERATE = "There is no message to answer yet."
ONE_TURN = "Only the last message is left, and it alone is too long; shorten it."


class ChatScreen(TalkingScreen):
    """The chat, as a person uses it."""

    CSS_PATH = "chat.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="stop"),
        Binding("escape", "leave", "Back", id="leave"),
        Binding("f2", "pruning", "ODP", id="pruning"),
        Binding("f8", "strength(-1)", "Prune less", id="weaker", show=False),
        Binding("f9", "strength(1)", "Prune more", id="stronger", show=False),
        Binding("f3", "gauges", "Gauges", id="gauges"),
        Binding("f4", "app.models", "Models", id="models"),
        Binding("ctrl+l", "app.map", "Map", id="map", show=False),
        Binding("f12", "app.sleep", "Sleep", id="sleep", show=False),
        Binding("f5", "answering", "Answers", id="answering", show=False),
        Binding("ctrl+g", "again", "Again", id="again"),
        Binding("ctrl+t", "go_on", "Go on", id="go_on", show=False),
        Binding("ctrl+n", "new_chat", "New", id="new_chat"),
        Binding("ctrl+o", "chats", "Chats", id="chats"),
        Binding("ctrl+r", "restart", "Restart engine", id="restart", show=False),
        Binding("pageup", "page(-1)", "Scroll up", show=False, priority=True),
        Binding("pagedown", "page(1)", "Scroll down", show=False, priority=True),
    ]

    _editing: int | None = None
    """The message that the prompt's text will stand in for."""
    _may_delete = False
    """The key was pressed once."""
    _next_block = 0

    # --- what is said -------------------------------------------------------------------------

    async def on_prompt_sent(self, event: Prompt.Sent) -> None:
        """Save the message, show it, and ask the engine."""
        if refusal := self._refusal:
            self._refuse(event, refusal)
            return
        named = mentions(event.text)
        if stops := next((mention for mention in named if mention.stops), None):
            self._refuse(event, stops.problem)
            return
        files = [mention.attachment for mention in named if mention.attachment]
        text = with_attachments(event.text, files)
        editing = self._editing
        if not await self._reply_to(
            lambda reply: (
                self._conversation.say(text, reply)
                if editing is None
                else self._conversation.edit(editing, text, reply)
            )
        ):
            self._prompt.give_back(event.text)
            return
        self._end_editing()

    async def on_prompt_commanded(self, event: Prompt.Commanded) -> None:
        """Do what the line asks for."""
        try:
            action = action_of(event.text)
        except UsageError as error:
            self._prompt.give_back(event.text)
            self._warn(f"{error}. A space before the / makes it a message.", "Not done")
            return
        await self.run_action(action)

    def action_again(self) -> None:
        """Ask for another reply to the last message; the one that is there stays a branch."""
        self.call_next(self._again)

    async def _again(self) -> None:
        if refusal := self._refusal:
            self._warn(refusal)
        elif not self._conversation.can_regenerate:
            self._warn(NOTHING_TO_REGENERATE)
        else:
            await self._reply_to(self._conversation.regenerate)

    def action_go_on(self) -> None:
        """Continue a reply that was cut."""
        self.call_next(self._go_on)

    async def _go_on(self) -> None:
        if refusal := self._refusal:
            self._warn(refusal)
        elif not self._conversation.can_continue:
            self._warn(NOTHING_TO_CONTINUE)
        else:
            await self._reply_to(self._conversation.continue_reply)

    async def _reply_to(self, begin: Callable[[int], object]) -> bool:
        """Begin a reply; whether it could be written down."""
        try:
            self._conversation.using = self._made_with()
            begin(next(self._reply_ids))
        except HistoryError as error:
            self._warn(str(error))
            return False
        await self._begin_reply()
        return True

    def _refuse(self, event: Prompt.Sent, reason: str) -> None:
        self._prompt.give_back(event.text)
        self._warn(reason, "Not sent")

    def _warn(self, text: str, title: str = "") -> None:
        self.notify(text, title=title, severity="warning", markup=False)

    def on_text_area_changed(self) -> None:
        """What goes with the message, and about how much of the context it takes."""
        text = self._prompt.text
        named = mentions(text)
        self._chips.show(named)
        files = [mention.attachment.text for mention in named if mention.attachment]
        self._prompt.border_subtitle = estimate_words("\n".join([text, *files]), self._free)

    @property
    def _free(self) -> int | None:
        """Tokens of the context that are left, as the engine counted them."""
        meters = self._readings.meters
        return meters.context_size - meters.context_used if meters else None

    # --- editing ------------------------------------------------------------------------------

    def on_prompt_wants_last(self) -> None:
        """Up in an empty prompt: edit what was said last."""
        said = [record for record in self._conversation.records if record.role == "user"]
        if said and not self._conversation.reply:
            self._edit(said[-1].id, said[-1].content)

    def _edit(self, message: int, text: str) -> None:
        self._editing = message
        self._prompt.show_text(text, EDITING)
        self._prompt.focus()
        self.refresh_bindings()

    def _end_editing(self) -> None:
        self._editing = None
        self._prompt.border_title = ""
        self.refresh_bindings()

    # --- on one of the messages ---------------------------------------------------------------

    def on_prompt_left(self) -> None:
        """Tab or Shift+Up in the prompt: to what can be chosen, else to the last message."""
        self._view.focus_last()

    async def on_turn_wish(self, event: Turn.Wish) -> None:
        """A key that was pressed on a message."""
        turn = event.turn
        if event.what != "delete":
            self._may_delete = False
        match event.what:
            case "copy":
                self._copy(turn.text)
            case "code":
                self._copy_code(turn.text)
            case "edit" if self._conversation.reply:
                self._warn(self._refusal)
            case "edit":
                self._edit(turn.record.id, turn.text)
            case "again":
                await self._again()
            case "delete":
                await self._delete(turn)
            case "previous":
                await self._switch_branch(turn, -1)
            case "next":
                await self._switch_branch(turn, 1)

    def _copy(self, text: str, what: str = "") -> None:
        self.app.copy_to_clipboard(text)
        self.notify(copied_words(text, what), timeout=2, markup=False)

    def _copy_code(self, text: str) -> None:
        """The first block; at each further press the next one."""
        blocks = code_blocks(text)
        if blocks:
            place = self._next_block % len(blocks)
            self._next_block = place + 1
            self._copy(blocks[place], f"code block {place + 1} of {len(blocks)}")

    def on_descendant_focus(self) -> None:
        """Another message has other blocks, and what was asked of the one before is over."""
        self._next_block = 0
        self._may_delete = False

    async def _switch_branch(self, turn: Turn, direction: int) -> None:
        if self._conversation.reply:
            self._warn(self._refusal)
            return
        depth = turn.record.depth
        try:
            if not self._conversation.switch_branch(turn.record.id, direction):
                return
        except HistoryError as error:
            self._warn(str(error))
            return
        await self._show_conversation(depth)

    async def _delete(self, turn: Turn) -> None:
        """At the second press: it cannot be undone, but what was said is in the prompt then."""
        said = [record for record in self._conversation.records if record.role == "user"]
        if self._conversation.reply:
            self._warn(self._refusal)
        elif not said or turn.record.depth < said[-1].depth:
            self._warn("Only the last message can be deleted.")
        elif not self._may_delete:
            self._may_delete = True
            self._warn("Press d again: the last message and the replies to it go for good.")
        else:
            self._may_delete = False
            try:
                text = self._conversation.delete_last()
            except HistoryError as error:
                self._warn(str(error))
                return
            self._end_editing()
            if not self._prompt.text:
                self._prompt.show_text(text)
            await self._show_conversation()
            self._prompt.focus()

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
        """Switch ODP, also in the middle of a reply."""
        mode: PruningMode = "off" if self._odp.mode == "odp" else "odp"
        self._prune(replace(self._odp, mode=mode))

    def action_strength(self, steps: int) -> None:
        """Prune more or less, also in the middle of a reply; ODP is on then."""
        self._prune(protocol.SetPruning("odp", stepped(self._odp.strength, steps)))

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
        self.notify("Holds from the next reply on.", timeout=2)

    def action_gauges(self) -> None:
        """Show or hide the gauges."""
        self._gauges.toggle_class("-hidden")

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
        chat = await self.app.push_screen_wait(ChatsScreen(self._services.history))
        if chat is not None:
            self.call_next(self._switch, chat)

    def action_restart(self) -> None:
        """Start the engine's process anew and load the model again."""
        self.call_next(self._restart)

    async def _restart(self) -> None:
        await self._end_reply("stopped")
        await self._view.drop_notices()
        self._header.show("starting")
        await self._services.engine.restart()
        self._load()

    async def _switch(self, chat: int | None) -> None:
        self._cancel()
        await self._end_reply("stopped")
        self._end_editing()
        self._conversation = self._open(chat)
        await self._show_conversation()
        self._prompt.focus()
        made = self._conversation.last_made
        if made and made.model != self._model_name:
            before = safe_text(made.model)  # it may come from a file
            self.notify(f"This chat was with {before}; {self._model_name} goes on.", markup=False)

    def _cancel(self) -> None:
        if self._conversation.reply:
            self._services.engine.send(protocol.Cancel(self._conversation.reply.id))
            self._header.show("stopping")
