"""The engine as a process of its own: `python -m engine.worker` speaks `engine.protocol`.

Requests come as lines on standard input, events go as lines to standard output, everything else
(logs, stray prints) to standard error. A thread reads, so that Cancel and SetPruning act while the
main thread computes. When standard input closes, whoever started the process is gone, and the
process ends too.
"""

import contextlib
import io
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import torch

from engine import devices, protocol
from engine.errors import McChatError, ProtocolError, UsageError, WorkerError
from engine.kernels import select
from engine.protocol import (
    Cancel,
    Count,
    Counted,
    Detect,
    Devices,
    Event,
    Failed,
    Generate,
    Load,
    LoadProgress,
    MetersUpdate,
    PruningMode,
    Ready,
    SetPruning,
    Shutdown,
    Token,
    Unload,
    Unloaded,
)
from engine.protocol import Request as ProtocolRequest
from engine.session import Session

_METER_SECONDS = 0.25
"""Least time between two updates of the gauges."""

_GRACE_SECONDS = 2.0
"""How long a computation may go on after the end of the input, before the process just ends."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Wish:
    """What is wanted of one reply, now. The reading thread changes it, the other reads it."""

    reply: int
    pruning: PruningMode
    strength: float = 1.0
    cancelled: bool = False


class Wishes:
    """The wishes for all replies that are not over. Ids may be used again, so each is its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[Wish] = []

    def expect(self, request: Generate) -> Wish:
        """A reply was asked for."""
        wish = Wish(request.id, request.pruning, request.pruning_strength)
        with self._lock:
            self._open.append(wish)
        return wish

    def cancel(self, reply: int) -> None:
        """Stop a reply, running or waiting; one that is over already needs no stopping."""
        with self._lock:
            for wish in self._open:
                wish.cancelled |= wish.reply == reply

    def cancel_all(self) -> None:
        """Stop everything."""
        with self._lock:
            for wish in self._open:
                wish.cancelled = True

    def prune(self, mode: PruningMode, strength: float) -> None:
        """Change the pruning of every reply that is not over."""
        with self._lock:
            for wish in self._open:
                wish.pruning, wish.strength = mode, strength

    def close(self, wish: Wish) -> None:
        """The reply is over."""
        with self._lock:
            self._open.remove(wish)


@dataclass(frozen=True)
class _Task:
    """A request in the queue; ``wish`` goes with a Generate."""

    request: ProtocolRequest
    wish: Wish | None = None


class Worker:
    """Handles requests one after another, and never ends because of one."""

    def __init__(self, lines: Iterable[str], out: TextIO) -> None:
        """``lines`` are requests, ``out`` takes events."""
        self._lines = lines
        self._out = out
        self._out_lock = threading.Lock()
        self._tasks: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._wishes = Wishes()
        self._session: Session | None = None

    def run(self) -> None:
        """Serve until Shutdown or the end of the input."""
        threading.Thread(target=self._read, name="requests", daemon=True).start()
        threading.Thread(target=_warm, name="kernels", daemon=True).start()
        self._emit(Ready())
        while not isinstance((task := self._tasks.get()).request, Shutdown):
            self._serve(task)

    def _read(self) -> None:
        """The reading thread: at once what concerns a running reply, the rest in order."""
        try:
            for line in self._lines:
                if line.strip() and isinstance(self._sort(line), Shutdown):
                    break
        finally:
            self._wishes.cancel_all()
            self._tasks.put(_Task(Shutdown()))

    def _sort(self, line: str) -> ProtocolRequest | None:
        """Act on a line or queue it; returns its request, None for one that is none."""
        try:
            request = protocol.decode_request(line)
        except ProtocolError as error:
            self._fail(error)
            return None
        match request:
            case Cancel(id=reply):
                self._wishes.cancel(reply)
            case SetPruning(mode=mode, strength=strength):
                self._wishes.prune(mode, strength)
            case Generate():
                self._tasks.put(_Task(request, self._wishes.expect(request)))
            case Load() | Count() | Detect() | Unload():
                self._tasks.put(_Task(request))
        return request

    def _serve(self, task: _Task) -> None:
        try:
            self._handle(task)
        except McChatError as error:
            self._fail(error, task)
        except Exception as error:
            _log.exception("a request failed")
            where = "the engine's log has the details"
            self._fail(WorkerError(f"{type(error).__name__}: {error}; {where}"), task)
        finally:
            if task.wish is not None:
                self._wishes.close(task.wish)

    def _handle(self, task: _Task) -> None:
        match task:
            case _Task(Generate() as request, Wish() as wish):
                self._generate(request, wish)
            case _Task(Count(id=id, messages=messages)):
                session = self._session
                self._emit(Counted(id, None if session is None else session.count(messages)))
            case _Task(Detect()):
                self._emit(Devices(devices.detect()))
            case _Task(Load() as request):
                self._load(request)
            case _Task(Unload()):
                self._unload()
                self._emit(Unloaded())

    def _load(self, request: Load) -> None:
        self._unload()
        self._session = Session.load(
            Path(request.model),
            request.device,
            request.context,
            lambda fraction, stage: self._emit(LoadProgress(fraction, stage)),
            request.force,
            request.kv_bits,
        )
        self._emit(replace(self._session.loaded(), model=request.model))

    def _unload(self) -> None:
        self._session = None
        devices.release_memory()

    def _generate(self, request: Generate, wish: Wish) -> None:
        if self._session is None:
            raise UsageError("no model is loaded; load one first")
        session, id = self._session, request.id
        reply = session.start(
            request, lambda: wish.pruning, lambda: wish.cancelled, lambda: wish.strength
        )
        text, due = "", 0.0
        for piece in session.run(reply):
            if piece:
                text += piece
                self._emit(Token(id, piece))
            if (now := time.monotonic()) >= due:
                due = now + _METER_SECONDS
                self._emit(MetersUpdate(id, session.meters(reply)))
        finished = session.finished(id, text, reply)
        self._emit(MetersUpdate(id, finished.meters))
        self._emit(finished)

    def _fail(self, error: McChatError, task: _Task | None = None) -> None:
        reply = task.wish.reply if task and task.wish else None
        model = task.request.model if task and isinstance(task.request, Load) else ""
        self._emit(Failed(type(error).__name__, " ".join(str(error).split()), reply, model))

    def _emit(self, event: Event) -> None:
        with self._out_lock:
            self._out.write(protocol.encode(event) + "\n")
            self._out.flush()


def _warm() -> None:
    """Compile what a CPU runs while a person still reads the screen: on a new machine that takes
    longer than to load a small model. A load that comes meanwhile waits for the rest of it."""
    if all(device.kind == "cpu" for device in devices.detect()):
        select(torch.device("cpu")).warm()


def main() -> None:
    """Serve standard input and output."""
    # Ctrl+C in the terminal reaches every process there; only the screen may act on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints must not end up between the events
    sys.stdout = sys.stderr
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more
        Worker(_input_lines(), out).run()
    os._exit(0)  # nothing is left to be saved, and the reading thread may be blocked


def _input_lines() -> Iterator[str]:
    """Lines of standard input; soon after their end the process ends, whatever it does."""
    yield from io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace")
    threading.Timer(_GRACE_SECONDS, os._exit, args=(0,)).start()


if __name__ == "__main__":
    main()
