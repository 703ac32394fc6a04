"""The user's settings: a TOML file, all of it optional."""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from engine.errors import UsageError
from engine.protocol import PruningMode, SamplingOptions


@dataclass(frozen=True)
class Settings:
    """``context`` in tokens, None: as many as the plan counts on; ``max_tokens`` of one reply,
    None: up to the context; ``system`` stands before every chat, empty: nothing."""

    device: str = "auto"
    context: int | None = None
    max_tokens: int | None = None
    pruning: PruningMode = "odp"
    system: str = ""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)


def load(path: Path) -> Settings:
    """Read the file; without one, the defaults.

    Raises UsageError naming the file and the line or key that is wrong.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    try:
        settings: Settings = _build(Settings, raw, "")
        return settings
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None


def _build(cls: type[Any], raw: dict[str, Any], prefix: str) -> Any:
    hints = get_type_hints(cls)
    values = {}
    for key, value in raw.items():
        if key not in hints:
            known = ", ".join(sorted(hints))
            raise ValueError(f"there is no setting {prefix + key!r}; there are: {known}")
        values[key] = _value(hints[key], value, prefix + key)
    return cls(**values)


def _value(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ValueError(f"{name!r} is a table: write [{name}]")
        return _build(hint, value, f"{name}.")
    allowed = get_args(hint) or (hint,)
    if all(isinstance(option, str) for option in allowed):
        if value in allowed:
            return value
        raise ValueError(f"{name!r} is one of: {', '.join(allowed)}")
    if float in allowed and type(value) is int:
        return float(value)
    if type(value) not in allowed:
        wanted = " or ".join(kind.__name__ for kind in allowed if kind is not type(None))
        raise ValueError(f"{name!r} must be {wanted}, not {value!r}")
    return value
