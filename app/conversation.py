"""A chat as the program keeps it: what was said, saved as it happens. Knows no screen.

Every operation that ends in a reply (`say`, `regenerate`, `edit`, `continue_reply`) begins it in
the history and leaves it as `Conversation.reply`; `request` is what the engine is to be asked then.
While it is written, `add` and `save`; at its end, however it comes, `end`. One reply at a time: the
other operations are only for when there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.history import Figures, History, MadeWith, MessageRecord, State
from app.pruning_words import pruning_words
from app.render import safe_text
from app.reply_figures import added, figures, summary
from engine.protocol import Finished, Generate, Message, SetPruning

PAGE = 60
"""Messages that are read when a chat is opened, and at each look further back."""

_QUOTED = 400
"""Characters of the last reply in the draft of a summary."""


@dataclass
class Reply:
    """A reply that is being written. ``id`` names it to the engine, ``record`` as it began.

    ``text`` is all of it, also what was there before it was continued.
    """

    id: int
    record: MessageRecord
    text: str
    saved: str

    @property
    def continues(self) -> bool:
        """Whether it goes on with a text that was there."""
        return bool(self.record.content)


class Conversation:
    """One chat. It begins in the history with its first message, so empty chats leave no trace.

    ``records`` is the end of its current line, `earlier` counts what was not read. ``using`` is
    what the next reply is made with: the screen sets it. A write may raise HistoryError: a message
    is then not begun, a reply stays here all the same.
    """

    def __init__(
        self,
        history: History,
        model: str,
        system: str = "",
        chat: int | None = None,
        preset: str = "",
    ) -> None:
        """A new chat, or ``chat`` with its own system prompt and preset, where they are known."""
        self._history = history
        self.using = MadeWith(model)
        self.system = system
        self.preset = preset
        self.chat = chat
        self.records: list[MessageRecord] = []
        self.reply: Reply | None = None
        self.left_out = 0
        """So many of the user's oldest messages, with their replies, the model is not shown."""
        if chat is not None:
            kept = history.chat(chat)
            if kept.system is not None:
                self.system, self.preset = kept.system, kept.preset
            self._read()

    # --- what was said ------------------------------------------------------------------------

    @property
    def earlier(self) -> int:
        """How many messages come before `records`."""
        return self.records[0].depth - 1 if self.records else 0

    @property
    def last_made(self) -> MadeWith | None:
        """What the last reply was made with; None where that is not known."""
        return next((record.made for record in reversed(self.records) if record.made), None)

    def read_earlier(self, limit: int = PAGE) -> list[MessageRecord]:
        """Read a page further back; returns what came in front of `records`, none at the start."""
        if not self.earlier or self.chat is None:
            return []
        page = self._history.messages(self.chat, before=self.records[0].id, limit=limit)
        self.records[:0] = page
        return page

    def line(self) -> list[MessageRecord]:
        """Everything said on the current line, a reply that is being written aside."""
        if not self.earlier or self.chat is None:
            return list(self.records)
        return [*self._history.messages(self.chat, before=self.records[0].id), *self.records]

    def prompt(self) -> tuple[Message, ...]:
        """What the engine is to answer: the system text, and the line less what is left out.

        It ends with the user's message; with the reply itself where that is continued.
        """
        earlier = self._history.said_before(self.records[0].id) if self.earlier else []
        said = [*earlier, *(Message(record.role, record.content) for record in self.records)]
        system = (Message("system", self.system),) if self.system else ()
        reply = self.reply
        continued = (Message("assistant", reply.text),) if reply and reply.continues else ()
        return (*system, *_without_oldest(said, self.left_out), *continued)

    def asked(self, reply: MessageRecord) -> tuple[Message, ...]:
        """What the engine was asked for a reply that is there."""
        made = reply.made
        text, left_out = (made.system, made.left_out) if made else (self.system, 0)
        system = (Message("system", text),) if text else ()
        return (*system, *_without_oldest(self._history.said_before(reply.id), left_out))

    def request(self) -> Generate:
        """What to send to the engine for the reply that has begun."""
        assert self.reply is not None
        using = self.using
        return Generate(
            self.reply.id,
            self.prompt(),
            using.sampling,
            using.max_tokens,
            pruning=using.pruning,
            pruning_strength=using.pruning_strength,
        )

    # --- what the user does -------------------------------------------------------------------

    def say(self, text: str, reply_id: int) -> Reply:
        """Add the user's message and begin a reply to it."""
        assert self.reply is None
        with self._history.together():
            chat = self.chat
            if chat is None:
                chat = self._history.new_chat(self.using.model, text, self.system, self.preset)
            last = self.records[-1].id if self.records else None
            said = self._history.add_message(chat, last, "user", text)
            record = self._new_reply(chat, said.id)
        self.chat = chat
        self.records.append(said)
        return self._begin(reply_id, record)

    @property
    def can_regenerate(self) -> bool:
        """Whether there is a message of the user's to answer (again)."""
        return self.reply is None and any(record.role == "user" for record in self.records[-2:])

    def regenerate(self, reply_id: int) -> Reply:
        """Begin another reply to the user's last message; the one that is there stays a branch.

        An empty one, stopped or failed before its first word, is replaced.
        """
        assert self.can_regenerate
        chat = self._idle_chat()
        kept = self.records if self.records[-1].role == "user" else self.records[:-1]
        with self._history.together():
            last = self.records[-1]
            if not last.content and self._history.newest_below(last.id) == last.id:
                self._history.delete_from(last.id)
            record = self._new_reply(chat, kept[-1].id)
        self.records = list(kept)
        return self._begin(reply_id, record)

    def edit(self, message: int, text: str, reply_id: int) -> Reply:
        """Say ``text`` in place of a message of the user's in `records`, and begin a reply.

        The message and all that followed stay a branch.
        """
        chat = self._idle_chat()
        place = self._place(message)
        before = self.records[place].parent
        if self.left_out:  # what is said in their place is shown
            self.left_out = min(self.left_out, _users(self.line()[: self.earlier + place]))
        with self._history.together():
            said = self._history.add_message(chat, before, "user", text)
            record = self._new_reply(chat, said.id)
        self.records[place:] = [said]
        return self._begin(reply_id, record)

    @property
    def can_continue(self) -> bool:
        """Whether the last reply was cut: by the token limit, by the user, by a crash."""
        if self.reply is not None or not self.records:
            return False
        last = self.records[-1]
        if last.figures is not None:
            whole = last.figures.finish_reason == "stop"
        else:  # an old one, or one that nobody saw the end of
            whole = last.state == "done"
        return last.role == "assistant" and bool(last.content.strip()) and not whole

    def continue_reply(self, reply_id: int) -> Reply:
        """Go on with the last reply, in the same message."""
        assert self.can_continue
        record = self.records[-1]
        self._history.write_message(
            record.id, record.content, "writing", record.summary, record.figures
        )
        self.records.pop()
        return self._begin(reply_id, record)

    def keep_beside(
        self, reply: int, text: str, state: State, made: MadeWith, took: Figures
    ) -> MessageRecord:
        """Add another reply to what ``reply`` answers: a branch beside it, and the current line.
        Its line of figures names what it was made with, since that is how it differs."""
        chat = self._idle_chat()
        pruning = pruning_words(SetPruning(made.pruning, made.pruning_strength))
        words = f"{summary(took, made.left_out)} · {made.model}, {pruning}"
        with self._history.together():
            record = self._history.add_message(
                chat, self._history.message(reply).parent, "assistant", text, state, made
            )
            self._history.write_message(record.id, text, state, words, took)
        self._read()
        return record

    def switch_branch(self, message: int, direction: int) -> bool:
        """Go to the next (1) or the one before (-1) of a message's siblings, and to the end of
        what was written last after it. False where there is none; `records` is read anew."""
        chat = self._idle_chat()
        siblings = self._history.siblings(message)
        place = siblings.index(message) + direction if message in siblings else -1
        if not 0 <= place < len(siblings):
            return False
        self._history.set_leaf(chat, self._history.newest_below(siblings[place]))
        self._read()
        return True

    def show(self, message: int) -> None:
        """Go to the line through a message, as a search found it."""
        chat = self._idle_chat()
        if all(record.id != message for record in self.line()):
            self._history.set_leaf(chat, self._history.newest_below(message))
            self._read()

    def delete_last(self) -> str:
        """Delete the user's last message and all replies to it, for good; returns its text.

        Without a message left the chat itself is deleted, to be brought back within a day.
        """
        chat = self._idle_chat()
        place = max(
            (place for place, record in enumerate(self.records) if record.role == "user"), default=0
        )
        record = self.records[place]
        if record.parent is None and record.branches == 1:
            self._history.delete_chat(chat)
            self.chat, self.records, self.left_out = None, [], 0
        else:
            self._history.delete_from(record.id)
            self._read()
        return record.content

    def set_system(self, text: str, preset: str = "") -> None:
        """Another system prompt from the next reply on, and the name of the preset it is from."""
        self.system, self.preset = safe_text(text), preset
        if self.chat is not None:
            self._history.set_system(self.chat, self.system, preset)

    # --- when the context is full -------------------------------------------------------------

    def drop_oldest_turns(self, turns: int | None = None) -> int:
        """Leave the user's oldest messages and their replies out of what the model is shown.

        None: half of those that it is shown now. Never the last. Returns how many are left out in
        all; each reply keeps that number, and its line of figures says it. Nothing is deleted, and
        the system prompt stays. A reply that failed for want of room is then asked for again by
        `regenerate`, one that was cut goes on by `continue_reply`.
        """
        said = _users(self.line())
        more = (said - self.left_out) // 2 if turns is None else turns
        self.left_out = min(max(self.left_out + more, 0), max(said - 1, 0))
        return self.left_out

    def first_shown(self) -> int:
        """The depth of the first message that the model is shown, 1 if nothing is left out."""
        if not self.left_out:
            return 1
        said = [record.depth for record in self.line() if record.role == "user"]
        return said[self.left_out] if self.left_out < len(said) else 1

    def summary_draft(self) -> str:
        """A message to begin a new chat with, for the user to make a summary of: what was asked,
        and how the last reply began."""
        line = self.line()
        asked = [_first_line(record.content) for record in line if record.role == "user"]
        replies = [record.content for record in line if record.role == "assistant"]
        parts = ["We talked before. I asked:", *(f"- {question}" for question in asked)]
        if replies:
            parts += ["", "You said last:", "", _shortened(replies[-1])]
        return "\n".join([*parts, "", "Let us go on from there."])

    # --- while a reply is written -------------------------------------------------------------

    def add(self, text: str) -> str:
        """Add what the model wrote to the reply; returns it without terminal controls."""
        assert self.reply is not None
        safe = safe_text(text)
        self.reply.text += safe
        return safe

    def save(self) -> None:
        """Write the reply so far, if there is more than was written."""
        reply = self.reply
        if reply is not None and reply.text != reply.saved:
            record = reply.record
            self._history.write_message(
                record.id, reply.text, "writing", record.summary, record.figures
            )
            reply.saved = reply.text

    def end(self, state: State, finished: Finished | None = None) -> MessageRecord:
        """End the reply; what was written stays. ``finished``: what the engine told at its end.

        Without it the reply was stopped or failed, here or there.
        """
        assert self.reply is not None
        reply, self.reply = self.reply, None
        took = reply.record.figures
        if finished is not None:
            took = added(took, figures(finished))
        record = replace(
            reply.record,
            content=reply.text,
            state=state,
            summary=summary(took, self.left_out) if took is not None else "",
            figures=took,
        )
        self.records.append(record)
        self._history.write_message(
            record.id, record.content, record.state, record.summary, record.figures
        )
        return record

    # --- the rest -----------------------------------------------------------------------------

    def _idle_chat(self) -> int:
        assert self.reply is None, "one reply at a time"
        assert self.chat is not None
        return self.chat

    def _read(self) -> None:
        """The last page of the current line; what the last reply left out stays left out."""
        assert self.chat is not None
        self.records = self._history.messages(self.chat, limit=PAGE)
        made = self.last_made
        self.left_out = made.left_out if made else 0

    def _new_reply(self, chat: int, parent: int) -> MessageRecord:
        made = replace(self.using, system=self.system, left_out=self.left_out)
        return self._history.add_message(chat, parent, "assistant", "", "writing", made)

    def _begin(self, reply_id: int, record: MessageRecord) -> Reply:
        self.reply = Reply(reply_id, record, record.content, record.content)
        return self.reply

    def _place(self, message: int) -> int:
        return next(place for place, record in enumerate(self.records) if record.id == message)


def _without_oldest(line: Sequence[Message], turns: int) -> Sequence[Message]:
    """``line`` from the user's message number ``turns``, counted from 0."""
    users = [place for place, record in enumerate(line) if record.role == "user"]
    return line[users[turns] :] if 0 < turns < len(users) else line


def _users(line: Sequence[MessageRecord]) -> int:
    return sum(record.role == "user" for record in line)


def _first_line(text: str) -> str:
    return _shortened(next((line for line in text.splitlines() if line.strip()), ""), 120)


def _shortened(text: str, length: int = _QUOTED) -> str:
    text = text.strip()
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
