"""How a compression or a transfer tells its watcher where it is. Free of torch; one JSON object a
line."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from engine.errors import ProtocolError

Stage = Literal[
    "check", "download", "calibrate", "score", "allocate", "quantize", "write", "verify"
]
STAGES: tuple[Stage, ...] = (
    "check",
    "download",
    "calibrate",
    "score",
    "allocate",
    "quantize",
    "write",
    "verify",
)

TransferKind = Literal["pull", "publish"]


@dataclass(frozen=True)
class Started:
    """The first thing a job's process tells: who it is and what it makes at the folder ``out``."""

    pid: int
    source: str
    bits: float
    out: str


@dataclass(frozen=True)
class TransferStarted:
    """The first thing a pull or a publishing tells: between which repository of the hub and which
    folder."""

    pid: int
    what: TransferKind
    repository: str
    folder: str


@dataclass(frozen=True)
class Transfer:
    """Where a download or an upload is: ``done`` of ``total`` bytes, ``message`` one line for
    people, ``eta_seconds`` to its end, None until it can be told. ``name`` is the file's."""

    name: str
    done: int
    total: int
    bytes_per_second: float
    eta_seconds: float | None
    message: str


@dataclass(frozen=True)
class Progress:
    """One step of a compression.

    ``layer`` of ``layers`` is being worked on in ``stage``; ``fraction`` is of the whole job;
    ``eta_seconds`` is None until it can be told; ``message`` is one line for people.
    """

    stage: Stage
    layer: int
    layers: int
    fraction: float
    elapsed_seconds: float
    eta_seconds: float | None
    message: str


@dataclass(frozen=True)
class Done:
    """The checkpoint is whole at ``folder``; ``url`` is where it has been published."""

    folder: str
    url: str = ""


@dataclass(frozen=True)
class JobFailed:
    """The job stopped; ``message`` says why, ``kind`` is the exception's class name."""

    kind: str
    message: str


JobEvent = Started | TransferStarted | Progress | Transfer | Done | JobFailed
Listener = Callable[[Progress], None]
TransferListener = Callable[[Transfer], None]
"""Hears of a transfer that is waited for; may raise Interrupted."""

_EVENTS: dict[str, type[JobEvent]] = {cls.__name__: cls for cls in get_args(JobEvent)}


def encode(event: JobEvent) -> str:
    """One line of JSON, without the line break."""
    return json.dumps({"type": type(event).__name__, **dataclasses.asdict(event)})


def decode(line: str) -> JobEvent:
    """Parse one line. Raises ProtocolError."""
    try:
        raw = json.loads(line)
        return _EVENTS[raw.pop("type")](**raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProtocolError(f"not a progress line: {line[:200]!r} ({error})") from None
