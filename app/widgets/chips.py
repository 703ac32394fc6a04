"""The files that go with the message being written, or could, in a line above the prompt."""

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static

from app.mentions import Mention
from app.render import safe_text

MOST_OFFERED = 12
"""Names that are shown; another letter leaves fewer."""


class Chips(Static):
    """Empty, it is not there."""

    def __init__(self) -> None:
        super().__init__(markup=False)
        self.display = False

    def show(self, mentions: Sequence[Mention]) -> None:
        """What goes along, and what does not."""
        self.display = bool(mentions)
        self.update(Content(" ").join(_chip(mention) for mention in mentions))

    def offer(self, names: Sequence[str]) -> None:
        """The names that one that is being written may become; one is written already."""
        if len(names) == 1:
            return
        self.display = True
        if not names:
            self.update(Content.styled(" – no file begins like this ", "$quiet"))
            return
        more = len(names) - MOST_OFFERED
        rest = f"  and {more} more" if more > 0 else ""
        words = "  ".join(safe_text(name) for name in names[:MOST_OFFERED])
        self.update(Content.styled(f" {words}{rest}", "$quiet"))


def _chip(mention: Mention) -> Content:
    words = safe_text(" ".join(mention.words.split()))
    if mention.attachment:
        return Content.styled(f" + {words} ", "$foreground on $panel")
    return Content.styled(f" {'✕' if mention.stops else '–'} {words} ", _style(mention))


def _style(mention: Mention) -> str:
    return "$error" if mention.stops else "$quiet"
