"""The actions of the screen that have keys, and what a key may be called. Knows no screen."""

import re
import unicodedata
from collections.abc import Mapping

ACTIONS: dict[str, str] = {
    "stop": "escape",
    "pruning": "f2",
    "weaker": "f8",
    "stronger": "f9",
    "gauges": "f3",
    "models": "f4",
    "own_model": "f10",
    "map": "ctrl+l",
    "beside": "ctrl+s",
    "sleep": "f12",
    "answering": "f5",
    "again": "ctrl+g",
    "go_on": "ctrl+t",
    "new_chat": "ctrl+n",
    "chats": "ctrl+o",
    "restart": "ctrl+r",
    "help": "f1,question_mark",
    "quit": "ctrl+q",
}
"""Each action's usual keys, in Textual's names, divided by commas."""

_MODIFIER = re.compile(r"(?:ctrl|alt|shift|super)\+")
_NAMED = re.compile(
    r"f(?:[1-9]|1\d|2[0-4])|escape|enter|tab|space|backspace|delete|insert|home|end"
    r"|pageup|pagedown|up|down|left|right"
)
_SHORT_NAMES = {
    "slash": "solidus",
    "backslash": "reverse_solidus",
    "at": "commercial_at",
    "minus": "hyphen-minus",
    "plus": "plus_sign",
    "underscore": "low_line",
}


def keys_problem(action: str, text: str) -> str:
    """Why ``text`` names no keys for an action, empty if it does."""
    for key in sorted(_split(text) - _split(ACTIONS[action])):
        name = key
        modifiers = set()
        while modifier := _MODIFIER.match(name):
            modifiers.add(modifier[0])
            name = name[modifier.end() :]
        if _NAMED.fullmatch(name):
            continue
        if not _is_character(name):
            return f"{key!r} is no key; write it like f9, ctrl+t or alt+slash"
        if not modifiers - {"shift+"}:
            return f"{key!r} would be typed; write it with ctrl or alt"
    return ""


def clash(chosen: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Two actions, the first of them in ``chosen``, and the key that they share; None: no two."""
    keys = {action: _split(text) for action, text in {**ACTIONS, **chosen}.items()}
    for action in chosen:
        for other, theirs in keys.items():
            shared = keys[action] & theirs
            if other != action and shared:
                return action, other, min(shared)
    return None


def _split(text: str) -> set[str]:
    return {key.strip() for key in text.split(",")}


def _is_character(name: str) -> bool:
    """A letter or digit, or the Unicode name of a character as Textual writes it."""
    if len(name) == 1:
        return name.isalnum()
    try:
        unicodedata.lookup(_SHORT_NAMES.get(name, name).replace("_", " "))
    except KeyError:
        return False
    return True
