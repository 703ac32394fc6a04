"""The settings file as a person first meets it: all of it explained, all of it commented out."""

import dataclasses
import textwrap

from app.key_names import ACTIONS
from app.setting_words import EXPLAINED
from app.settings import Settings
from app.toml_lines import written

_WIDTH = 100
_OPENING = """\
Settings of mc-chat. Take the # off a line to change its setting; what stays commented out is as
mc-chat would have it. `mc-chat settings` shows what holds and checks this file. A variable of the
environment goes before a line here: MC_CHAT_CONTEXT, or MC_CHAT_SAMPLING__TOP_K for top_k below.
"""
_EXAMPLES = {"context": 8192, "max_tokens": 1024, "seed": 1}
"""For settings that are unset by default."""

_KEYS = """\
Keys of the screen, several divided by commas: f9, ctrl+t, alt+slash. These are the usual ones.
"""
_PRESETS = """\
Presets: a system prompt and ways to draw under one name, for `mc-chat run --preset` and for the
screen. What a preset leaves out is as it is without it.
"""
_PRESET = """\
[presets.coder]
system = "Answer with code first, then one sentence."
temperature = 0.2
"""


def template() -> str:
    """The text of the file."""
    defaults = Settings()
    plain = dataclasses.asdict(defaults)
    blocks = [_comment(_OPENING)]
    blocks += [_setting(name, value) for name, value in plain.items() if name in EXPLAINED]
    sampling = dataclasses.asdict(defaults.sampling)
    blocks += ["[sampling]\n", *(_setting(name, value) for name, value in sampling.items())]
    keys = "".join(f"# {action} = {written(key)}\n" for action, key in ACTIONS.items())
    blocks += ["[keys]\n", _comment(_KEYS) + keys, _comment(_PRESETS) + _comment(_PRESET)]
    return "\n".join(blocks)


def _setting(name: str, default: str | bool | int | float | None) -> str:
    explained = EXPLAINED[name]
    words = [explained.words, f"Allowed: {explained.allowed}."]
    lines = [line for text in words for line in textwrap.wrap(text, _WIDTH - 2)]
    example = _EXAMPLES[name] if default is None else default
    return _comment("\n".join(lines)) + f"# {name} = {written(example)}\n"


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in text.strip("\n").split("\n"))
