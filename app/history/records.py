"""What is kept of a chat and of each message. Times are in seconds since 1970."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from engine.protocol import PruningMode, Role, SamplingOptions, from_dict

State = Literal["writing", "done", "stopped", "failed"]
"""Of a message. One that is "writing" when it is read was cut off by a crash."""

T = TypeVar("T")


@dataclass(frozen=True)
class MadeWith:
    """What a reply was made with; ``nominal_bits`` is None for an original.

    ``left_out``: so many of the user's oldest messages, with their replies, were kept from the
    model because the context was full.
    """

    model: str
    nominal_bits: float | None = None
    device: str = ""
    system: str = ""
    pruning: PruningMode = "odp"
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    max_tokens: int | None = None
    left_out: int = 0
    pruning_strength: float = 1.0


@dataclass(frozen=True)
class Figures:
    """What a reply took. Fractions are 0 to 1, times in seconds.

    ``prompt_tokens`` is of the prompt that it began with. ``finish_reason`` as in the protocol.
    """

    tokens: int
    prompt_tokens: int
    tokens_per_second: float
    time_to_first_token: float
    prune_ratio: float
    activated_fraction: float
    finish_reason: str


@dataclass(frozen=True)
class ChatRecord:
    """A chat in the list. ``messages`` counts those of its current line.

    ``system`` is None where it is not known: the chat is older than that column. ``leaf`` is the
    last message of the current line. ``deleted``: when it was, None for a chat that is there.
    """

    id: int
    title: str
    model: str
    created: float
    updated: float
    messages: int
    system: str | None
    preset: str
    leaf: int | None
    deleted: float | None


@dataclass(frozen=True)
class MessageRecord:
    """One message of a tree: each answers or follows its ``parent``, None for a first one.

    ``depth`` messages lead to it from the first, itself included. It is number ``branch``, from 1,
    of the ``branches`` that go on from the same parent. ``summary`` is the line below a reply: its
    tokens, speed and pruning.
    """

    id: int
    role: Role
    content: str
    state: State
    summary: str
    created: float
    parent: int | None
    depth: int
    branch: int
    branches: int
    made: MadeWith | None = None
    figures: Figures | None = None


@dataclass(frozen=True)
class Found:
    """A chat that a search found: by its title, or by ``message``, the best of its messages.

    ``text`` is what was found, a piece of it; ``marks`` are the places in it, from and to.
    """

    chat: ChatRecord
    message: int | None
    text: str
    marks: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class WholeMessage:
    """A message apart from the database; ``parent`` is its place in the chat's list."""

    role: Role
    content: str
    state: State
    created: float
    summary: str = ""
    parent: int | None = None
    made: MadeWith | None = None
    figures: Figures | None = None


@dataclass(frozen=True)
class WholeChat:
    """A chat with all its branches; parents come before their children.

    ``leaf`` is the place of the current line's last message.
    """

    title: str
    model: str
    system: str | None
    preset: str
    created: float
    updated: float
    leaf: int | None
    messages: tuple[WholeMessage, ...]


def to_json(value: MadeWith | Figures | None) -> str | None:
    """For a column."""
    return None if value is None else json.dumps(dataclasses.asdict(value))


def from_json(cls: type[T], text: str | None) -> T | None:
    """From a column. What another version wrote and this one does not know counts as unknown."""
    try:
        return None if text is None else from_dict(cls, json.loads(text))
    except (ValueError, TypeError, AttributeError):
        return None
