"""Values of a `config.json`, which may come from a stranger: each checked as it is read."""

from typing import Any

from engine.errors import SourceError

Fields = dict[str, Any]
"""A `config.json` as parsed."""

_MOST = 2**31 - 1


def count(fields: Fields, *keys: str) -> int:
    """A whole number of at least 1, by the first of the keys that is there. Raises SourceError,
    and KeyError where none is."""
    key = next((key for key in keys if key in fields), keys[0])
    value = fields[key]
    if type(value) is not int or not 1 <= value <= _MOST:
        raise wrong(key, value, "a whole number of at least 1")
    return value


def positive(value: object, key: str) -> float:
    """A number above 0. Raises SourceError."""
    if type(value) not in (int, float) or not 0 < value <= _MOST:  # type: ignore[operator]
        raise wrong(key, value, "a number above 0")
    return float(value)  # type: ignore[arg-type]


def flag(fields: Fields, key: str, default: bool) -> bool:
    """True or false. Raises SourceError."""
    value = fields.get(key, default)
    if not isinstance(value, bool):
        raise wrong(key, value, "true or false")
    return value


def token_ids(value: object, key: str) -> tuple[int, ...]:
    """None, one token or several. Raises SourceError."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(id) is int and 0 <= id <= _MOST for id in ids):
        raise wrong(key, value, "a token id, or several")
    return tuple(ids)


def refuse(fields: Fields, key: str, why: str) -> None:
    """Raise SourceError where a key is there and neither null, false, 0 nor empty."""
    if fields.get(key):
        raise SourceError(f"{key} of config.json is {shown(fields[key])}: {why}")


def wrong(key: str, value: object, expected: str) -> SourceError:
    """The error for a value that no model has."""
    return SourceError(f"config.json is damaged: {key} is {shown(value)}, not {expected}")


def shown(value: object) -> str:
    """A value in a line, cut."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
