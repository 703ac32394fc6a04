"""What is said in a chat, and what keys do on its messages: again, edit, copy, A/B."""

import secrets
from collections.abc import Callable, Sequence

from textual import work

from app import models
from app.attachments import with_attachments
from app.clipboard_words import code_blocks, copied_words
from app.command_table import action_of, begun
from app.comparison import Build, Comparison, Subject, Take, Variant, other_than
from app.estimate import estimate_words
from app.history import HistoryError, MessageRecord, State
from app.load_choices import load_request
from app.mentions import mentions
from app.screens.compare import CompareScreen
from app.screens.talking import TalkingScreen
from app.widgets.messages import Turn
from app.widgets.prompt import Prompt
from engine import protocol
from engine.errors import UsageError
from engine.protocol import ODP_OR_NOT

EDITING = "Editing an earlier message · Esc leaves it as it was"
NOTHING_TO_COMPARE = "There is no reply to compare yet."
NOTHING_TO_CONTINUE = "The last reply is whole: there is nothing to go on with."
NOTHING_TO_REGENERATE = "There is no message to answer yet."


class MessagesScreen(TalkingScreen):
    """A chat whose messages can be written and changed."""

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
        missing = "" if self._conversation.can_regenerate else NOTHING_TO_REGENERATE
        await self._reply_unless(missing, self._conversation.regenerate)

    def action_go_on(self) -> None:
        """Continue a reply that was cut."""
        self.call_next(self._go_on)

    async def _go_on(self) -> None:
        missing = "" if self._conversation.can_continue else NOTHING_TO_CONTINUE
        await self._reply_unless(missing, self._conversation.continue_reply)

    async def _reply_unless(self, missing: str, begin: Callable[[int], object]) -> None:
        """Begin a reply, or say why that cannot be."""
        if problem := self._refusal or missing:
            self._warn(problem)
        else:
            await self._reply_to(begin)

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
        """What goes with the message, and about how much of the context it takes; or which command
        it could become."""
        text = self._prompt.text
        if commands := begun(text):
            self._chips.suggest(commands)
            self._prompt.border_subtitle = ""
            return
        named = mentions(text)
        self._chips.show(named)
        files = [mention.attachment.text for mention in named if mention.attachment]
        self._prompt.border_subtitle = estimate_words("\n".join([text, *files]), self._free)

    def on_prompt_offered(self, event: Prompt.Offered) -> None:
        """Tab: what the name that is being written may become."""
        self._chips.offer(event.names)

    @property
    def _free(self) -> int | None:
        """Tokens of the context that are left, as the engine counted them."""
        used = self._readings.used
        return None if used is None else self._readings.context - used

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
            case "compare":
                self.compare(turn.record)
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

    # --- one reply beside another -------------------------------------------------------------

    def action_compare(self) -> None:
        """The last reply beside another one."""
        replies = [record for record in self._conversation.records if record.role == "assistant"]
        if replies:
            self.compare(replies[-1])
        else:
            self._warn(NOTHING_TO_COMPARE)

    @work
    async def compare(self, reply: MessageRecord) -> None:
        """Ask the same again, otherwise; what comes of it may become a branch of the chat."""
        if self._refusal:
            self._warn(self._refusal)
            return
        builds = self._builds()
        comparison = self._comparison(reply, builds)
        screen = CompareScreen(comparison, self._services.events, builds)
        kept = await self.app.push_screen_wait(screen)
        if kept is not None:
            self.call_next(self._keep, reply, kept)

    def _builds(self) -> list[Build]:
        """The chat's own, which may lie anywhere, and all that are installed."""
        bits, prunings = None, ODP_OR_NOT
        if self._loaded is not None:
            bits, prunings = self._loaded.nominal_bits, self._loaded.prunings
        ours = Build(self._model_name, self.model, bits, prunings)
        others = (
            Build(model.name, model.folder, model.manifest.nominal_bits, model.prunings)
            for model in models.installed()
        )
        return [ours, *(build for build in others if build.name != ours.name)]

    def _comparison(self, reply: MessageRecord, builds: Sequence[Build]) -> Comparison:
        services = self._services
        folders = {build.name: build.folder for build in builds}
        made = reply.made or self._made_with()
        pruning = protocol.SetPruning(made.pruning, made.pruning_strength)
        there = Variant(made.model, folders.get(made.model), pruning)
        asked = self._conversation.asked(reply)
        return Comparison(
            Subject(asked, reply, made, there, any_seed()),
            other_than(there, self._model_name, self.model),
            self.model,
            services.engine.send,
            lambda folder: load_request(folder, services.settings),
            self._reply_ids,
            self._loaded,
        )

    async def _keep(self, reply: MessageRecord, take: Take) -> None:
        assert take.made is not None
        assert take.figures is not None
        state: State = "stopped" if take.state == "stopped" else "done"
        try:
            kept = self._conversation.keep_beside(
                reply.id, take.text, state, take.made, take.figures
            )
        except HistoryError as error:
            self._warn(str(error))
            return
        await self._show_conversation(kept.depth)


def any_seed() -> int:
    """Nobody has chosen one."""
    return secrets.randbits(31)
