"""A key as a person reads it: Ctrl+N, F2, Esc, ?. Knows no screen."""

import unicodedata

_WORDS = {
    "escape": "Esc",
    "pageup": "PgUp",
    "pagedown": "PgDn",
    "question_mark": "?",
    "slash": "/",
    "backslash": "\\",
    "at": "@",
    "minus": "-",
    "plus": "+",
    "underscore": "_",
}


def key_words(key: str) -> str:
    """One key, in Textual's names."""
    *modifiers, name = key.strip().split("+")
    return "+".join([*(modifier.capitalize() for modifier in modifiers), _name(name)])


def keys_words(keys: str) -> str:
    """Several keys, divided by commas."""
    return "  ".join(key_words(key) for key in keys.split(","))


def _name(name: str) -> str:
    if name in _WORDS:
        return _WORDS[name]
    try:
        character = unicodedata.lookup(name.replace("_", " "))
    except KeyError:
        return name.capitalize()
    # Tab, Backspace, Delete and Space are names of characters, too.
    return character if character.isprintable() and not character.isspace() else name.capitalize()
