"""The models that can be made, the chosen one marked."""

from collections.abc import Sequence

from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option


class SourceList(OptionList):
    """Up and down choose at once; Enter goes on to what comes next."""

    class Chosen(Message):
        """Another line is marked; ``index`` counts from 0."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__(*(Option(_marked(line, index == 0)) for index, line in enumerate(lines)))
        self._titles = lines
        self._marked_index = 0

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Move the mark."""
        event.stop()
        if event.option_index != self._marked_index:
            self._marked_index = event.option_index
            for index, line in enumerate(self._titles):
                self.replace_option_prompt_at_index(
                    index, _marked(line, index == self._marked_index)
                )
            self.post_message(self.Chosen(self._marked_index))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter."""
        event.stop()
        self.screen.focus_next()


def _marked(line: str, chosen: bool) -> Content:
    return Content.assemble(("● ", "$primary") if chosen else ("○ ", "$quiet"), line)
