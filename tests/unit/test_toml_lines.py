"""Lines and changes of TOML texts, against tomllib."""

import tomllib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app import toml_lines
from app.toml_lines import Path, Value, leaves, line_of, set_value, with_value
from engine.errors import UsageError

FILE = '''\
# Mine.
device = "cpu"   # the card is busy
"odd key" = 1
sampling.top_k = 40
sampling . "top_p" = 0.9

# context = 4096
text = """
[not.a.table]
device = "cuda"
"""
many = [ # a list
  1, # one ]
  2,
]

[presets.coder]
# temperature = 0.1
system = \'\'\'Be "brief".\'\'\'

[presets."night shift"]
inline = { temperature = 1, deep.er = "a # b" }
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("device",), 2),
        (("odd key",), 3),
        (("sampling", "top_k"), 4),
        (("sampling", "top_p"), 5),
        (("sampling",), 4),
        (("text",), 8),
        (("many",), 12),
        (("presets", "coder"), 17),
        (("presets", "coder", "system"), 19),
        (("presets", "night shift", "inline"), 22),
        (("presets", "night shift", "inline", "deep", "er"), 22),
        (("presets",), 17),
        (("context",), None),
        (("not", "a", "table"), None),
    ],
)
def test_a_key_is_found_in_its_line(path: Path, line: int | None) -> None:
    assert line_of(FILE, path) == line


def test_windows_line_ends_are_lines_too() -> None:
    text = FILE.replace("\n", "\r\n")
    assert line_of(text, ("presets", "coder", "system")) == 19
    changed = set_value(text, ("presets", "coder", "temperature"), 0.5)
    assert "# temperature = 0.1\r\ntemperature = 0.5\r\nsystem = " in changed
    assert changed.count("\n") == changed.count("\r\n")


@pytest.mark.parametrize(
    ("path", "value", "old", "new"),
    [
        (("device",), "cuda:1", '"cpu"   #', '"cuda:1"   #'),
        (("context",), 8192, "# context = 4096\n", "# context = 4096\ncontext = 8192\n"),
        (("sampling", "seed"), 7, "= 0.9\n", "= 0.9\nsampling.seed = 7\n"),
        (("presets", "coder", "temperature"), 0.5, "= 0.1\n", "= 0.1\ntemperature = 0.5\n"),
        (("presets", "coder", "top_k"), 9, "brief\".'''\n", "brief\".'''\ntop_k = 9\n"),
        (("text",), "x", '"""\n[not.a.table]\ndevice = "cuda"\n"""', '"x"'),
        (("many",), 3, "[ # a list\n  1, # one ]\n  2,\n]", "3"),
        (("device",), None, "device", "# device"),
        (("many",), None, "many = [ # a list\n  1, # one ]\n  2,\n]", "# many = [ # a list\n#   1,"
         " # one ]\n#   2,\n# ]"),
        (("presets", "night shift", "inline", "temperature"), 2,
         '{ temperature = 1, deep.er = "a # b" }', '{ temperature = 2, deep.er = "a # b" }'),
        (("ascii",), True, "]\n\n[presets.coder]", "]\nascii = true\n\n[presets.coder]"),
        (("nothing", "here"), None, "", ""),
    ],
)  # fmt: skip
def test_one_value_changes_and_nothing_else(
    path: Path, value: Value | None, old: str, new: str
) -> None:
    assert set_value(FILE, path, value) == FILE.replace(old, new, 1)


def test_a_new_table_goes_to_the_end() -> None:
    assert set_value("", ("device",), "cpu") == 'device = "cpu"\n'
    assert set_value("a = 1", ("keys", "stop"), "f9") == 'a = 1\n\n[keys]\nstop = "f9"\n'
    assert set_value("[keys]", ("device",), "cpu") == 'device = "cpu"\n[keys]'
    assert set_value("[keys]", ("keys", "stop"), "f9") == '[keys]\nstop = "f9"\n'
    new = set_value(FILE, ("presets", "a.b", "system"), "x")
    assert new == FILE + '\n[presets."a.b"]\nsystem = "x"\n'


def test_what_cannot_be_changed_is_refused_and_nothing_is_lost() -> None:
    with pytest.raises(UsageError, match="device is no table"):
        set_value(FILE, ("device", "name"), 1)
    with pytest.raises(UsageError, match="by hand"):
        set_value("[[device]]\nname = 1\n", ("device", "name"), 1)
    with pytest.raises(UsageError, match="no number"):
        set_value(FILE, ("a",), float("nan"))
    with pytest.raises(UsageError, match="UTF-8"):
        set_value(FILE, ("a",), "\ud800")


# --- any text -------------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "c-d", "", "e.f", "g h", 'quo"te', "ü", "#", "'", "\x7f\\"])
paths = st.lists(names, min_size=1, max_size=3).map(tuple)
strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
floats = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.one_of(strings, st.booleans(), st.integers(-(2**63), 2**63 - 1), floats)


def fits(paths_so_far: list[Path], path: Path) -> bool:
    """No value stands where another one's table is."""
    return all(path[: len(other)] != other and other[: len(path)] != path for other in paths_so_far)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Values as people write them: dotted, under headers, inline, with comments between."""
    text, used, headers = "", [], set()
    table: Path = ()
    for _ in range(draw(st.integers(0, 6))):
        if draw(st.booleans()):
            header = draw(paths)
            if header not in headers and fits(used, header):
                headers.add(header)
                used_below = [path for path in used if path[: len(header)] == header]
                if used_below or any(other[: len(header)] == header for other in used):
                    continue
                table = header
                text += f"[{toml_lines.dotted(header)}] # {draw(st.sampled_from(['', 'x = 1']))}\n"
        key = draw(paths)
        if not fits(used, table + key) or any(
            other[: len(table + key)] == table + key or other == (table + key)[:-1]
            for other in headers - {table}
        ):
            continue
        form = draw(st.sampled_from(["plain", "inline", "list", "long", "literal"]))
        value = {
            "plain": lambda: toml_lines.written(draw(scalars)),
            "inline": lambda: f"{{ x = {toml_lines.written(draw(scalars))}, y.z = [1, '}}'] }}",
            "list": lambda: '[ # [\n  "]", # ]\n  [2], ]',
            "long": lambda: '"""\n[a]\n# b = 1\n\\""" "" x""""',
            "literal": lambda: "'''\nb = '' 1\n'''''",
        }[form]()
        candidate = text + f"{toml_lines.dotted(key)} = {value} # = 1\n# {key[-1]!r} = 2\n\n"
        try:
            tomllib.loads(candidate)
        except tomllib.TOMLDecodeError:
            continue
        text = candidate
        used.append(table + key)
    return text


@given(documents())
def test_every_value_is_found_where_it_is(text: str) -> None:
    lines = text.split("\n")
    for path in leaves(tomllib.loads(text)):
        line = line_of(text, path)
        assert line is not None
        # Without everything from this line on, the value is gone.
        before = "\n".join(lines[: line - 1])
        assert path not in leaves(tomllib.loads(before))


@example("a.b = { x = 1 }\n", ("a", "b"), "")
@given(documents(), paths, scalars)
def test_a_change_changes_one_value_and_keeps_every_line(
    text: str, path: Path, value: Value
) -> None:
    before = tomllib.loads(text)
    try:
        changed = set_value(text, path, value)
    except UsageError:  # a value stands where a table is wanted, or the other way round
        assert not fits(list(leaves(before)), path)
        return
    assert leaves(tomllib.loads(changed)) == leaves(with_value(before, path, value))
    if path not in leaves(before) and not inline(text, path):
        kept = iter(changed.split("\n"))
        assert all(line in kept for line in text.split("\n")[:-1])
    assert set_value(changed, path, value) == changed


@given(documents(), paths)
def test_a_value_taken_out_is_commented_out(text: str, path: Path) -> None:
    before = tomllib.loads(text)
    if not fits([other for other in leaves(before) if other != path], path):
        return
    changed = set_value(text, path, None)
    assert leaves(tomllib.loads(changed)) == leaves(with_value(before, path, None))
    if not inline(text, path):
        kept = iter(changed.split("\n"))
        assert all(any(new in (line, f"# {line}") for new in kept) for line in text.split("\n"))


def inline(text: str, path: Path) -> bool:
    """Whether ``path`` lies in an inline table: the line of that table changes."""
    return any(
        entry.key == path[: len(entry.key)] and entry.key != path and not entry.is_header
        for entry in toml_lines._entries(text)
    )
