"""Text files that go with a message, and text that is piped in. Knows no screen."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from app import units
from engine.errors import UsageError

LONGEST_BYTES = 10**6
"""More than any context holds; what is longer was not meant."""

_FENCES = re.compile(r"^[ \t]*(`{3,})", re.MULTILINE)


@dataclass(frozen=True)
class Attachment:
    """A file's text and the name it was given by; no name: it was piped in."""

    name: str
    text: str


def attach(name: str) -> Attachment:
    """Read a file. Raises UsageError for what is missing, no text or too long."""
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            raw = file.read(LONGEST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(_no_text(name, len(raw))) from None
    return Attachment(path.name, _checked(name, text, len(raw)))


def piped(stream: TextIO) -> Attachment | None:
    """All that is piped in, None if it is blank. Raises UsageError as `attach`."""
    name = "what is piped in"
    try:
        text = stream.read(LONGEST_BYTES + 1)
        size = len(text.encode())  # in some locales Python lets through what is no UTF-8
    except UnicodeError:
        raise UsageError(_no_text(name, 0)) from None
    text = _checked(name, text, size)
    return Attachment("", text) if text.strip() else None


def with_attachments(prompt: str, attachments: list[Attachment]) -> str:
    """A message: what is attached, then what is asked of it.

    A file stands in a fence under its name; piped text stands as it is.
    """
    parts = [_fenced(one) if one.name else one.text.strip("\n") for one in attachments]
    return "\n\n".join(part for part in [*parts, prompt] if part.strip())


def _checked(name: str, text: str, size: int) -> str:
    if size > LONGEST_BYTES:
        most = units.size(LONGEST_BYTES)
        raise UsageError(f"{name} has more than {most}, which no context holds; send a part of it")
    if "\0" in text:
        raise UsageError(_no_text(name, size))
    return text


def _no_text(name: str, size: int) -> str:
    if size > LONGEST_BYTES:
        return f"{name} has more than {units.size(LONGEST_BYTES)} and is no text"
    return f"{name} is no text in UTF-8; only text can be sent to a model"


def _fenced(attachment: Attachment) -> str:
    """In a fence that is longer than any in it."""
    longest = max((len(fence) for fence in _FENCES.findall(attachment.text)), default=2)
    fence = "`" * max(3, longest + 1)
    end = "" if attachment.text.endswith("\n") else "\n"
    return f"{attachment.name}:\n{fence}\n{attachment.text}{end}{fence}"
