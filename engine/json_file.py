"""JSON from files that may come from strangers: no surprise but a ValueError or an OSError."""

import json
from pathlib import Path
from typing import Any, NoReturn

LARGEST_BYTES = 16 * 2**20
"""Many times what any file read here needs; parsing takes about fifteen times as much memory."""


def read_json(path: Path) -> Any:
    """The value in a file. Raises OSError, and ValueError when it is not JSON.

    Also for what is JSON to Python alone (NaN, Infinity), for a key given twice, of which readers
    choose differently, and for files that are too large or nested too deeply.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST_BYTES + 1)
    return parse_json(content)


def parse_json(content: bytes) -> Any:
    """The value in ``content``, as `read_json`."""
    if len(content) > LARGEST_BYTES:
        raise ValueError(f"it has more than {LARGEST_BYTES:,} bytes")
    try:
        return json.loads(
            content.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_once
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return found
