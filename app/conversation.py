"""A chat as the program keeps it: what was said, saved as it happens. Knows no screen."""

from dataclasses import dataclass

from app.history import History, MessageRecord, State
from app.render import safe_text
from app.units import share
from engine.protocol import Finished, Message


@dataclass
class Reply:
    """A reply that is being written. ``id`` names it to the engine, ``row`` in the history."""

    id: int
    row: int
    text: str = ""
    saved: str = ""


class Conversation:
    """One chat. It begins in the history with its first message, so empty chats leave no trace.

    A write may raise HistoryError: a message is then not begun, a reply stays here all the same.
    """

    def __init__(
        self, history: History, model: str, system: str = "", chat: int | None = None
    ) -> None:
        self._history = history
        self._model = model
        self._system = system
        self.chat = chat
        self.records: list[MessageRecord] = history.messages(chat) if chat is not None else []
        self.reply: Reply | None = None

    def prompt(self) -> tuple[Message, ...]:
        """What the engine is to answer, the system text first."""
        system = (Message("system", self._system),) if self._system else ()
        said = (Message(record.role, record.content) for record in self.records)
        return (*system, *said)

    def say(self, text: str, reply_id: int) -> Reply:
        """Add the user's message and begin a reply to it."""
        if self.chat is None:
            self.chat = self._history.new_chat(self._model, text)
        row = self._history.add_message(self.chat, "user", text)
        self.records.append(MessageRecord(row, "user", text, "done", ""))
        reply_row = self._history.add_message(self.chat, "assistant", "", "writing")
        self.reply = Reply(reply_id, reply_row)
        return self.reply

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
            self._history.write_message(reply.row, reply.text, "writing")
            reply.saved = reply.text

    def end(self, state: State, summary: str = "") -> MessageRecord:
        """End the reply; what was written stays."""
        assert self.reply is not None
        reply, self.reply = self.reply, None
        record = MessageRecord(reply.row, "assistant", reply.text, state, summary)
        self.records.append(record)
        self._history.write_message(record.id, record.content, record.state, record.summary)
        return record


def summary(finished: Finished) -> str:
    """The line below a reply."""
    words = [
        f"{finished.tokens:,} token{'s' if finished.tokens != 1 else ''}",
        f"{finished.tokens_per_second:.1f} tokens/s",
        f"{share(finished.meters.prune_ratio)} pruned",
    ]
    endings = {
        "cancelled": "stopped",
        "length": "cut at the token limit",
        "context": "context full",
    }
    if ending := endings.get(finished.finish_reason):
        words.append(ending)
    return " · ".join(words)
