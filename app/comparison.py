"""One prompt, two replies: asked one after the other, on the same engine. Knows no screen.

The right reply is made otherwise than the left one: pruned otherwise, or by another model. Memory
seldom holds two models, so the other one takes the place of the chat's, which comes back at the
end, however that comes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from app.agreement import Agreement, agreement
from app.engine_client import WorkerDied, WorkerEvent
from app.history import Figures, MadeWith, MessageRecord
from app.load_words import load_words
from app.render import safe_text
from app.reply_figures import figures
from engine import protocol
from engine.protocol import (
    ODP_OR_NOT,
    Generate,
    Load,
    Message,
    PruningMode,
    Request,
    SetPruning,
)

TakeState = Literal["empty", "there", "waiting", "loading", "writing", "done", "stopped", "failed"]
LEFT, RIGHT = 0, 1


@dataclass(frozen=True)
class Build:
    """A model that the right reply can be made with. ``nominal_bits`` None: an original, or not
    known; ``prunings`` are the modes that it knows."""

    name: str
    folder: Path
    nominal_bits: float | None = None
    prunings: tuple[PruningMode, ...] = ODP_OR_NOT


@dataclass(frozen=True)
class Variant:
    """What a reply is made with. ``folder`` None: a model that is not on this machine any more."""

    name: str
    folder: Path | None
    pruning: SetPruning


@dataclass(frozen=True)
class Take:
    """One of the two replies. ``note`` says how far the loading is, or why it failed.

    ``figures`` and ``activated_params`` are the last that is known; None and 0: not known.
    """

    variant: Variant
    state: TakeState = "empty"
    text: str = ""
    note: str = ""
    figures: Figures | None = None
    activated_params: int = 0
    made: MadeWith | None = None

    @property
    def ended(self) -> bool:
        """Whether there is a text that can be compared."""
        return self.state in {"there", "done", "stopped"} and bool(self.text)

    @property
    def new(self) -> bool:
        """Whether it was made here, and can be kept."""
        return self.ended and self.state != "there"


@dataclass(frozen=True)
class Subject:
    """What is asked twice: ``messages`` up to the reply that is ``there``, made as ``made`` says.

    ``variant`` is that reply's. ``seed`` is for replies that were drawn without one.
    """

    messages: tuple[Message, ...]
    there: MessageRecord
    made: MadeWith
    variant: Variant
    seed: int

    @property
    def repeatable(self) -> bool:
        """Whether the same draw gives the reply that is there once more."""
        sampling = self.made.sampling
        return sampling.temperature == 0 or sampling.seed is not None

    def made_anew(self) -> MadeWith:
        """How both are drawn: as it was, from one seed."""
        sampling = self.made.sampling
        if not self.repeatable:
            sampling = replace(sampling, seed=self.seed)
        return replace(self.made, sampling=sampling)


def other_than(there: Variant, name: str, folder: Path) -> Variant:
    """What a reply is compared with at first: its model pruned otherwise, or, where that is not
    the chat's model by ``name``, the chat's."""
    if there.name != name:
        return replace(there, name=name, folder=folder)
    mode: PruningMode = "off" if there.pruning.mode == "odp" else "odp"
    return replace(there, pruning=replace(there.pruning, mode=mode))


def on_next_build(now: Variant, builds: Sequence[Build]) -> Variant:
    """The same on the build after this one, in turn; ODP where that has not learned how the one
    before pruned."""
    names = [build.name for build in builds]
    place = names.index(now.name) + 1 if now.name in names else 0
    build = builds[place % len(builds)]
    known = now.pruning.mode in build.prunings
    pruning = now.pruning if known else replace(now.pruning, mode="odp")
    return Variant(build.name, build.folder, pruning)


def prunings_of(variant: Variant, builds: Sequence[Build]) -> tuple[PruningMode, ...]:
    """The modes that the model of a variant knows."""
    return next((build.prunings for build in builds if build.name == variant.name), ODP_OR_NOT)


class Comparison:
    """Runs the replies: `begin`, tell it every event by `hear`, `stop` at any time.

    ``left`` and ``right`` are how far they are. ``both_anew``: the left one is made again, too,
    since a reply that was drawn at random says nothing beside another draw.
    """

    def __init__(
        self,
        subject: Subject,
        other: Variant,
        home: Path,
        send: Callable[[Request], None],
        load_request: Callable[[Path], Load],
        reply_ids: Iterator[int],
        facts: protocol.Loaded | None,
    ) -> None:
        """``home`` is the chat's model, of which the engine has told ``facts``."""
        self.subject = subject
        self._home = home
        self._send = send
        self._load_request = load_request
        self._reply_ids = reply_ids
        self._facts = {} if facts is None else {home: facts}
        self._there = Take(
            subject.variant,
            "there",
            subject.there.content,
            figures=subject.there.figures,
            activated_params=self._activated(subject),
            made=subject.made,
        )
        self._takes = [self._there, Take(other)]
        self.both_anew = False
        self._waiting: list[int] = []
        self._running: int | None = None
        self._reply: int | None = None
        self._held: Path | None = home
        self.coming_back = ""
        """How far the chat's model is on its way back; empty: it is there, or not on the way."""
        self.problem = ""
        """Why the engine can answer no more."""
        self.set_both_anew(not subject.repeatable)

    def _activated(self, subject: Subject) -> int:
        """Of the reply that is there, of which the history knows the share; 0: not known."""
        facts = self._facts.get(subject.variant.folder) if subject.variant.folder else None
        took = subject.there.figures
        return round(took.activated_fraction * facts.total_params) if took and facts else 0

    # --- what is shown ------------------------------------------------------------------------

    @property
    def left(self) -> Take:
        """The reply that is there, or it made anew."""
        return self._takes[LEFT]

    @property
    def right(self) -> Take:
        """The other one."""
        return self._takes[RIGHT]

    @property
    def busy(self) -> bool:
        """Whether a reply is being made."""
        return self._running is not None

    @property
    def swaps(self) -> bool:
        """Whether another model than the chat's is needed."""
        return any(self._takes[side].variant.folder != self._home for side in self._needed())

    def agreement(self) -> Agreement | None:
        """How the two agree; None before both are at their end."""
        if not (self.left.ended and self.right.ended):
            return None
        return agreement(self.left.text, self.right.text)

    # --- what the user does -------------------------------------------------------------------

    def set_both_anew(self, wanted: bool) -> bool:
        """Make the left one anew, too, or go back to the one that is there. False: that cannot be,
        its model is gone."""
        if wanted and self.subject.variant.folder is None:
            return False
        self.both_anew = wanted
        self._takes[LEFT] = Take(self.subject.variant) if wanted else self._there
        return True

    def choose(self, variant: Variant) -> None:
        """Make the right one otherwise."""
        self._takes[RIGHT] = Take(variant)

    def begin(self) -> None:
        """Ask for what is not there yet; where both are, for the right one again."""
        assert not self.busy
        self._waiting = self._needed()
        for side in self._waiting:
            self._change(side, state="waiting", text="", note="", figures=None, activated_params=0)
        self._next()

    def stop(self) -> None:
        """Ask for no more: what is written stays, and the chat's model comes back."""
        for side in self._waiting:
            self._change(side, state="empty")
        self._waiting.clear()
        if self._running is not None:
            if self._reply is not None:
                self._send(protocol.Cancel(self._reply))
            else:
                self._change(self._running, state="empty", note="")
                self._running = None
        self._go_home()

    # --- what the engine tells ----------------------------------------------------------------

    def hear(self, event: WorkerEvent) -> None:
        """Take what concerns these replies, and go on."""
        match event:
            case protocol.LoadProgress():
                self._hear_progress(load_words(event))
            case protocol.Loaded():
                self._hear_loaded(event)
            case protocol.Token() if event.id == self._reply:
                self._add(event.text)
            case protocol.MetersUpdate() if event.id == self._reply:
                self._change(self._now, activated_params=event.meters.activated_params)
            case protocol.Finished() if event.id == self._reply:
                self._hear_finished(event)
            case protocol.Failed() if event.id is not None and event.id == self._reply:
                self._fail(event.message)
            case protocol.Failed() if event.model:
                self._hear_not_loaded(event)
            case WorkerDied():
                self._hear_death(event)

    @property
    def _now(self) -> int:
        assert self._running is not None
        return self._running

    def _hear_progress(self, words: str) -> None:
        if self._running is not None:
            self._change(self._running, note=words)
        elif self.coming_back:
            self.coming_back = words

    def _hear_loaded(self, loaded: protocol.Loaded) -> None:
        folder = Path(loaded.model)
        self._facts[folder] = loaded
        if self._running is None:
            self.coming_back = "" if folder == self._home else self.coming_back
        elif self._reply is None and folder == self._takes[self._running].variant.folder:
            self._ask(self._running)

    def _hear_finished(self, finished: protocol.Finished) -> None:
        self._change(
            self._now,
            state="stopped" if finished.finish_reason == "cancelled" else "done",
            figures=figures(finished),
            activated_params=finished.meters.activated_params,
        )
        self._next()

    def _hear_not_loaded(self, failed: protocol.Failed) -> None:
        """The engine holds nothing then."""
        folder = Path(failed.model)
        if self._held == folder:
            self._held = None
        if self._running is not None and self._takes[self._running].variant.folder == folder:
            self._fail(failed.message)
        elif folder == self._home:
            self.coming_back, self.problem = "", failed.message

    def _hear_death(self, died: WorkerDied) -> None:
        self.problem = f"The engine has stopped ({died.reason})."
        self.coming_back = ""
        self._waiting.clear()
        if self._running is not None:
            self._change(self._running, state="failed", note=self.problem)
        self._running = self._reply = self._held = None

    # --- one after the other ------------------------------------------------------------------

    def _needed(self) -> list[int]:
        """The sides that `begin` asks for."""
        missing = [
            side for side, take in enumerate(self._takes) if take.state not in {"there", "done"}
        ]
        return missing or [RIGHT]

    def _next(self) -> None:
        self._reply = self._running = None
        if not self._waiting:
            self._go_home()
            return
        self._running = side = self._waiting.pop(0)
        folder = self._takes[side].variant.folder
        assert folder is not None
        if folder == self._held:
            self._ask(side)
        else:
            self._change(side, state="loading")
            self._load(folder)

    def _ask(self, side: int) -> None:
        """On a prompt that is read afresh: nothing of it is pruned as another reply was."""
        variant = self._takes[side].variant
        facts = self._facts.get(variant.folder) if variant.folder else None
        made = replace(
            self.subject.made_anew(),
            model=variant.name,
            nominal_bits=facts.nominal_bits if facts else None,
            device=facts.device if facts else "",
            pruning=variant.pruning.mode,
            pruning_strength=variant.pruning.strength,
        )
        self._reply = next(self._reply_ids)
        self._change(side, state="writing", note="", made=made)
        self._send(
            Generate(
                self._reply,
                self.subject.messages,
                made.sampling,
                made.max_tokens,
                pruning=made.pruning,
                pruning_strength=made.pruning_strength,
                fresh=True,
            )
        )

    def _fail(self, message: str) -> None:
        self._change(self._now, state="failed", note=message)
        self._next()

    def _go_home(self) -> None:
        if self._held != self._home and not self.problem:
            self.coming_back = "loading"
            self._load(self._home)

    def _load(self, folder: Path) -> None:
        self._held = folder
        self._send(self._load_request(folder))

    def _add(self, text: str) -> None:
        self._change(self._now, text=self._takes[self._now].text + safe_text(text))

    def _change(self, side: int, **changes: object) -> None:
        self._takes[side] = replace(self._takes[side], **changes)  # type: ignore[arg-type]
