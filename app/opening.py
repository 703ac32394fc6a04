"""Opening the screen from the command line: what it needs, and what is said without it."""

import os
import sys
from contextlib import suppress

from app import paths, settings
from app.settings_template import template
from engine.errors import UsageError


def open_screen(model: str | None = None) -> None:
    """Open the screen, with a model by name or folder; its first start writes the settings file.

    Raises UsageError where there is no terminal that can show it, McChatError for what is wrong
    before it opens.
    """
    if not is_terminal():
        raise UsageError(
            'the screen needs a terminal; without one use `mc-chat run MODEL "..."`, '
            "`mc-chat chat --plain`, and `mc-chat --help` for more"
        )
    if not is_drawn_here():
        raise UsageError(
            "the screen is drawn on standard error, which leads elsewhere here: leave it to the "
            f"terminal; what the engine says is in {paths.shown(paths.log_dir())}"
        )
    if os.environ.get("TERM") == "dumb":
        raise UsageError("this terminal (TERM=dumb) shows no screen; use `mc-chat chat --plain`")
    file = paths.settings_file()
    if not file.exists():
        with suppress(UsageError):  # it is there to be read; where it cannot be, nothing is lost
            settings.write(file, template())
    from app import tui

    tui.run(model)


def is_terminal() -> bool:
    """Whether a person reads and writes here."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def is_drawn_here() -> bool:
    """Whether Textual's screen would be seen: it is written to standard error."""
    return sys.__stderr__ is not None and sys.__stderr__.isatty()
