"""The reference of commands and settings lists what the program has."""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import cli
from app.key_names import ACTIONS
from app.settings import Settings
from app.toml_lines import dotted, leaves
from docs.commands import EXAMPLES, UNSHOWN, arguments_text, subcommands

DOCS = Path(__file__).resolve().parents[2] / "docs"


def every_command(
    command: argparse.ArgumentParser, name: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for word, below, _ in subcommands(command):
        yield f"{name} {word}".strip(), below
        yield from every_command(below, f"{name} {word}".strip())


@pytest.mark.parametrize(("name", "command"), every_command(cli.parser()))
def test_every_command_and_all_its_options_are_there(
    name: str, command: argparse.ArgumentParser
) -> None:
    text = (DOCS / "commands.md").read_text()
    assert text.count(f"\n{'###' if ' ' in name else '##'} {name}\n") == 1
    shown = "\n".join(arguments_text(f"mc-chat {name}", command))
    assert shown in text, "it is out of date: python -m docs.commands"


def test_every_example_is_a_command_and_has_what_it_printed() -> None:
    names = [name for name, _, _ in subcommands(cli.parser())]
    assert {*EXAMPLES, *UNSHOWN} == set(names)
    text = (DOCS / "commands.md").read_text()
    for line in (line for several in EXAMPLES.values() for line in several):
        printed = text.partition(f"$ {line}\n")[2]
        assert printed
        assert not printed.startswith(("$", "`")), line


def test_every_setting_and_every_key_is_there() -> None:
    text = (DOCS / "settings.md").read_text()
    for key in leaves(dataclasses.asdict(Settings())):
        assert f"| `{dotted(key)}` |" in text, "it is out of date: python -m docs.settings"
    for action, key in ACTIONS.items():
        assert f"| `keys.{action}` | `{key}` |" in text, "python -m docs.settings"
