"""Values of command-line options, checked where they are read."""

import argparse
import json
import re
from collections.abc import Callable
from typing import Any, get_args

from app.setting_words import EXPLAINED
from engine.budget import KvBits

Run = Callable[[argparse.Namespace], None]
Commands = Any
"""What argparse's add_subparsers returns; its type is private."""

_UNITS = {"": 1, "K": 1, "M": 2, "G": 3, "T": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.ASCII | re.IGNORECASE)


def size(text: str) -> int:
    """Bytes: `24GiB` counts in powers of 1024, `24GB` and `24G` in powers of 1000."""
    match = _SIZE.fullmatch(text.strip())
    if not match or (not match[2] and match[3]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write it like 24GiB or 24GB")
    base = 1024 if match[3] else 1000
    power = _UNITS[match[2].upper()] if match[2] else 0
    return int(float(match[1]) * base**power)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def allowed(name: str, kind: type[int] | type[float]) -> Callable[[str], float]:
    """Reads a number that the setting of this name may be."""
    explained = EXPLAINED[name]

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not explained.holds(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {explained.allowed}")
        return value

    return number


def add_kv_bits(parser: argparse.ArgumentParser, default: KvBits | None = 16) -> None:
    """The option of all that keep a KV cache, or count one; None: the settings decide."""
    parser.add_argument(
        "--kv-bits",
        type=int,
        choices=get_args(KvBits),
        default=default,
        help="8: round keys and values to 8 bits, for half of the context's memory or less",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that all commands share."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def print_json(result: Any) -> None:
    """One JSON object; ASCII, so that no character in it can steer a terminal."""
    print(json.dumps(result, indent=1))
