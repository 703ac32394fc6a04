"""The shards of an original on the hub, one after the other: while one is used the next arrives."""

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from compress.hub.download import download, held_bytes
from compress.hub.meter import Meter
from compress.hub.repository import HubRepository, plain_name
from compress.progress import Transfer, TransferListener
from engine.errors import Interrupted

_AHEAD = 2
"""Shards on disk: the one in use and the one that comes."""
_TICK = 0.2
"""Seconds between two words to the listener."""


class HubShards:
    """Downloads shards in the order of their use, one ahead of the reader, and deletes used ones.

    ``passes`` names the shards as they will be asked for, each time they all are. At most two are
    on the disk, more only if more are asked for before any is done with; ``keep`` keeps all of
    them, and `hold` those that a later pass needs. The listener is called in the thread that waits
    in `fetch`. What is on the disk when the program ends, half a shard included, is used by the
    next run.
    """

    def __init__(
        self,
        repository: HubRepository,
        folder: Path,
        keep: bool,
        listener: TransferListener,
        passes: Sequence[Sequence[str]],
    ) -> None:
        """Nothing is downloaded before the first `fetch`. Raises HubError when the repository
        lacks a shard."""
        self._repository = repository
        self._folder = folder
        self._keep = keep
        self._held = False
        self._listener = listener
        self._order = [plain_name(name) for order in passes for name in order]
        self._begins = list(itertools.accumulate(map(len, passes), initial=0))[:-1]
        self._files = {name: repository.file(name) for name in self._order}
        self._position = 0  # the first place in the order that is not done with
        self._done: set[int] = set()
        self._wanted: str | None = None
        self._present: set[str] = set()
        self._failures: dict[str, Exception] = {}
        self._meter: tuple[str, Meter] | None = None
        self._note = ""
        self._stopped = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def hold(self) -> None:
        """From now on what a later pass needs stays until then, and all may come ahead."""
        with self._changed:
            self._held = True

    def begin_pass(self, left: int) -> None:
        """A pass begins, after which ``left - 1`` are to come; passes may be left out."""
        with self._changed:
            self._position = self._begins[-left]
            self._done.clear()

    def fetch(self, name: str) -> Path:
        """The path of a shard, once it is there and verified.

        Raises NetworkError, HubError, DiskFullError, and what the listener raises.
        """
        path = self._folder / plain_name(name)
        with self._changed:
            self._failures.pop(name, None)  # one that was fetched ahead in vain has another chance
            self._wanted = name
            self._advance(name)
            self._changed.notify_all()
        while True:
            with self._changed:
                if name in self._present:
                    self._wanted = None
                    return path
                if failure := self._failures.get(name):
                    self._wanted = None
                    raise failure
                transfer = self._transfer(name)
                self._changed.wait(_TICK)
            self._listener(transfer)

    def done_with(self, name: str) -> None:
        """The reader needs a shard no more, or not before it is asked for again."""
        with self._changed:
            place = self._place(name)
            if place is not None:
                self._done.add(place)
                self._skip_done()
            if not (self._keep or (self._held and self._place(name) is not None)):
                (self._folder / plain_name(name)).unlink(missing_ok=True)
                self._present.discard(name)
            self._changed.notify_all()

    def close(self) -> None:
        """Stop downloading; what has arrived stays on the disk."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join()

    def __enter__(self) -> "HubShards":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _advance(self, name: str) -> None:
        """Be where ``name`` stands in the order; the lock is held."""
        if name not in self._present:
            place = self._place(name)
            if place is None:  # asked for again behind its last place
                place = self._position = self._order.index(name)
                self._done.clear()
            # What stands before it and was not fetched was done by an earlier run.
            skipped = range(self._position, place)
            self._done.update(p for p in skipped if self._order[p] not in self._present)
            self._skip_done()
        if self._thread is None:
            if not self._keep:
                self._remove_stale()
            self._thread = threading.Thread(target=self._work, name="shards", daemon=True)
            self._thread.start()

    def _place(self, name: str) -> int | None:
        """Where ``name`` stands next, None if it is not needed any more."""
        later = range(self._position, len(self._order))
        return next((p for p in later if self._order[p] == name and p not in self._done), None)

    def _skip_done(self) -> None:
        while self._position in self._done:
            self._position += 1

    def _remove_stale(self) -> None:
        """Delete shards, or parts of them, that an earlier run left and this one does not need, or
        later and has no room for."""
        near = self._order[self._position :]
        if not self._held:
            near = near[:_AHEAD]
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            for name in set(self._order) - set(near):
                if path.name == name or path.name.startswith(f"{name}."):
                    path.unlink()

    def _work(self) -> None:
        """The thread: downloads what is wanted, else what comes next."""
        while True:
            with self._changed:
                while not self._stopped and (name := self._next()) is None:
                    self._changed.wait()
                if self._stopped:
                    return
                assert name is not None
                file = self._files[name]
                self._meter = (name, Meter(file.size, held_bytes(file, self._folder)))
                self._note = ""
            try:
                download(self._repository, file, self._folder, self._heard, self._say)
            except Exception as error:
                with self._changed:
                    self._failures[name] = error
                    self._changed.notify_all()
            else:
                with self._changed:
                    self._present.add(name)
                    self._changed.notify_all()

    def _next(self) -> str | None:
        """What to download now; the lock is held."""
        wanted = self._wanted
        if wanted and wanted not in self._present and wanted not in self._failures:
            return wanted
        if len(self._present) >= _AHEAD and not (self._keep or self._held):
            return None
        for place in range(self._position, len(self._order)):
            name = self._order[place]
            if place not in self._done and name not in self._present:
                return None if name in self._failures else name
        return None

    def _heard(self, done: int) -> None:
        if self._stopped:
            raise Interrupted("stopped; run the same command again to go on")
        if self._meter:
            if done > self._meter[1].done:
                self._note = ""
            self._meter[1].update(done)

    def _say(self, note: str) -> None:
        self._note = note

    def _transfer(self, name: str) -> Transfer:
        """The state of the download of ``name``; the lock is held."""
        size = self._files[name].size
        if self._meter is None or self._meter[0] != name:
            return Transfer(name, 0, size, 0.0, None, f"waiting for {name}")
        meter = self._meter[1]
        message = self._note or f"{'verifying' if meter.done == size else 'downloading'} {name}"
        return Transfer(name, meter.done, size, meter.bytes_per_second, meter.eta_seconds, message)
