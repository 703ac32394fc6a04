"""The keys, on one page."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

KEYS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Writing",
        (
            ("Enter", "send the message"),
            ("Ctrl+J  Shift+Enter", "new line"),
            ("Esc", "stop the reply; what was written stays"),
            ("PgUp  PgDn", "scroll the chat"),
            ("Ctrl+C", "copy what the mouse selected"),
        ),
    ),
    (
        "Chats",
        (
            ("Ctrl+N", "new chat"),
            ("Ctrl+O", "open an earlier chat"),
        ),
    ),
    (
        "Engine",
        (
            ("F2", "switch ODP, also in the middle of a reply"),
            ("F3", "show or hide the gauges"),
            ("F4", "another size or another model"),
            ("Ctrl+R", "restart the engine"),
        ),
    ),
    (
        "Set up",
        (
            ("Enter", "compress the chosen size"),
            ("Tab", "from the sizes to the models and back"),
            ("D", "plan for another device"),
            ("C", "plan for another context"),
            ("Esc", "back to the chat"),
            ("Ctrl+R", "look at the machine again"),
        ),
    ),
    (
        "mc-chat",
        (
            ("?  F1", "this page (? in an empty message)"),
            ("Ctrl+P", "all commands, themes"),
            ("Ctrl+Q", "quit"),
        ),
    ),
)


class HelpScreen(ModalScreen[None]):
    """Lists the keys; any of the usual keys closes it."""

    CSS_PATH = "dialog.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,question_mark,f1,enter", "dismiss", "Close")
    ]

    def compose(self) -> ComposeResult:
        """One block of keys per subject."""
        with VerticalScroll(classes="dialog") as dialog:
            dialog.border_title = "Keys"
            dialog.border_subtitle = "Esc closes"
            yield Static(_page())


def _page() -> Content:
    lines: list[Content] = []
    for subject, keys in KEYS:
        lines.append(Content.styled(subject, "bold $primary"))
        lines += [
            Content.assemble((f"  {key:<21}", "bold"), (what, "$quiet")) for key, what in keys
        ]
        lines.append(Content())
    return Content("\n").join(lines[:-1])
