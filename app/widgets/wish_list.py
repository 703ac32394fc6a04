"""A list whose letters are keys: what the lists of chats and of models share."""

from collections.abc import Callable

from textual.message import Message
from textual.widgets import OptionList


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

    def action_wish(self, what: str) -> None:
        """Tell the screen."""
        self.post_message(self.Wish(what))
