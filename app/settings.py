"""The user's settings: what there is, and what holds. All of it is optional.

A value comes from an environment variable, else from the TOML file, else it is the default.
``MC_CHAT_SAMPLING__TOP_K`` is the variable of ``sampling.top_k``.
"""

import dataclasses
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from app import toml_lines
from app.key_names import ACTIONS, clash, keys_problem
from app.setting_words import EXPLAINED
from app.toml_lines import dotted
from engine.budget import KvBits
from engine.errors import UsageError
from engine.protocol import PruningMode, SamplingOptions

ENVIRONMENT_PREFIX = "MC_CHAT_"
MODELS_VARIABLE = "MC_CHAT_MODELS"
"""The short name of ``MC_CHAT_MODELS_DIR``."""

_NOT_SETTINGS = ("MC_CHAT_HOME",)
_LONGEST_BYTES = 2**20
_KINDS: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


@dataclass(frozen=True)
class Preset:
    """A system prompt and ways to draw that go by one name; None: as it is without the preset."""

    system: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None

    def sampling(self, others: SamplingOptions) -> SamplingOptions:
        """How to draw: ``others`` where the preset says nothing."""
        own = dataclasses.asdict(self)
        del own["system"]
        return dataclasses.replace(
            others, **{name: value for name, value in own.items() if value is not None}
        )


@dataclass(frozen=True)
class Settings:
    """``context`` in tokens, None: as many as the plan counts on; ``kv_bits`` of an element of the
    KV cache, 16 for the type of the activations; ``max_tokens`` of one reply, None: up to the
    context; ``system`` stands before every chat, empty: nothing; ``models_dir``
    empty: beside the chats; ``idle_unload_minutes`` 0: never; ``keys`` from an action's name to
    its keys, those that are not the usual ones. `app.setting_words` explains each."""

    device: str = "auto"
    context: int | None = None
    kv_bits: KvBits = 16
    max_tokens: int | None = None
    pruning: PruningMode = "odp"
    system: str = ""
    models_dir: str = ""
    idle_unload_minutes: int = 0
    theme: str = "mc-chat"
    enter_sends: bool = True
    show_gauges: bool = True
    reduce_motion: bool = False
    ascii: bool = False
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    keys: dict[str, str] = field(default_factory=dict)
    presets: dict[str, Preset] = field(default_factory=dict)

    def preset(self, name: str) -> Preset:
        """A preset by name. Raises UsageError."""
        if name in self.presets:
            return self.presets[name]
        known = ", ".join(sorted(self.presets)) or "none is set; see `mc-chat settings`"
        raise UsageError(f"there is no preset {name!r}; there are: {known}")


@dataclass(frozen=True)
class Origin:
    """Where a value comes from: a variable of the environment, a line of the file, or neither."""

    variable: str = ""
    line: int | None = None

    def __str__(self) -> str:
        if self.variable:
            return self.variable
        return "default" if self.line is None else f"line {self.line}"


@dataclass(frozen=True)
class Found:
    """The settings that hold, and the origin of each that is not the default, by its path."""

    settings: Settings
    origins: Mapping[toml_lines.Path, Origin]


def load(path: Path, environment: Mapping[str, str] | None = None) -> Settings:
    """What holds, from the file (which may be absent) and the environment, None: this process's.

    Raises UsageError naming the file, the line and the key that are wrong, or the variable.
    """
    return read(path, environment).settings


def read(path: Path, environment: Mapping[str, str] | None = None) -> Found:
    """As `load`, with the origin of each value."""
    environment = os.environ if environment is None else environment
    variables = (item for item in environment.items() if item[0].startswith(ENVIRONMENT_PREFIX))
    return _found(path, _text(path), tuple(sorted(variables)))


def set_value(path: Path, key: toml_lines.Path, value: toml_lines.Value | None) -> None:
    """Change one value in the file, None: back to the default; comments and order stay.

    The file is made if there is none. Raises UsageError where the value is not allowed or the
    file cannot be changed.
    """
    read(path, {})  # a file with mistakes is for a person to mend
    text = toml_lines.set_value(_text(path), key, value)
    try:
        _build(tomllib.loads(text))
    except _BadValueError as error:
        raise UsageError(str(error)) from None
    write(path, text)


def write(path: Path, text: str) -> None:
    """Replace the file, whole or not at all; a link to it stays one. Raises UsageError."""
    try:
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        temporary.write_bytes(text.encode())
        os.replace(temporary, target)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}") from None


def value_of(key: toml_lines.Path, text: str) -> toml_lines.Value:
    """What ``text`` means for the setting ``key``: itself where that is a text, else TOML.

    What is not allowed comes back as it is: checking it says so.
    """
    if str in _kinds(key):
        return text
    try:
        ((_, value),) = tomllib.loads(f"value = {text}").items()
    except (tomllib.TOMLDecodeError, ValueError):
        return text
    return value if isinstance(value, bool | int | float) else text


# --- from TOML to settings ------------------------------------------------------------------------


class _BadValueError(Exception):
    """The value at ``path`` is not allowed."""

    def __init__(self, path: toml_lines.Path, message: str) -> None:
        super().__init__(f"{dotted(path)!r} {message}")
        self.path = path


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        if len(raw) > _LONGEST_BYTES:
            raise UsageError(f"{path} has {len(raw)} bytes: that is no file of settings")
        return raw.decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


@lru_cache(maxsize=4)
def _found(path: Path, text: str, variables: tuple[tuple[str, str], ...]) -> Found:
    """Cached, because places are asked for often and it is the same text each time."""
    try:
        values: Mapping[str, Any] = tomllib.loads(text)
        settings = _build(values)
    except tomllib.TOMLDecodeError as error:
        last = text.count("\n") + 1
        where = str(error).replace("end of document", f"line {last}, the last")
        raise UsageError(f"{path} is no TOML: {where}") from None
    except _BadValueError as error:
        line = toml_lines.line_of(text, error.path)
        raise UsageError(f"{path}, line {line}: {error}") from None
    given = toml_lines.leaves(values)
    origins = {key: Origin(line=toml_lines.line_of(text, key)) for key in given}
    for variable, key, value in _overrides(variables):
        values = toml_lines.with_value(values, key, value)
        origins[key] = Origin(variable)
        try:
            settings = _build(values)
        except _BadValueError as error:
            raise UsageError(f"{variable}: {error}") from None
    return Found(settings, origins)


def _overrides(
    variables: Iterable[tuple[str, str]],
) -> Iterator[tuple[str, toml_lines.Path, toml_lines.Value]]:
    """The variables that are settings, each with the setting's path and value."""
    for variable, text in variables:
        if variable not in _NOT_SETTINGS:
            short = variable == MODELS_VARIABLE
            name = "MODELS_DIR" if short else variable.removeprefix(ENVIRONMENT_PREFIX)
            key = tuple(name.lower().split("__"))
            yield variable, key, value_of(key, text)


def _build(values: Mapping[str, Any]) -> Settings:
    settings: Settings = _table(Settings, values, ())
    if shared := clash(settings.keys):
        action, other, key = shared
        raise _BadValueError(("keys", action), f"is {key}, which is the key of {other!r} too")
    return settings


def _table(cls: type[Any], values: Mapping[str, Any], path: toml_lines.Path) -> Any:
    hints = get_type_hints(cls)
    built = {}
    for name, value in values.items():
        if name not in hints:
            known = ", ".join(sorted(hints))
            raise _BadValueError((*path, name), f"is no setting; there are: {known}")
        built[name] = _value(hints[name], value, (*path, name))
    return cls(**built)


def _value(hint: Any, value: Any, path: toml_lines.Path) -> Any:
    is_table = isinstance(hint, type) and dataclasses.is_dataclass(hint)
    if (is_table or get_origin(hint) is dict) and not isinstance(value, dict):
        raise _BadValueError(path, f"is a table: write [{dotted(path)}]")
    if is_table:
        return _table(hint, value, path)
    if path == ("keys",):
        return {name: _keys(keys, (*path, name)) for name, keys in value.items()}
    if path == ("presets",):
        return {name: _value(Preset, preset, (*path, name)) for name, preset in value.items()}
    return _scalar(hint, value, path)


def _keys(value: Any, path: toml_lines.Path) -> str:
    if path[-1] not in ACTIONS:
        raise _BadValueError(path, f"is no action; there are: {', '.join(ACTIONS)}")
    keys = _typed((str,), value, path)
    if problem := keys_problem(path[-1], keys):
        raise _BadValueError(path, f"must be keys: {problem}")
    return str(keys)


def _scalar(hint: Any, value: Any, path: toml_lines.Path) -> Any:
    allowed = get_args(hint) or (hint,)
    if not any(isinstance(option, type) for option in allowed):
        if any(value == option and type(value) is type(option) for option in allowed):
            return value
        raise _BadValueError(path, f"must be one of: {', '.join(map(str, allowed))}")
    value = _typed(allowed, value, path)
    explained = EXPLAINED[path[-1]]
    if not explained.holds(value):
        raise _BadValueError(path, f"must be {explained.allowed}, not {value!r}")
    return value


def _typed(allowed: tuple[type, ...], value: Any, path: toml_lines.Path) -> Any:
    if float in allowed and type(value) is int:
        return float(value)
    if type(value) not in allowed:
        words = " or ".join(_KINDS[kind] for kind in allowed if kind in _KINDS)
        raise _BadValueError(path, f"must be {words}, not {value!r}")
    return value


def _kinds(path: toml_lines.Path) -> tuple[Any, ...]:
    """The types that the setting may have, none for one that does not exist."""
    hint: Any = Settings
    for name in path:
        if get_origin(hint) is dict:
            hint = get_args(hint)[1]
        elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
            hint = get_type_hints(hint).get(name)
        else:
            return ()
    options = get_args(hint) or (hint,)
    return tuple(str if isinstance(option, str) else option for option in options)
