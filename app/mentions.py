"""Files named in a message: `@path` or `@"a path"`, at the beginning of a word."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from app.attachments import LONGEST_BYTES, Attachment, attach
from app.units import size
from engine.errors import UsageError

_MENTION = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|([^\s"]\S*))')
_ENDING = ".,;:!?)"
"""A sentence may go on behind a name."""


@dataclass(frozen=True)
class Mention:
    """A name and the text that goes with the message; without one ``problem`` says why.

    ``stops``: the message cannot be sent as it was meant.
    """

    name: str
    attachment: Attachment | None = None
    problem: str = ""
    stops: bool = False

    @property
    def words(self) -> str:
        """For one line."""
        if self.attachment is None:
            return self.problem
        return f"{self.name} · {size(len(self.attachment.text.encode()))}"


def mentions(text: str) -> list[Mention]:
    """The files that a text names, each once, in their order.

    What has already been put into the text (it is edited) does not go with it twice. A name that
    looks like a file's and is none stays text, and is told.
    """
    if "@" not in text:
        return []
    found: dict[str, Mention] = {}
    for quoted, plain in _MENTION.findall(text):
        name = quoted or _existing(plain)
        if name not in found and f"{Path(name).name}:\n```" not in text:
            mention = _mention(name)
            if mention.attachment or mention.stops or quoted or _like_a_file(plain):
                found[name] = mention
    return list(found.values())


def _mention(name: str) -> Mention:
    try:
        path = Path(name).expanduser().absolute()
        facts = path.stat()
        if not path.is_file():  # a pipe would wait for its other end
            return Mention(name, problem=f"{name} is no file; it stays text")
        if facts.st_size > LONGEST_BYTES:
            most = size(LONGEST_BYTES)
            problem = f"{name} has {size(facts.st_size)}, and at most {most} can be sent"
            return Mention(name, problem=problem, stops=True)
        return _read(name, path, facts.st_mtime_ns, facts.st_size)
    except (OSError, ValueError, RuntimeError):  # also a name that is none, or of no user
        return Mention(name, problem=f"there is no file {name}; it stays text")


@lru_cache(maxsize=16)
def _read(name: str, path: Path, changed: int, length: int) -> Mention:
    """Kept as long as the file does not change: this is asked at every key."""
    try:
        return Mention(name, attach(str(path)))
    except UsageError as error:
        return Mention(name, problem=str(error).replace(str(path), name), stops=True)


def _existing(plain: str) -> str:
    """The name without what ends the sentence, unless that belongs to it."""
    shorter = plain.rstrip(_ENDING)
    return shorter if shorter and not _is_there(plain) else plain


def _is_there(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _like_a_file(name: str) -> bool:
    return "/" in name or "." in name.rstrip(_ENDING)
