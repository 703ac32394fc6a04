"""What a command left behind, and what a failure looks like."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Result]


def failed(result: Result, code: int, said: str) -> None:
    """One clear line, the right exit code, no result, no traceback."""
    assert result.code == code
    lines = [line for line in result.err.splitlines() if line.startswith("mc-chat: ")]
    assert len(lines) == 1, result.err
    assert said in lines[0]
    assert "Traceback" not in result.err
    assert result.out == ""
