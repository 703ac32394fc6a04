"""A chat as Markdown: a header of what it was made with, then every message of its current line."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

from app.history import MadeWith, WholeChat, WholeMessage
from engine.protocol import Role, SamplingOptions

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|])")
_FENCE = re.compile(r"( *)(`{3,}|~{3,})(.*)")
_MAY_RUN_ON = re.compile(r"[`~<]")
_ROLES: dict[Role, str] = {"system": "System", "user": "You", "assistant": "Reply"}
_ENDINGS = {"writing": "interrupted", "stopped": "stopped", "failed": "broken off"}


def to_markdown(chat: WholeChat) -> str:
    """The current line of a chat. Code fences and all other text stay as they were written."""
    line = current_line(chat)
    made = [message.made for message in line if message.made]
    models = list(dict.fromkeys(map(_model, made)))
    parts = [f"# {_escaped(chat.title) or 'Untitled'}", _header(chat, made)]
    last = models[0] if len(models) == 1 else ""  # the header names it
    for message in line:
        model = _model(message.made) if message.made else last
        changed = f" · {_escaped(model)}" if model != last else ""
        parts += [f"## {_ROLES[message.role]}{changed}", _enclosed(message.content)]
        if below := _below(message):
            parts.append(f"*{_escaped(below)}*")
        last = model
    return "\n\n".join(part for part in parts if part.strip()) + "\n"


def current_line(chat: WholeChat) -> list[WholeMessage]:
    """The messages that lead to the chat's leaf, the first first."""
    line: list[WholeMessage] = []
    place = chat.leaf
    while place is not None:
        line.append(chat.messages[place])
        place = line[-1].parent
    return line[::-1]


def sampling_words(sampling: SamplingOptions) -> str:
    """What is switched on: `temperature 0.7, min-p 0.05`."""
    words = [f"temperature {sampling.temperature:g}"]
    if sampling.top_k:
        words.append(f"top-k {sampling.top_k}")
    if sampling.top_p < 1:
        words.append(f"top-p {sampling.top_p:g}")
    if sampling.min_p:
        words.append(f"min-p {sampling.min_p:g}")
    if sampling.repetition_penalty != 1:
        words.append(f"repetition penalty {sampling.repetition_penalty:g}")
    if sampling.seed is not None:
        words.append(f"seed {sampling.seed}")
    return ", ".join(words)


def _header(chat: WholeChat, made: Sequence[MadeWith]) -> str:
    """A list of facts; what changed in the course of the chat is told in order."""
    systems = [each.system for each in made] or [chat.system or ""]
    facts = {
        "Model": _in_turn(map(_model, made)) or chat.model,
        "Device": _in_turn(each.device for each in made),
        "Sampling": _in_turn(sampling_words(each.sampling) for each in made),
        "Pruning": _in_turn(map(_pruning, made)),
        "Preset": chat.preset,
        "System prompt": _in_turn(systems),
        "Begun": _moment(chat.created),
        "Last message": _moment(chat.updated),
    }
    return "\n".join(
        f"- **{name}:** {_escaped(' '.join(fact.split()))}" for name, fact in facts.items() if fact
    )


def _model(made: MadeWith) -> str:
    bits = "16 bits" if made.nominal_bits is None else f"{made.nominal_bits:.2f} bits"
    return f"{made.model}, {bits}"


def _pruning(made: MadeWith) -> str:
    scaled = made.pruning != "off" and made.pruning_strength != 1.0
    return f"{made.pruning} ×{made.pruning_strength:g}" if scaled else made.pruning


def _in_turn(values: Iterable[str]) -> str:
    return "; later ".join(dict.fromkeys(value for value in values if value))


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="minutes")


def _below(message: WholeMessage) -> str:
    return message.summary or _ENDINGS.get(message.state, "")


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def _enclosed(text: str) -> str:
    """``text`` so that it ends where it ends: what would swallow the rest of the page is mended.

    A fence that a cut-off reply left open is closed. What still runs on, as an HTML comment does,
    is shown as source.
    """
    if not _MAY_RUN_ON.search(text):
        return text
    closed = _with_closed_fence(text)
    if _ends_by_itself(closed):
        return closed
    fence = "`" * (1 + max(2, *map(len, re.findall("`+", text)), 0))
    return f"{fence}\n{text}\n{fence}"


def _with_closed_fence(text: str) -> str:
    open_fence = indent = ""
    for line in text.splitlines():
        match = _FENCE.fullmatch(line)
        if not match:
            continue
        if not open_fence:
            indent, open_fence = match[1], match[2]
        elif match[2].startswith(open_fence) and not match[3].strip():
            open_fence = ""
    return f"{text}\n{indent}{open_fence}" if open_fence else text


def _ends_by_itself(text: str) -> bool:
    """Whether a heading below ``text`` is one."""
    from markdown_it import MarkdownIt  # takes its time, and few messages need it

    tokens = MarkdownIt("commonmark").parse(f"{text}\n\n## end")
    return [(token.type, token.level) for token in tokens[-3:-2]] == [("heading_open", 0)]
