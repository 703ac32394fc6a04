"""What each setting means, what it may be, and whether a value is allowed."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THEMES = (
    *("mc-chat", "mc-light", "mc-contrast"),
    *("textual-dark", "textual-light", "nord", "gruvbox", "catppuccin-mocha"),
    *("dracula", "tokyo-night", "monokai", "flexoki", "catppuccin-latte", "catppuccin-frappe"),
    *("catppuccin-macchiato", "solarized-light", "solarized-dark", "rose-pine"),
    *("rose-pine-moon", "rose-pine-dawn", "atom-one-dark", "atom-one-light"),
    *("ansi-dark", "ansi-light"),
)
"""Ours and Textual's, which commands do not import."""

_DEVICE = re.compile(r"auto|cpu|cuda(?::\d+)?", re.ASCII)


@dataclass(frozen=True)
class Explained:
    """``words`` say what the setting does, ``allowed`` what it may be, ``holds`` whether a value
    of the right type is that."""

    words: str
    allowed: str
    holds: Callable[[Any], bool] = lambda value: True


def _from(least: float) -> Callable[[Any], bool]:
    return lambda number: math.isfinite(number) and number >= least


EXPLAINED: dict[str, Explained] = {
    "device": Explained(
        "Where models run; auto takes the best GPU there is, else the CPU.",
        "auto, cpu, cuda or cuda:N",
        lambda text: _DEVICE.fullmatch(text) is not None,
    ),
    "context": Explained(
        "Tokens of prompt and reply together. Unset: 8192, or the model's own limit.",
        "1 or more",
        _from(1),
    ),
    "kv_bits": Explained(
        "Bits of a key or value in the context's memory; 8 takes half of it or less.", "16 or 8"
    ),
    "max_tokens": Explained(
        "The longest reply. Unset: until the context is full.", "1 or more", _from(1)
    ),
    "pruning": Explained("Skip experts that hardly count (odp, otp), or none.", "odp, otp or off"),
    "system": Explained("What every model is told before a chat begins.", "any text"),
    "models_dir": Explained(
        "Where models are kept, on another disk for example. Empty: beside the chats.",
        "an absolute path, or one that begins with ~",
        lambda text: not text or Path(text).is_absolute() or text.startswith("~"),
    ),
    "idle_unload_minutes": Explained(
        "Give the model's memory back after this long without a message. 0: never.",
        "0 or more",
        _from(0),
    ),
    "theme": Explained(
        "The colours of the screen.",
        f"one of: {', '.join(THEMES)}",
        lambda text: text in THEMES,
    ),
    "enter_sends": Explained(
        "true: Enter sends, Shift+Enter, Alt+Enter or Ctrl+J makes a new line; "
        "false: Ctrl+Enter or Ctrl+J sends, Enter makes a new line.",
        "true or false",
    ),
    "show_gauges": Explained("Show the gauges when a chat opens.", "true or false"),
    "reduce_motion": Explained("Nothing on the screen moves by itself.", "true or false"),
    "ascii": Explained("Draw bars and marks with ASCII characters only.", "true or false"),
    "temperature": Explained(
        "How freely tokens are drawn; 0 takes the likeliest every time.", "0 or more", _from(0)
    ),
    "top_k": Explained(
        "Draw among this many of the likeliest tokens. 0: all.", "0 or more", _from(0)
    ),
    "top_p": Explained(
        "Draw among the fewest tokens that are together this likely. 1: all.",
        "above 0 and at most 1",
        lambda number: 0 < number <= 1,
    ),
    "min_p": Explained(
        "Leave out tokens less likely than this share of the likeliest one. 0: none.",
        "0 to 1",
        lambda number: 0 <= number <= 1,
    ),
    "repetition_penalty": Explained(
        "Make tokens that have come before less likely. 1: as likely as they are.",
        "above 0",
        lambda number: math.isfinite(number) and number > 0,
    ),
    "seed": Explained("Draw the same tokens every time. Unset: others every time.", "a number"),
}
"""By the name of the setting; those of ``[sampling]`` hold for presets too."""
