"""The keys, on one page: as they are now, also where the settings have changed them."""

from typing import ClassVar

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
    (
        "Set up",
        (
            ("Enter", "compress the chosen size"),
            ("Tab  Shift+Tab", "between models, context and sizes"),
            ("Left  Right", "less or more context, or bits"),
            ("PgUp  PgDn", "scroll, where the screen is low"),
            ("D", "plan for another device"),
            ("C", "plan for another context"),
            ("Esc", "back to the chat"),
            ("Ctrl+R", "look at the machine again"),
        ),
    ),
)
"""What no command has and no setting changes."""

ALL_COMMANDS: Line = ("Ctrl+P", "all commands; or write / and a name")


class HelpScreen(ModalScreen[None]):
    """Lists the keys; any of the usual keys closes it."""

    CSS_PATH = "dialog.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,question_mark,f1,enter", "dismiss", "Close")
    ]

    def __init__(self, chosen: dict[str, str]) -> None:
        """``chosen``: the keys of the settings, by the names of `app.key_names`."""
        super().__init__()
        self._chosen = chosen

    def compose(self) -> ComposeResult:
        """One block of keys per subject."""
        with VerticalScroll(classes="dialog") as dialog:
            dialog.border_title = "Keys"
            dialog.border_subtitle = "Esc closes"
            yield Static(_page(self._chosen))


def _page(chosen: dict[str, str]) -> Content:
    (writing, *rest) = FIXED
    subjects: dict[str, list[Line]] = {writing[0]: list(writing[1])}
    for command in COMMANDS:
        keys = keys_words(command.keys(chosen))
        line = (keys or f"/{command.name}", command.words)
        subjects.setdefault(command.subject, []).append(line)
    subjects[COMMANDS[-1].subject].insert(0, ALL_COMMANDS)
    subjects |= {subject: list(lines) for subject, lines in rest}
    blocks = [_block(subject, lines) for subject, lines in subjects.items()]
    return Content("\n\n").join(blocks)


def _block(subject: str, lines: list[Line]) -> Content:
    return Content("\n").join(
        [
            Content.styled(subject, "bold $primary"),
            *(Content.assemble((f"  {key:<21}", "bold"), (what, "$quiet")) for key, what in lines),
        ]
    )
