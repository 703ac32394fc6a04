"""A list whose letters are keys: what the lists of chats and of models share."""

from collections.abc import Callable

from rich.segment import Segment
from rich.style import Style as RichStyle
from textual.message import Message
from textual.strip import Strip
from textual.style import Style
from textual.widgets import OptionList
from textual.widgets.option_list import Option


class WishList(OptionList):
    """Enter, or a click, selects an option as usual. A subclass binds letters to ``wish('...')``,
    and the screen hears which was pressed."""

    class Wish(Message):
        """A key was pressed; ``what`` is the last word of its action."""

        def __init__(self, what: str) -> None:
            super().__init__()
            self.what = what

    def __init__(self, when: Callable[[float], str]) -> None:
        """``when`` puts a time into words."""
        super().__init__(compact=True)
        self.when = when

    def _get_option_render(self, option: Option, style: Style) -> list[Strip]:
        """The chosen line has the cursor's colour alone: others cannot be read on every ground."""
        strips = super()._get_option_render(option, style)
        if option is not self.highlighted_option:
            return strips
        cursor = RichStyle(color=style.rich_style.color)
        return [
            Strip(Segment.apply_style(strip, post_style=cursor), strip.cell_length)
            for strip in strips
        ]

    def action_wish(self, what: str) -> None:
        """Tell the screen."""
        self.post_message(self.Wish(what))
