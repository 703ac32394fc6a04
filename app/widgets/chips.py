"""The files that go with the message being written, in a line above the prompt."""

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static

from app.mentions import Mention
from app.render import safe_text


class Chips(Static):
    """Empty, it is not there."""

    def __init__(self) -> None:
        super().__init__(markup=False)
        self.display = False

    def show(self, mentions: Sequence[Mention]) -> None:
        """What goes along, and what does not."""
        self.display = bool(mentions)
        self.update(Content(" ").join(_chip(mention) for mention in mentions))


def _chip(mention: Mention) -> Content:
    words = safe_text(" ".join(mention.words.split()))
    if mention.attachment:
        return Content.styled(f" + {words} ", "$foreground on $panel")
    return Content.styled(f" {'✕' if mention.stops else '–'} {words} ", _style(mention))


def _style(mention: Mention) -> str:
    return "$error" if mention.stops else "$quiet"
