"""The chat without a screen: lines in, words out, every change of state said in words.

It runs the engine in its own process: there is nothing else to do while the model talks, and what
was said is in the history four times a second, should that process die.
"""

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from app import models, units
from app.asking import Asking
from app.conversation import Conversation
from app.history import History, MadeWith
from app.load_choices import LoadChoice
from app.loading import model_folder
from app.plain_input import PlainInput, remember
from app.progress_line import ProgressLine
from app.pruning_words import pruning_of, pruning_words
from app.render import safe_text
from engine.errors import McChatError, UsageError
from engine.protocol import Finished, Generate, Loaded, SetPruning

if TYPE_CHECKING:
    from engine.session import Session

SAVE_SECONDS = 0.25
LONGEST_WORD = 30
"""Characters that are waited for."""

_ENDINGS = {
    "cancelled": "Stopped. What was said is kept. Ctrl+C again quits.",
    "length": "The reply is cut at the token limit.",
    "context": "The reply is cut: the context is full. /drop leaves the older half out, and /new "
    "begins another chat.",
}


class PlainChat:
    """One run of the chat. What the model says goes to ``out``, everything else to ``notes``.

    ``load_as`` says how a model is loaded, by its folder.
    """

    def __init__(
        self,
        history: History,
        how: Asking,
        load_as: Callable[[Path], LoadChoice],
        lines: PlainInput,
        out: TextIO,
        notes: TextIO,
    ) -> None:
        self._history = history
        self._how = how
        self._load_as = load_as
        self._lines = lines
        self._out = out
        self._notes = notes
        self._ids = itertools.count(1)
        self._pruning = SetPruning(how.pruning)
        self._session: Session | None = None
        self._loaded: Loaded | None = None
        self._finished: Finished | None = None
        self._interrupts = 0
        self._model = ""
        self._conversation = Conversation(history, "")
        self._commands: dict[str, tuple[str, str, Callable[[str], None]]] = {
            "help": ("", "list the commands", self._help),
            "new": ("", "begin another chat", self._new),
            "stop": ("", "end the reply, typed while it is written; Ctrl+C does, too", self._stop),
            "model": ("NAME", "go on with another model", self._switch_model),
            "pruning": (
                "odp|otp|off, or 0 to 2",
                "skip experts that hardly count, more or fewer of them, or none",
                self._prune,
            ),
            "system": ("TEXT", "what the model is told beforehand; none: nothing", self._system),
            "drop": ("", "leave the older half of the chat out of what the model sees", self._drop),
            "export": (
                "FILE",
                "write this chat, as .md or .json; FILE may be left out",
                self._export,
            ),
            "stats": ("", "figures of the last reply, context and memory", self._stats),
            "quit": ("", "leave; the end of the input does, too", self._quit),
        }

    def run(self, model: str) -> None:
        """Chat until the input ends or the person leaves.

        Raises McChatError where nobody is there to be told, and KeyboardInterrupt: for a person
        only the second in a row.
        """
        self._load(model)
        self._open()
        while True:
            try:
                text = self._lines.read()
                if text is None:
                    break
                self._interrupts = 0
                self._act(text)
            except KeyboardInterrupt:
                self._leave_line()
                self._interrupts += 1
                if self._interrupts > 1 or not self._lines.is_interactive:
                    raise
                self._say("Ctrl+C again quits; /help lists the commands.")
            except _Quit:
                return
            except McChatError as error:
                if not self._lines.is_interactive:
                    raise
                self._say(f"{error}.")
        self._leave_line()

    def _act(self, text: str) -> None:
        if text.startswith("/"):
            name, _, rest = text[1:].partition(" ")
            if name not in self._commands:
                raise UsageError(
                    f"there is no command /{name}; /help lists them, and a space before the / "
                    "makes it a message"
                )
            self._commands[name][2](rest.strip())
        elif text.strip():
            self._answer(text.strip())

    # --- a reply ------------------------------------------------------------------------------

    def _answer(self, text: str) -> None:
        session, conversation = self._session, self._conversation
        if session is None:
            raise UsageError("no model is loaded; /model NAME loads one")
        conversation.using = self._made_with()
        conversation.say(text, next(self._ids))
        question = replace(conversation.request(), stop=self._how.stop)
        try:
            finished = self._write(session, question)
        except (KeyboardInterrupt, BrokenPipeError):
            conversation.end("stopped")
            raise
        except Exception:
            if not conversation.end("failed").content:
                conversation.delete_last()  # it would be in the way of the next
            raise
        conversation.end("stopped" if finished.finish_reason == "cancelled" else "done", finished)
        self._finished = finished
        if not finished.text.strip():
            self._say("The model ended its reply without a word.")
        if finished.finish_reason in _ENDINGS:
            self._say(_ENDINGS[finished.finish_reason])

    def _write(self, session: "Session", question: Generate) -> Finished:
        said, words, saved = "", "", time.monotonic()
        with self._stopping() as stopping:
            reply = session.start(
                question,
                pruning=lambda: self._pruning.mode,
                cancelled=stopping,
                strength=lambda: self._pruning.strength,
            )
            try:
                for piece in session.run(reply):
                    said += piece
                    words = self._show(words + self._conversation.add(piece))
                    if time.monotonic() >= saved + SAVE_SECONDS:
                        self._conversation.save()
                        saved = time.monotonic()
            finally:  # after an interruption, too, what follows begins in a new line
                print(words, file=self._out, flush=True)
        if not self._lines.is_interactive:
            print(file=self._out, flush=True)  # a blank line between the replies of a script
        return session.finished(question.id, said, reply)

    def _show(self, words: str) -> str:
        """Print whole words; returns the rest. Halves of words are hard to listen to."""
        end = max(words.rfind(" "), words.rfind("\n")) + 1
        if len(words) - end > LONGEST_WORD:  # a script without spaces
            end = len(words)
        if end:
            print(words[:end], end="", file=self._out, flush=True)
        return words[end:]

    @contextmanager
    def _stopping(self) -> Iterator[Callable[[], bool]]:
        """While a reply is written a person's Ctrl+C asks for its end; the second one quits."""

        def interrupt(number: int, frame: FrameType | None) -> None:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt

        if not self._lines.is_interactive:
            yield lambda: False
            return
        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield lambda: self._interrupts > 0 or self._lines.wants_stop()
        finally:
            signal.signal(signal.SIGINT, before)

    # --- the commands -------------------------------------------------------------------------

    def _help(self, rest: str) -> None:
        for name, (argument, words, _) in self._commands.items():
            self._say(f"/{name} {argument}: {words}" if argument else f"/{name}: {words}")
        self._say('A \\ at the end of a line makes a new line; so does """ before and behind.')

    def _new(self, rest: str) -> None:
        self._conversation = self._chat(None)
        self._finished = None
        self._say("A new chat.")

    def _stop(self, rest: str) -> None:
        self._say("No reply is being written.")

    def _switch_model(self, name: str) -> None:
        if not name:
            names = ", ".join(model.name for model in models.installed())
            self._say(f"This is {self._model}; installed: {names}.")
            return
        models.resolve(name)  # a wrong name leaves the model that is there
        self._load(name)

    def _prune(self, text: str) -> None:
        if text:
            wanted = pruning_of(text, self._pruning)
            if self._loaded is not None and wanted.mode not in self._loaded.prunings:
                raise UsageError(
                    f"{self._model} has learned no OTP; `mc-chat prune {self._model}` does that"
                )
            self._pruning = wanted
        self._say(f"Now: {pruning_words(self._pruning)}.")

    def _system(self, text: str) -> None:
        if text:
            self._conversation.set_system("" if text == "none" else text)
        now = self._conversation.system
        self._say(f"The model is told: {now}" if now else "The model is told nothing beforehand.")

    def _drop(self, rest: str) -> None:
        before = self._conversation.left_out
        left_out = self._conversation.drop_oldest_turns()
        if left_out == before:
            raise UsageError("only the last message is left; /new begins another chat")
        messages = "message" if left_out == 1 else f"{left_out} messages"
        self._say(
            f"The model no longer sees your first {messages}, nor the replies; they stay in the "
            "chat."
        )

    def _export(self, name: str) -> None:
        from app.chat_files import export_as

        if self._conversation.chat is None:
            raise UsageError("/export writes this chat, once something was said")
        self._say(f"Wrote {export_as(self._history, self._conversation.chat, name)}.")

    def _stats(self, rest: str) -> None:
        if self._session is None:
            raise UsageError("no model is loaded; /model NAME loads one")
        if self._finished is not None:
            self._say(_figures(self._finished))
        memory = self._session.memory()
        held = memory.weights + memory.kv_cache + memory.workspace
        self._say(
            f"Memory: {units.size(held)} held, {units.size(memory.weights)} of it weights; "
            f"{units.size(memory.free)} free of {units.size(memory.total)}."
        )

    def _quit(self, rest: str) -> None:
        raise _Quit

    # --- model and chat -----------------------------------------------------------------------

    def _load(self, name: str) -> None:
        with ProgressLine(self._notes, plain=True) as line:
            folder = model_folder(name, line)
            shown = models.display_name(folder)
            line.show(f"Loading {shown}, 0 percent")
            from engine import devices
            from engine.session import Session

            if self._session is not None:
                self._session = self._loaded = None
                devices.release_memory()
            choice = self._load_as(folder)
            session = Session.load(
                folder,
                choice.device,
                choice.context,
                lambda done, stage: line.show(f"Loading {shown}, {100 * done:.0f} percent"),
                choice.force,
                self._how.kv_bits,
            )
        self._session, self._loaded, self._model = session, session.loaded(), shown
        bits = self._loaded.nominal_bits
        size = "16 bits" if bits is None else f"{bits:.2f} bits"
        self._say(
            f"{shown} is ready: {size} on {self._loaded.device}, a context of "
            f"{self._loaded.context} tokens. /help lists the commands."
        )

    def _open(self) -> None:
        """A person goes on with the last chat, as on the screen; a script begins its own."""
        last = self._history.last_chat(self._model) if self._lines.is_interactive else None
        self._conversation = self._chat(None if last is None else last.id)
        if self._lines.is_interactive:
            remember([said.content for said in self._conversation.line() if said.role == "user"])
        if last is None:
            return
        if self._how.own_system:
            self._conversation.set_system(self._how.system, self._how.preset)
        self._say(
            f"Going on with {last.title!r}, {last.messages} messages; /new begins another chat."
        )

    def _chat(self, chat: int | None) -> Conversation:
        how = self._how
        return Conversation(self._history, self._model, how.system, chat, how.preset)

    def _made_with(self) -> MadeWith:
        loaded = self._loaded
        assert loaded is not None
        return MadeWith(
            model=self._model,
            nominal_bits=loaded.nominal_bits,
            device=loaded.device,
            pruning=self._pruning.mode,
            pruning_strength=self._pruning.strength,
            sampling=self._how.sampling,
            max_tokens=self._how.max_tokens,
        )

    def _leave_line(self) -> None:
        """What comes behind "You: " begins in a new line."""
        if self._lines.is_interactive:
            self._say("")

    def _say(self, text: str) -> None:
        print(safe_text(text), file=self._notes, flush=True)


class _Quit(Exception):  # noqa: N818 - nothing failed
    """The person wants to leave."""


def _figures(finished: Finished) -> str:
    meters = finished.meters
    return (
        f"Last reply: {finished.tokens} tokens, {finished.tokens_per_second:.1f} tokens per second,"
        f" the first after {meters.time_to_first_token:.2f} seconds; "
        f"{100 * meters.prune_ratio:.0f} percent of the expert slots skipped; "
        f"context: {meters.context_used} of {meters.context_size} tokens."
    )
