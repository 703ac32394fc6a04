"""What could stand at the end of a command line: read off the parser, so that it is never behind.

Options, commands and choices are the parser's own; what names a model, a preset or a setting is
looked up. Nothing found means that a file may be meant.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from app import models, paths, settings, toml_lines
from app.settings import Settings
from engine.errors import McChatError


@dataclass(frozen=True)
class Candidate:
    """A word, and what is said beside it."""

    word: str
    help: str = ""


def candidates(parser: argparse.ArgumentParser, words: list[str]) -> list[Candidate]:
    """What the last of ``words`` (without the program's name) could become."""
    *before, current = words or [""]
    place = _Place(parser)
    for word in before:
        place.pass_by(word)
    return [found for found in place.candidates(current) if found.word.startswith(current)]


class _Place:
    """Where in a command line we are, as argparse would see it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._enter(parser)

    def _enter(self, parser: argparse.ArgumentParser) -> None:
        self._options = {
            name: action for action in parser._actions for name in action.option_strings
        }
        self._positionals = [action for action in parser._actions if not action.option_strings]
        self._value_of: argparse.Action | None = None

    def pass_by(self, word: str) -> None:
        """Go on behind a whole word."""
        if word in self._options:
            option = self._options[word]
            self._value_of = None if option.nargs == 0 else option
        elif self._value_of is not None:
            if not _takes_many(self._value_of):
                self._value_of = None
        elif self._positionals and not word.startswith("-"):
            positional = self._positionals[0]
            if isinstance(positional, argparse._SubParsersAction) and word in positional.choices:
                self._enter(positional.choices[word])
            elif not _takes_many(positional):
                del self._positionals[0]

    def candidates(self, current: str) -> Iterator[Candidate]:
        """What may stand here."""
        value_of, is_option = self._value_of, current.startswith("-")
        if value_of is not None and not (is_option and _takes_many(value_of)):
            yield from _values(value_of)
        elif is_option:
            for name, option in self._options.items():
                yield Candidate(name, option.help or "")
        elif self._positionals:
            yield from _values(self._positionals[0])


def _takes_many(action: argparse.Action) -> bool:
    return action.nargs in ("*", "+")


def _values(action: argparse.Action) -> Iterator[Candidate]:
    if isinstance(action, argparse._SubParsersAction):
        for command in action._choices_actions:
            yield Candidate(command.dest, command.help or "")
    elif action.choices is not None:
        yield from (Candidate(str(choice)) for choice in action.choices)
    elif action.dest in _NAMED:
        try:
            yield from _NAMED[action.dest]()
        except (McChatError, OSError):
            return  # the command itself says what is wrong


def _models() -> Iterator[Candidate]:
    found = {model.name: f"{model.manifest.nominal_bits:.2f} bits" for model in models.installed()}
    found |= {model.name: "damaged" for model in models.damaged()}
    found.setdefault(models.DEMO, "a small model that comes along")
    yield from (Candidate(name, words) for name, words in found.items())


def _sources() -> Iterator[Candidate]:
    yield Candidate(models.DEMO, "a small model that comes along")


def _devices() -> Iterator[Candidate]:
    yield from (Candidate(device) for device in ("auto", "cpu", "cuda"))


def _presets() -> Iterator[Candidate]:
    presets = settings.load(paths.settings_file()).presets
    yield from (Candidate(name, preset.system or "") for name, preset in presets.items())


def _settings() -> Iterator[Candidate]:
    leaves: dict[toml_lines.Path, Any] = toml_lines.leaves(dataclasses.asdict(Settings()))
    yield from (Candidate(toml_lines.dotted(key)) for key in leaves)


_NAMED: dict[str, Callable[[], Iterator[Candidate]]] = {
    "model": _models,
    "source": _sources,
    "device": _devices,
    "preset": _presets,
    "key": _settings,
}
"""By the name of the argument."""
