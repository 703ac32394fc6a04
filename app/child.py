"""What all child processes of ours share: their command, their environment, how they ended."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

_PACKAGE_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Exit:
    """The child has ended by itself. ``code`` is negative for a signal."""

    code: int
    last_line: str

    @property
    def reason(self) -> str:
        """How it ended, in words for people."""
        if self.code == -signal.SIGKILL:
            how = "it was killed, as systems do when memory runs out"
        elif self.code < 0:
            how = f"signal {signal.Signals(-self.code).name}"
        else:
            how = f"exit code {self.code}"
        return f"{how}: {self.last_line}" if self.last_line else how


def module_command(module: str, *arguments: str) -> list[str]:
    """Run one of our modules with this Python; a folder of that name here cannot shadow it."""
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environment() -> dict[str, str]:
    """Ours, and where our modules are."""
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(_PACKAGE_ROOT), *([inherited] if inherited else [])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1"}
