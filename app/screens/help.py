"""The keys, on one page: as they are now, also where the settings have changed them."""

import textwrap
from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from app.command_table import COMMANDS
from app.key_words import keys_words

Line = tuple[str, str]
FIXED: tuple[tuple[str, tuple[Line, ...]], ...] = (
    (
        "Writing",
        (
            ("Enter", "send the message"),
            ("Ctrl+J  Shift+Enter", "new line"),
            ("@path", "send a text file along; Tab completes its name"),
            ("Up", "in an empty message: edit the last one"),
            ("PgUp  PgDn", "scroll the chat"),
            ("Ctrl+C", "copy what the mouse selected"),
        ),
    ),
    (
        "On a message",
        (
            ("Tab  Shift+Up", "from the prompt to the last message"),
            ("Up  Down  Home  End", "to others"),
            ("Y  C", "copy it; copy its next block of code"),
            ("E", "edit it and send it anew"),
            ("R", "another reply"),
            ("A", "A/B: another reply beside this one"),
            ("Left  Right", "another of its branches"),
            ("D", "delete the last message, pressed twice"),
            ("Esc", "back to the prompt"),
        ),
    ),
)
"""What no command has and no setting changes."""

_WORDS_AT, _NARROWEST = 23, 12
"""The column of what a key does, and how narrow that becomes."""

ALL_COMMANDS: Line = ("Ctrl+P", "all commands; or write /: Tab completes")


class HelpScreen(ModalScreen[None]):
    """Lists the keys; any of the usual keys closes it."""

    CSS_PATH = "dialog.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,question_mark,f1,enter", "dismiss", "Close")
    ]

    def __init__(self, chosen: dict[str, str], here: Sequence[Line] = ()) -> None:
        """``chosen``: the keys of the settings, by the names of `app.key_names`; ``here``: those of
        the screen below, where it is not the chat."""
        super().__init__()
        self._chosen = chosen
        self._here = list(here)

    def compose(self) -> ComposeResult:
        """One block of keys per subject."""
        with VerticalScroll(classes="dialog") as dialog:
            dialog.border_title = "Keys"
            dialog.border_subtitle = "Esc closes"
            yield Static(id="page")

    def on_resize(self, event: events.Resize) -> None:
        """What stands beside a key stays beside it."""
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        page = self.query_one("#page", Static)
        page.update(_page(self._chosen, self._here, page.content_size.width))


def _page(chosen: dict[str, str], here: list[Line], width: int) -> Content:
    (writing, *rest) = FIXED
    subjects: dict[str, list[Line]] = {"Here": here} if here else {}
    subjects[writing[0]] = list(writing[1])
    for command in COMMANDS:
        keys = keys_words(command.keys(chosen))
        line = (keys or f"/{command.name}", command.words)
        subjects.setdefault(command.subject, []).append(line)
    subjects[COMMANDS[-1].subject].insert(0, ALL_COMMANDS)
    subjects |= {subject: list(lines) for subject, lines in rest}
    blocks = [_block(subject, lines, width) for subject, lines in subjects.items()]
    return Content("\n\n").join(blocks)


def _block(subject: str, lines: list[Line], width: int) -> Content:
    beside = [
        Content.assemble((f"  {key:<{_WORDS_AT - 2}}", "bold"), (_wrapped(what, width), "$quiet"))
        for key, what in lines
    ]
    return Content("\n").join([Content.styled(subject, "bold $primary"), *beside])


def _wrapped(words: str, width: int) -> str:
    lines = textwrap.wrap(words, max(width - _WORDS_AT, _NARROWEST))
    return f"\n{'':{_WORDS_AT}}".join(lines)
