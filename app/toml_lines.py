"""Where things stand in a TOML text, and one value changed with all the rest left as it is.

tomllib reads values but forgets their lines; this looks for the lines only, in a text that tomllib
has understood.
"""

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import UsageError

Path = tuple[str, ...]
"""The names from the outermost table to a value: ``("sampling", "top_k")``."""
Value = str | bool | int | float

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEY = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_NOTHING = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_HEADER = re.compile(r"\[\[?[ \t]*")
_STRING = re.compile(
    r'''"""(?:\\.|[^\\])*?"""(?:"{0,2})'''
    r"""|'''.*?'''(?:'{0,2})"""
    r'''|"(?:[^"\\\n]|\\.)*"'''
    r"""|'[^'\n]*'""",
    re.DOTALL,
)


@dataclass(frozen=True)
class _Entry:
    """A table's header, or a key with its value. Offsets into the text: ``start`` and ``next`` of
    its lines, ``value`` and ``end`` of its value; ``table`` is that of the last header."""

    key: Path
    table: Path
    start: int
    next: int
    value: int = 0
    end: int = 0

    @property
    def is_header(self) -> bool:
        return self.end == 0

    @property
    def relative(self) -> Path:
        return self.key[len(self.table) :]


def leaves(values: Mapping[str, Any]) -> dict[Path, Any]:
    """Every value that is no table, by its path."""
    found: dict[Path, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= {(name, *path): leaf for path, leaf in leaves(value).items()}
        else:
            found[(name,)] = value
    return found


def with_value(values: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """A copy of parsed TOML with one value set, or taken out: None."""
    name, *rest = path
    copy = dict(values)
    if rest:
        inner = copy.get(name, {})
        copy[name] = with_value(inner if isinstance(inner, dict) else {}, tuple(rest), value)
    elif value is None:
        copy.pop(name, None)
    else:
        copy[name] = value
    return copy


def line_of(text: str, path: Path) -> int | None:
    """The line, counted from 1, where the value or table ``path`` is given; None if nowhere.

    What stands in an inline table is in that table's line.
    """
    entries = list(_entries(text))
    around = [entry for entry in entries if entry.key == path[: len(entry.key)]]
    within = [entry for entry in entries if entry.key[: len(path)] == path]
    best = max(around, key=lambda entry: len(entry.key), default=None)
    if best is None or (best.key != path and within):
        best = within[0] if within else None
    return None if best is None else text.count("\n", 0, best.start) + 1


def set_value(text: str, path: Path, value: Value | None) -> str:
    """``text`` with one value changed; order, comments and everything else stay.

    None comments the value out. A new one goes behind the line where it is commented out, else to
    the end of its table. Raises UsageError where that cannot be done, TOMLDecodeError for a text
    that is no TOML.
    """
    before = tomllib.loads(text)
    wanted = leaves(with_value(before, path, value))
    below = any(leaf[: len(path)] == path != leaf for leaf in leaves(before))  # it is a table
    changed = _changed(text, path, value)
    try:
        done = leaves(tomllib.loads(changed)) == wanted
    except tomllib.TOMLDecodeError:
        done = False
    if below or not done:
        raise UsageError(f"{dotted(path)} cannot be changed here; change it in the file by hand")
    return changed


def dotted(path: Path) -> str:
    """A path as it is written in TOML."""
    return ".".join(part if _BARE.fullmatch(part) else _quoted(part) for part in path)


def path_of(text: str) -> Path:
    """The opposite of `dotted`. Raises UsageError for what is no key."""
    if not _KEY.fullmatch(text):
        raise UsageError(f"{text!r} is no key of a setting; write it like sampling.top_k")
    return _names(text)


def written(value: Value) -> str:
    """A value as it is written in TOML. Raises UsageError for what has no writing."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{value} is no number for a setting")
    return repr(value)


def _quoted(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{text!r} cannot be written as UTF-8") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


# --- reading --------------------------------------------------------------------------------------


def _entries(text: str) -> Iterator[_Entry]:
    table: Path = ()
    position = _after(_NOTHING, text, 0)
    while position < len(text):
        start = text.rfind("\n", 0, position) + 1
        header = _HEADER.match(text, position)
        key = _KEY.match(text, header.end() if header else position)
        assert key is not None  # tomllib has read it
        if header:
            table = _names(key[0])
            following = _next_line(text, key.end())
            yield _Entry(table, table, start, following)
        else:
            value = _after(_SPACE, text, text.index("=", key.end()) + 1)
            end = _end_of_value(text, value)
            following = _next_line(text, end)
            yield _Entry((*table, *_names(key[0])), table, start, following, value, end)
        position = _after(_NOTHING, text, following)


def _names(key: str) -> Path:
    """The parts of a dotted key, quotes and escapes undone by who knows how."""
    names, inner = [], tomllib.loads(f"{key} = 0")
    while isinstance(inner, dict):
        ((name, inner),) = inner.items()
        names.append(name)
    return tuple(names)


def _end_of_value(text: str, position: int) -> int:
    depth, end = 0, position
    while position < len(text):
        character = text[position]
        if string := _STRING.match(text, position):
            position = end = string.end()
            continue
        if character in "\n#" and depth == 0:
            break
        if character == "#":
            position = text.find("\n", position)  # an open bracket is closed further down
            continue
        depth += (character in "[{") - (character in "]}")
        position += 1
        if not character.isspace():
            end = position
    return end


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _next_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1


# --- changing -------------------------------------------------------------------------------------


def _changed(text: str, path: Path, value: Value | None) -> str:
    entries = list(_entries(text))
    around = [entry for entry in entries if not entry.is_header and _begins(path, entry.key)]
    if around:
        (entry,) = around
        if entry.key != path:
            return _in_inline_table(text, entry, path, value)
        if value is None:
            return _commented_out(text, entry)
        return text[: entry.value] + written(value) + text[entry.end :]
    return text if value is None else _inserted(text, entries, path, value)


def _begins(path: Path, beginning: Path) -> bool:
    return path[: len(beginning)] == beginning


def _commented_out(text: str, entry: _Entry) -> str:
    lines = re.sub(r"^(?=.)", "# ", text[entry.start : entry.next], flags=re.MULTILINE)
    return text[: entry.start] + lines + text[entry.next :]


def _in_inline_table(text: str, entry: _Entry, path: Path, value: Value | None) -> str:
    table = tomllib.loads(f"v = {text[entry.value : entry.end]}")["v"]
    if not isinstance(table, dict):
        raise UsageError(f"{dotted(entry.key)} is no table; change it in the file by hand")
    changed = leaves(with_value(table, path[len(entry.key) :], value))
    inside = ", ".join(f"{dotted(key)} = {written(leaf)}" for key, leaf in changed.items())
    return text[: entry.value] + (f"{{ {inside} }}" if inside else "{}") + text[entry.end :]


def _inserted(text: str, entries: list[_Entry], path: Path, value: Value) -> str:
    table, place = _home(text, entries, path)
    new_line = "\r\n" if "\r\n" in text else "\n"
    lines = []
    if table is None:
        table, place = path[:-1], len(text)
        lines += [""] if text.strip() else []
        lines.append(f"[{dotted(table)}]")
    key = path[len(table) :]
    place = _behind_comment(text, entries, table, key) or place
    lines.append(f"{dotted(key)} = {written(value)}")
    before = text[:place]
    if before and not before.endswith("\n"):
        before += new_line
    return before + "".join(line + new_line for line in lines) + text[place:]


def _home(text: str, entries: list[_Entry], path: Path) -> tuple[Path | None, int]:
    """The table under whose header a new value goes and the offset of its line; None: there is no
    such header yet."""
    parent = path[:-1]
    for header in entries:
        if header.is_header and header.key == parent:
            return parent, _last_line(entries, header)
    dotted_before = [
        entry for entry in entries if not entry.is_header and _begins(entry.key, parent)
    ]
    dotted_before = [entry for entry in dotted_before if len(entry.table) < len(parent)]
    if dotted_before:  # a table that was begun with dotted keys has to go on with them
        return dotted_before[-1].table, dotted_before[-1].next
    if parent:
        return None, len(text)
    root = [entry for entry in entries if not entry.table]
    return (), root[-1].next if root else 0


def _last_line(entries: list[_Entry], header: _Entry) -> int:
    """Where the values below ``header`` end."""
    end = header.next
    for entry in entries[entries.index(header) + 1 :]:
        if entry.is_header:
            break
        end = entry.next
    return end


def _behind_comment(text: str, entries: list[_Entry], table: Path, key: Path) -> int | None:
    """Behind the line of ``table`` where ``key`` is commented out."""
    headers = [entry for entry in entries if entry.is_header]
    starts = [0, *(header.next for header in headers)]
    ends = [*(header.start for header in headers), len(text)]
    tables = [(), *(header.key for header in headers)]
    pattern = re.compile(rf"^[ \t]*#[ \t]*{re.escape(dotted(key))}[ \t]*=.*\n?", re.MULTILINE)
    for name, start, end in zip(tables, starts, ends, strict=True):
        for match in pattern.finditer(text, start, end) if name == table else ():
            if not any(entry.start <= match.start() < entry.next for entry in entries):
                return match.end()
    return None
