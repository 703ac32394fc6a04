"""Text of a Markdown piece drawn by one widget: it looks as Textual's own widgets draw it, and what
is copied from it is what was written."""

import pytest
from markdown_it import MarkdownIt
from textual.app import App, ComposeResult
from textual.containers import VerticalScroll
from textual.geometry import Offset
from textual.pilot import Pilot
from textual.selection import Selection
from textual.widget import Widget
from textual.widgets import Markdown

from app.theme import THEMES
from app.widgets.document import Document
from app.widgets.prose import Prose

LONG = "words that go on and on until the line is full and the next one has some of them too"
TEXTS = {
    "inline": f"*em*, **strong *both***, `code`, ~~gone~~, [link](http://x), ![i](y)\n\n{LONG}",
    "breaks": "one\\\ntwo  \nthree\nfour\n\n  indented\n",
    "headings": "# First\n\nWords.\n\n## Second *em*\n### Third\n\n#### 4\n##### 5\n###### 6\n",
    "long_headings": f"# {LONG}\n\n# {LONG} {LONG}\n\n## {LONG}\n\ntext\n",
    "bullets": f"- one\n- {LONG}\n  - two {LONG}\n    - three\n      1. four\n- one\n\nAfter.\n",
    "numbers": f"9. nine\n10. ten {LONG}\n\n    more of ten\n\n11. eleven\n    - a\n    - b\n",
    "odd_lists": "- - twice\n- 1. mixed\n\n1)  a\n1)  b\n",
    "wide": "- 東京 " + "塔" * 40 + "\n\n東京" * 3 + "\n\n- 🙂 x\n",
    "between": "A.\n\n```\ncode\n```\n\n- a\n\n> said\n\nB.\n\n| a |\n|---|\n| 1 |\n\n# End\n",
    "hostile": "[bold red]not markup[/] [@click=app.quit]x[/] &amp; <b>html</b>\n",
}


class Page(App[None]):
    """Shows one widget, with our colours."""

    CSS = "Markdown { padding: 0; }"

    def __init__(self, theme: str) -> None:
        super().__init__()
        for known in THEMES:
            self.register_theme(known)
        self.theme = theme

    def compose(self) -> ComposeResult:
        yield VerticalScroll()


async def show(pilot: Pilot[None], widget: Widget) -> None:
    scroll = pilot.app.query_one(VerticalScroll)
    await scroll.remove_children()
    await scroll.mount(widget)
    await pilot.pause()


def cells(pilot: Pilot[None]) -> list[list[tuple[str, ...]]]:
    """Every character of every line with how it looks."""
    return [
        [
            (character, *_look(character, segment.style))
            for segment in strip
            for character in segment.text
        ]
        for strip in pilot.app.screen._compositor.render_strips()
    ]


def _look(character: str, style: object) -> tuple[str, ...]:
    """A blank has no colour of its own."""
    names = ("bgcolor", "underline") if character == " " else (
        "bgcolor", "color", "bold", "italic", "underline", "strike"
    )  # fmt: skip
    return tuple(str(getattr(style, name) or None) for name in names)


@pytest.mark.parametrize("theme", [theme.name for theme in THEMES[:2]])
@pytest.mark.parametrize("name", sorted(TEXTS))
async def test_text_looks_as_textual_draws_it(name: str, theme: str) -> None:
    async with Page(theme).run_test(size=(50, 44)) as pilot:
        await show(pilot, Markdown(TEXTS[name], parser_factory=_parser))
        expected = cells(pilot)
        await show(pilot, Document(TEXTS[name]))
        assert pilot.app.query(Prose)
        assert cells(pilot) == expected


def _parser() -> MarkdownIt:
    return MarkdownIt("gfm-like", {"html": False})


async def test_an_item_without_text_has_its_sign() -> None:
    async with Page("mc-chat").run_test(size=(50, 5)) as pilot:
        await show(pilot, Document("1. a\n2.\n3. c\n"))
        assert lines(pilot)[:3] == [" 1. a", " 2.", " 3. c"]


async def test_what_is_marked_is_copied_as_it_was_written() -> None:
    text = f"{LONG}\n\n- {LONG}\n- {60 * 'x'}\n\none\\\ntwo\n"
    async with Page("mc-chat").run_test(size=(30, 30)) as pilot:
        await show(pilot, Document(text))
        prose = pilot.app.query_one(Prose)
        copied = prose.get_selection(Selection(None, None))
        assert copied == (f"{LONG}\n\n• {LONG}\n• {60 * 'x'}\n\none\ntwo", "\n")
        shown = lines(pilot)
        start, end = Offset(shown[0].index("go"), 0), Offset(5, 2)
        part = prose.get_selection(Selection(start, end))
        assert part is not None
        assert LONG[LONG.index("go") :].startswith(part[0])
        assert part[0].endswith(shown[2][:5])


async def test_the_mouse_marks_across_lines_and_a_double_click_a_paragraph() -> None:
    async with Page("mc-chat").run_test(size=(30, 30)) as pilot:
        await show(pilot, Document(f"First.\n\n{LONG}\n\nLast.\n"))
        await pilot.mouse_down(offset=(0, 0))
        await pilot.hover(offset=(4, 2))
        await pilot.mouse_up(offset=(4, 2))
        assert pilot.app.screen.get_selected_text() == "First.\n\nwords"
        marked = [cell for line in cells(pilot)[:4] for cell in line if cell[0] == "F"]
        assert marked[0][1] != cells(pilot)[3][0][1]
        await pilot.click(Prose, offset=(2, 3), times=2)
        assert pilot.app.screen.get_selected_text() == LONG


async def test_a_narrower_screen_wraps_anew() -> None:
    async with Page("mc-chat").run_test(size=(100, 30)) as pilot:
        await show(pilot, Document(f"{LONG}\n\nAfter.\n"))
        assert lines(pilot)[2] == "After."
        await pilot.resize_terminal(30, 30)
        await pilot.pause()
        narrow = lines(pilot)
        assert max(map(len, narrow)) <= 30
        assert " ".join(narrow[: narrow.index("")]) == LONG


def lines(pilot: Pilot[None]) -> list[str]:
    return [strip.text.rstrip() for strip in pilot.app.screen._compositor.render_strips()]
