"""Chats as files: Markdown to read, JSON to keep everything and to bring it back.

The JSON is one object: ``format``, ``version`` and ``chat``, a `WholeChat` with all its branches.
"""

import dataclasses
import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any, Literal, TypeVar

from app.chat_markdown import to_markdown
from app.history import History, WholeChat
from app.render import safe_text
from engine.errors import McChatError
from engine.json_file import read_json
from engine.protocol import from_dict

Format = Literal["md", "json"]
FORMAT = "mc-chat chat"
VERSION = 1
MOST_MESSAGES = 20_000
"""Of a file that is read: many times what anybody says in one chat."""

_LONGEST_NAME = 100
"""Bytes of a file's name, less its ending; systems allow 255 for all of it."""

_YEAR_3000 = 32_503_680_000.0  # the last that every system's calendar knows
_UNSAFE = re.compile(r'[<>:"/\\|?*]')
_DEVICES = re.compile(r"(?i:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?=\.|$)")
"""Names that Windows keeps for itself, whatever ending they have."""

T = TypeVar("T")


class ChatFileError(McChatError):
    """A file with a chat cannot be written, or what is read is none."""


def to_text(chat: WholeChat, format: Format) -> str:
    """The content of a file. JSON is in ASCII."""
    if format == "md":
        return to_markdown(chat)
    whole = {"format": FORMAT, "version": VERSION, "chat": dataclasses.asdict(chat)}
    return json.dumps(whole, indent=1) + "\n"


def export_chat(history: History, chat: int, path: Path, format: Format) -> None:
    """Write a chat to ``path``, never over a file that is there. Raises McChatError."""
    text = to_text(history.read_whole(chat), format)
    try:
        file = path.open("x", encoding="utf-8", newline="\n")
    except FileExistsError:
        raise ChatFileError(f"{path} is there already; choose another name") from None
    except OSError as error:
        raise ChatFileError(f"{path} cannot be written: {error.strerror}") from None
    try:
        with file:
            file.write(text)
    except OSError as error:
        path.unlink()  # half a chat
        raise ChatFileError(f"{path} cannot be written: {error.strerror}") from None


def export_as(history: History, chat: int, name: str) -> Path:
    """Write a chat to the file of this name, whose ending says how; empty: as Markdown, named by
    its title, in the present folder. Returns where it is. Raises McChatError."""
    if not name:
        path = free_path(Path.cwd(), file_name(history.chat(chat).title, "md"))
        export_chat(history, chat, path, "md")
        return path
    path = Path(name).expanduser()
    kinds: dict[str, Format] = {".md": "md", ".json": "json"}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise ChatFileError(f"{path.name} ends neither in .md nor in .json; name it so")
    export_chat(history, chat, path, kind)
    return path


def import_chat(history: History, path: Path) -> int:
    """Add the chat in a JSON file that `export_chat` wrote; returns its id.

    Nothing is added unless all of it is right. Raises McChatError, in one line.
    """
    return history.write_whole(read_chat(path))


def read_chat(path: Path) -> WholeChat:
    """The chat in a JSON file. Terminal controls in it are dropped. Raises ChatFileError."""
    try:
        raw = read_json(path)
    except OSError as error:
        raise ChatFileError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ChatFileError(f"{path} is no exported chat: {_short(error)}") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise ChatFileError(
            f"{path} is no exported chat; export one with `mc-chat chats export ID --format json`"
        )
    if raw.get("version") != VERSION:
        raise ChatFileError(f"{path} was written by a newer mc-chat; update mc-chat to import it")
    try:
        chat = from_dict(WholeChat, raw["chat"])
        _check(chat)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ChatFileError(f"{path} is damaged: {_short(error)}") from None
    return _clean(chat)


def file_name(title: str, format: Format) -> str:
    """A name for a chat's file that every system takes: no path, no device, not too long."""
    name = _UNSAFE.sub(" ", unicodedata.normalize("NFC", safe_text(title)))
    name = "".join(each for each in name if unicodedata.category(each)[0] != "C" or each.isspace())
    name = " ".join(name.split()).lstrip(".-~ ")
    name = name.encode()[:_LONGEST_NAME].decode(errors="ignore").rstrip(". ")
    if not name or _DEVICES.match(name):
        name = f"chat {name}".rstrip()
    return f"{name}.{format}"


def free_path(folder: Path, name: str) -> Path:
    """``folder / name``, numbered where there is such a file."""
    stem, ending = os.path.splitext(name)
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{stem} ({number}){ending}"
    return path


def _check(chat: WholeChat) -> None:
    """Raises ValueError for what the types do not exclude."""
    count = len(chat.messages)
    if count > MOST_MESSAGES:
        raise ValueError(f"it has {count:,} messages, more than {MOST_MESSAGES:,}")
    for place, message in enumerate(chat.messages):
        if message.parent is not None and not 0 <= message.parent < place:
            raise ValueError(f"message {place} follows message {message.parent}")
    if chat.leaf is not None and not 0 <= chat.leaf < count:
        raise ValueError(f"its line ends with message {chat.leaf} of {count}")
    if (chat.leaf is None) != (count == 0):
        raise ValueError("it does not say where its line ends")
    for moment in (chat.created, chat.updated, *(each.created for each in chat.messages)):
        if not 0 <= moment < _YEAR_3000:
            raise ValueError(f"{moment} is no time")
    json.dumps(dataclasses.asdict(chat), allow_nan=False)


def _clean(value: T) -> T:
    """Every text in a dataclass without terminal controls."""
    cleaned: Any = value
    if isinstance(value, str):
        cleaned = safe_text(value)
    elif isinstance(value, tuple):
        cleaned = tuple(map(_clean, value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        cleaned = dataclasses.replace(
            value, **{name: _clean(getattr(value, name)) for name in names}
        )
    result: T = cleaned
    return result


def _short(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words if len(words) <= 200 else words[:199] + "…"
