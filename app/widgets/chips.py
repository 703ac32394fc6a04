"""What goes with the message being written, or what it could become, above the prompt."""

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static

from app.command_table import Command
from app.mentions import Mention
from app.render import safe_text

MOST_OFFERED = 12
"""Names that are shown; another letter leaves fewer."""
MOST_EXPLAINED = 4
"""Commands that are shown with what they do, a line each."""


class Chips(Static):
    """Empty, it is not there."""

    def __init__(self) -> None:
        super().__init__(markup=False)
        self.display = False
        self._words = Content()

    def show(self, mentions: Sequence[Mention]) -> None:
        """What goes along, and what does not."""
        self.display = bool(mentions)
        self._say(Content(" ").join(_chip(mention) for mention in mentions))

    def suggest(self, commands: Sequence[Command]) -> None:
        """The commands that the line being written could become."""
        self.display = bool(commands)
        if len(commands) > MOST_EXPLAINED:
            names = "  ".join(f"/{command.name}" for command in commands)
            self._say(Content.styled(f"{names}   Tab completes", "$quiet"))
        else:
            self._say(Content("\n").join(_explained(command) for command in commands))

    def offer(self, names: Sequence[str]) -> None:
        """The names that one that is being written may become; one is written already."""
        if len(names) == 1:
            return
        self.display = True
        if not names:
            self._say(Content.styled(" – nothing begins like this ", "$quiet"))
            return
        more = len(names) - MOST_OFFERED
        rest = f"  and {more} more" if more > 0 else ""
        words = "  ".join(safe_text(name) for name in names[:MOST_OFFERED])
        self._say(Content.styled(f" {words}{rest}", "$quiet"))

    def _say(self, words: Content) -> None:
        """At each key: the screen is laid out anew only for other words."""
        if not words.is_same(self._words):
            self._words = words
            self.update(words)


def _explained(command: Command) -> Content:
    written = f"/{command.name} {command.argument}".strip()
    return Content.assemble((written, "bold"), (f"  {command.words}", "$quiet"))


def _chip(mention: Mention) -> Content:
    words = safe_text(" ".join(mention.words.split()))
    if mention.attachment:
        return Content.styled(f" + {words} ", "$foreground on $panel")
    return Content.styled(f" {'✕' if mention.stops else '–'} {words} ", _style(mention))


def _style(mention: Mention) -> str:
    return "$error" if mention.stops else "$quiet"
