"""What the screen and the engine's process say to each other: one JSON object a line.

Requests go to the worker's standard input, events come from its standard output. Every message is
a frozen dataclass; on the wire it carries its class name as ``type``. This file is free of torch.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from engine.errors import ProtocolError

PROTOCOL_VERSION = 1

Role = Literal["system", "user", "assistant"]
PruningMode = Literal["odp", "otp", "off"]
ODP_OR_NOT: tuple[PruningMode, ...] = ("odp", "off")
"""What every compressed model knows."""
FinishReason = Literal["stop", "length", "cancelled", "context"]


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is drawn. ``temperature`` 0 is greedy; a 0 or 1.0 switches a cut off."""

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    seed: int | None = None


# --- requests -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """Load the checkpoint in folder ``model``. ``context`` in tokens, None: 8192, or the model's
    own limit where that is shorter. ``force``: try it even where it does not fit. ``kv_bits``: of
    an element of the KV cache, 16 for the type of the activations."""

    model: str
    device: str = "auto"
    context: int | None = None
    force: bool = False
    kv_bits: Literal[8, 16] = 16


@dataclass(frozen=True)
class Generate:
    """Answer ``messages``; where they end with an assistant's turn, go on with it: the events carry
    what is new. ``id`` names the reply in all events. ``pruning_strength`` as in `SetPruning`.
    ``fresh``: run the whole prompt, also what is cached, so that nothing of it was pruned as an
    earlier reply was."""

    id: int
    messages: tuple[Message, ...]
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    pruning: PruningMode = "odp"
    pruning_strength: float = 1.0
    fresh: bool = False


@dataclass(frozen=True)
class Cancel:
    """Stop reply ``id``; it ends with Finished(finish_reason="cancelled")."""

    id: int


@dataclass(frozen=True)
class SetPruning:
    """Change the pruning, of a running reply too: from its next token where the host draws them,
    within two looks of a few tokens where a GPU does. ``strength`` scales ODP's thresholds, 0 to 2:
    0 prunes nothing, 1 is what was learned."""

    mode: PruningMode
    strength: float = 1.0


@dataclass(frozen=True)
class Count:
    """Ask how many tokens ``messages`` take of the context; answered by Counted with this ``id``,
    after whatever runs."""

    id: int
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Detect:
    """Ask for the devices of this machine; answered by Devices."""


@dataclass(frozen=True)
class Unload:
    """Give the model's memory back; answered by Unloaded."""


@dataclass(frozen=True)
class Shutdown:
    """End the process after the current token."""


# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """A place to run on. Memory in bytes; ``free_bytes`` is what a new process could take.

    Both are 0 where they cannot be told. ``integrated``: a GPU that shares the host's memory.
    ``problem``: why it cannot be used at all, empty if it can.
    """

    name: str
    kind: Literal["cuda", "cpu"]
    id: str
    total_bytes: int
    free_bytes: int
    note: str = ""
    integrated: bool = False
    problem: str = ""

    @property
    def memory_known(self) -> bool:
        """Whether a judgement on what fits is possible."""
        return self.total_bytes > 0


@dataclass(frozen=True)
class Memory:
    """Bytes the engine holds, by part, and what its device has left."""

    weights: int = 0
    kv_cache: int = 0
    workspace: int = 0
    free: int = 0
    total: int = 0


@dataclass(frozen=True)
class Meters:
    """What the gauges show. Means over the reply unless named ``_now``; fractions are 0 to 1.

    ``activated_params``: parameters a token really passed through; ``activated_fraction``: their
    share of the whole model's; ``prune_ratio``: skipped expert slots / routed slots, over prompt
    and reply; ``prune_ratio_now``: the same over the last few tokens; ``prune_ratio_layers``: per
    layer. ``expert_runs[layer][expert]`` and ``expert_skips`` count slots since the reply began.
    """

    activated_params: int = 0
    activated_bytes: int = 0
    activated_fraction: float = 0.0
    prune_ratio: float = 0.0
    prune_ratio_now: float = 0.0
    prune_ratio_layers: tuple[float, ...] = ()
    expert_runs: tuple[tuple[int, ...], ...] = ()
    expert_skips: tuple[tuple[int, ...], ...] = ()
    tokens_per_second: float = 0.0
    time_to_first_token: float = 0.0
    context_used: int = 0
    context_size: int = 0
    memory: Memory = field(default_factory=Memory)


@dataclass(frozen=True)
class Ready:
    """The process is up and listens."""

    protocol: int = PROTOCOL_VERSION


@dataclass(frozen=True)
class Devices:
    """The devices of this machine, the best one first."""

    devices: tuple[Device, ...]


@dataclass(frozen=True)
class LoadProgress:
    """``fraction`` of the model's bytes is loaded; ``stage`` says what is going on."""

    fraction: float
    stage: str


@dataclass(frozen=True)
class Loaded:
    """The model is ready. ``nominal_bits`` is None for an original, uncompressed checkpoint;
    ``kernels`` says what multiplies, and where that is slow, why; ``model`` is the folder that was
    asked for; ``prunings`` are the modes that it knows."""

    name: str
    device: str
    context: int
    total_params: int
    nominal_bits: float | None
    bits_per_weight: float
    memory: Memory
    kernels: str = ""
    model: str = ""
    prunings: tuple[PruningMode, ...] = ODP_OR_NOT


@dataclass(frozen=True)
class Token:
    """``text`` is what came after the last event of this reply; whole characters only."""

    id: int
    text: str


@dataclass(frozen=True)
class MetersUpdate:
    """The gauges, at most four times a second while a reply runs, and once at its end."""

    id: int
    meters: Meters


@dataclass(frozen=True)
class Finished:
    """A reply has ended. ``tokens`` and ``prompt_tokens`` are counts."""

    id: int
    text: str
    tokens: int
    prompt_tokens: int
    tokens_per_second: float
    finish_reason: FinishReason
    meters: Meters


@dataclass(frozen=True)
class Counted:
    """``tokens`` of the context, before the next message is added; None: no model is loaded."""

    id: int
    tokens: int | None


@dataclass(frozen=True)
class Unloaded:
    """The model's memory was given back."""


@dataclass(frozen=True)
class Failed:
    """A request failed; the process goes on. ``kind`` is the exception's class name,
    ``message`` one line for the user, ``id`` the reply it belongs to, None if none, ``model`` the
    folder that could not be loaded, empty if it was no Load."""

    kind: str
    message: str
    id: int | None = None
    model: str = ""


Request = Load | Generate | Cancel | SetPruning | Count | Detect | Unload | Shutdown
Event = (
    Ready
    | Devices
    | LoadProgress
    | Loaded
    | Token
    | MetersUpdate
    | Finished
    | Counted
    | Unloaded
    | Failed
)

_REQUESTS: dict[str, type] = {cls.__name__: cls for cls in get_args(Request)}
_EVENTS: dict[str, type] = {cls.__name__: cls for cls in get_args(Event)}

_known_hints: dict[type[Any], dict[str, Any]] = {}

T = TypeVar("T")


def encode(message: Request | Event) -> str:
    """One line of JSON, without the line break."""
    body = {"type": type(message).__name__, **dataclasses.asdict(message)}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def decode_request(line: str) -> Request:
    """Parse a line from the screen. Raises ProtocolError."""
    message: Request = _decode(line, _REQUESTS)
    return message


def decode_event(line: str) -> Event:
    """Parse a line from the worker. Raises ProtocolError."""
    message: Event = _decode(line, _EVENTS)
    return message


def _decode(line: str, known: dict[str, type]) -> Any:
    try:
        raw = json.loads(line)
        cls = known[raw.pop("type")]
        return from_dict(cls, raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProtocolError(f"not a message of the protocol: {line[:200]!r} ({error})") from None


def from_dict(cls: type[T], raw: dict[str, Any]) -> T:
    """Build a dataclass, its nested dataclasses and tuples from plain JSON values.

    Raises TypeError for a value of another type than the field's, or for unknown and missing keys.
    """
    hints = _hints(cls)
    if unknown := raw.keys() - hints.keys():
        raise TypeError(f"unknown {', '.join(sorted(unknown))}")
    return cls(**{key: _convert(hints[key], value) for key, value in raw.items()})


def _hints(cls: type[Any]) -> dict[str, Any]:
    """The types of a dataclass's fields, kept: looking them up takes longer than all the rest."""
    if cls not in _known_hints:
        _known_hints[cls] = get_type_hints(cls)
    return _known_hints[cls]


def _convert(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value)
    origin, options = get_origin(hint), get_args(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError(f"{value!r} is not a list")
        return tuple(_convert(options[0], item) for item in value)
    if origin is UnionType:  # only ever with None
        return None if value is None else _convert(options[0], value)
    if origin is Literal:
        if value not in options:
            raise TypeError(f"{value!r} is none of {options}")
        return value
    return _scalar(hint, value)


def _scalar(hint: type, value: Any) -> Any:
    if hint is float and type(value) is int:
        return float(value)  # JSON knows one kind of number
    if type(value) is not hint:
        raise TypeError(f"{value!r} is not of type {hint.__name__}")
    return value
