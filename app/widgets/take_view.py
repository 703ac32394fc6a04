"""One of two replies that are compared: what it is made with, its text, its figures."""

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from app.compare_words import figure_words, state_words
from app.comparison import Take
from app.render import safe_text


class TakeView(Vertical):
    """The text is shown as it was written, so that what differs can be marked in it."""

    def compose(self) -> ComposeResult:
        """State, text, figures."""
        yield Static(classes="state", markup=False)
        with VerticalScroll(can_focus=False):
            yield Static(classes="text", markup=False)
        yield Static(classes="figures", markup=False)

    def show(self, title: str, take: Take, differs: tuple[int, int] | None) -> None:
        """``title`` names the model and its pruning; ``differs``: from and to, the first word that
        is another one."""
        self.border_title = safe_text(title)
        state = self.query_one(".state", Static)
        state.update(safe_text(state_words(take)))
        state.set_class(take.state == "failed", "-error")
        scroll = self.query_one(VerticalScroll)
        follows = take.state == "writing" and scroll.is_vertical_scroll_end
        self.query_one(".text", Static).update(_marked(take.text, differs))
        if follows:
            self.call_after_refresh(scroll.scroll_end, animate=False)
        self.query_one(".figures", Static).update(figure_words(take))

    def go_to_start(self) -> None:
        """A reply that has ended is read from its beginning."""
        scroll = self.query_one(VerticalScroll)
        self.call_after_refresh(scroll.scroll_home, animate=False)

    def scroll_by_lines(self, lines: int) -> None:
        """Both replies scroll together."""
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)

    @property
    def page(self) -> int:
        """Lines of text on the screen."""
        return max(1, self.query_one(VerticalScroll).size.height - 1)


def _marked(text: str, differs: tuple[int, int] | None) -> Content:
    if differs is None:
        return Content(text)
    start, end = differs
    return Content.assemble(
        text[:start], ("≠", "bold $warning"), (text[start:end], "reverse"), text[end:]
    )
