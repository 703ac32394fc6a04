"""`mc-chat settings`: what holds, where it comes from, and the file it is written in."""

import argparse
import dataclasses
from typing import Any

from app import paths, settings, toml_lines
from app.arguments import Commands, add_json, print_json
from app.render import safe_text
from app.settings import Found, Origin
from app.settings_template import template
from engine.errors import UsageError


def add(commands: Commands) -> None:
    """Add the command's options."""
    parser = commands.add_parser(
        "settings",
        help="show or change the settings",
        description="Show what holds and where it comes from: the environment, the settings "
        "file, or the default.",
    )
    add_json(parser)
    parser.set_defaults(run=show)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND")
    init = actions.add_parser(
        "init",
        help="write the settings file, every setting explained and commented out",
        description="Write the settings file, every setting explained and commented out.",
    )
    add_json(init)
    init.set_defaults(run=write)
    change = actions.add_parser(
        "set",
        help="change a setting in the file",
        description="Change a setting in the file; its comments and order stay.",
    )
    change.add_argument("key", metavar="KEY", help="as in sampling.top_k")
    change.add_argument("value", metavar="VALUE", help="a text or a number; true or false")
    add_json(change)
    change.set_defaults(run=set_value)
    back = actions.add_parser(
        "unset",
        help="go back to the default",
        description="Go back to the default: the setting is commented out.",
    )
    back.add_argument("key", metavar="KEY", help="as in sampling.top_k")
    add_json(back)
    back.set_defaults(run=unset_value)


def show(options: argparse.Namespace) -> None:
    """Print every setting with its value and its origin."""
    file = paths.settings_file()
    rows = _rows(settings.read(file))
    if options.json:
        found = {
            name: {"value": value, "from": str(origin)} for name, (value, origin) in rows.items()
        }
        print_json({"path": str(file), "exists": file.is_file(), "settings": found})
        return
    absent = "" if file.is_file() else "  (not there yet: `mc-chat settings init` writes it)"
    shown = {name: _written(value) for name, (value, _) in rows.items()}
    name_width = max(map(len, shown))
    width = max(len(value) for value in shown.values() if len(value) <= 40)
    lines = [
        f"{name:<{name_width}}  {shown[name]:<{width}}  {origin}"
        for name, (_, origin) in rows.items()
    ]
    print(safe_text("\n".join([f"{file}{absent}", "", *lines])))


def write(options: argparse.Namespace) -> None:
    """Write the file, unless there is one. Raises UsageError."""
    file = paths.settings_file()
    if file.exists():
        raise UsageError(f"{file} is there already; move it away to begin anew")
    settings.write(file, template())
    if options.json:
        print_json({"path": str(file)})
    else:
        print(safe_text(f"wrote {file}"))


def set_value(options: argparse.Namespace) -> None:
    """Change a value in the file."""
    key = toml_lines.path_of(options.key)
    _change(options, key, settings.value_of(key, options.value))


def unset_value(options: argparse.Namespace) -> None:
    """Comment a value out."""
    _change(options, toml_lines.path_of(options.key), None)


def _change(
    options: argparse.Namespace, key: toml_lines.Path, value: toml_lines.Value | None
) -> None:
    file = paths.settings_file()
    settings.set_value(file, key, value)
    found = _rows(settings.read(file)).get(toml_lines.dotted(key), (None, Origin()))
    if options.json:
        print_json({"key": toml_lines.dotted(key), "value": found[0], "from": str(found[1])})
        return
    name = toml_lines.dotted(key)
    print(safe_text(f"{name} is {_written(found[0])} ({found[1]})"))


def _rows(found: Found) -> dict[str, tuple[Any, Origin]]:
    """Every setting that there is, or that a table of the user's has, with its origin."""
    values = toml_lines.leaves(dataclasses.asdict(found.settings))
    return {
        toml_lines.dotted(key): (value, found.origins.get(key, Origin()))
        for key, value in values.items()
        if value is not None or key[0] != "presets"
    }


def _written(value: Any) -> str:
    return "unset" if value is None else toml_lines.written(value)
