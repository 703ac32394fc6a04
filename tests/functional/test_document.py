"""Long texts on the screen are cut into pieces: what is seen is what one widget would show."""

import gc
import re
from itertools import pairwise
from weakref import ref

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from textual.app import App, ComposeResult
from textual.containers import VerticalScroll
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Markdown

from app.widgets import document
from app.widgets.document import Document, PieceView, pieces
from tests.functional.test_turns import talk
from tests.ui import install_model, make_app, wait_for_state, wait_until

STEP = 47
"""Characters written at a time: blocks end anywhere in them."""
BULLETS = "".join(f"- item {n}\n" for n in range(15))
TEXTS = {
    "paragraphs": "".join(f"Word *{n}*.\n\n" for n in range(20)),
    "bullets": f"Some things:\n\n{BULLETS}\nAnd that is all.\n",
    "numbers": "".join(f"{n}. item\n   - inner\n\n     more\n" for n in range(7, 20)),
    "ones": "".join("1. item\n" for _ in range(15)),
    "sections": "".join(f"## Part {n}\n\nWords.\n\n- a\n- b\n\n> said\n\n" for n in range(5)),
    "table": "Before.\n\n" * 10 + "| a | b |\n|---|---|\n" + "| 1 | [x](http://x) |\n" * 9,
    "fences": "".join(f"```\nx = {n}\n\n# no heading\n```\n\nThen:\n\n" for n in range(5)),
    "definitions": "[first] one\n\n" * 15 + "[first]: http://example.org\n",
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "BLOCKS", 8)


class Page(App[None]):
    """Shows one widget, as wide as all others."""

    CSS = "Markdown { padding: 0; }"

    def compose(self) -> ComposeResult:
        yield VerticalScroll()


async def show(pilot: Pilot[None], widget: Widget) -> None:
    scroll = pilot.app.query_one(VerticalScroll)
    await scroll.remove_children()
    await scroll.mount(widget)


async def seen(pilot: Pilot[None]) -> list[str]:
    """All lines, without the blank ones at the end."""
    await pilot.resize_terminal(60, 90)
    await pilot.pause()
    lines = [
        "".join(segment.text for segment in line).rstrip()
        for line in pilot.app.screen._compositor.render_strips()
    ]
    await pilot.resize_terminal(60, 12)
    return "\n".join(lines).rstrip().split("\n")


@pytest.mark.parametrize("name", sorted(TEXTS))
async def test_pieces_look_like_one_text_shown_or_written(name: str) -> None:
    text = TEXTS[name]
    async with Page().run_test(size=(60, 12)) as pilot:
        await show(pilot, Markdown(text))
        plain = await seen(pilot)

        await show(pilot, Document(text))
        assert (len(pilot.app.query(PieceView)) > 1) == (name != "ones")
        assert await seen(pilot) == plain

        await show(pilot, written := Document())
        for start in range(0, len(text) - 50, STEP):
            await written.append(text[start : min(start + STEP, len(text) - 50)])
        await written.finish(text)
        assert await seen(pilot) == plain
        assert written.source == text


async def test_only_the_last_piece_is_touched_while_a_text_grows() -> None:
    growing = Document()
    async with Page().run_test(size=(60, 12)) as pilot:
        await show(pilot, growing)
        await growing.append(TEXTS["paragraphs"])
        before = list(growing.query("MarkdownBlock"))
        await growing.append("More.\n\n")
        assert list(growing.query("MarkdownBlock"))[: len(before) - 1] == before[:-1]
        await growing.finish(growing.source)
        assert list(growing.query("MarkdownBlock"))[: len(before) - 1] == before[:-1]


LINES = ("word", "", "- item", "  inner", "7. item", "8. item", "> said", "```", "# Part", "---")


@given(st.lists(st.sampled_from(LINES), max_size=120).map("\n".join))
@example(BULLETS)
def test_pieces_add_up_to_the_text(text: str) -> None:
    parts = pieces(text)
    assert "".join(part.text for part in parts) == text
    assert not parts[-1].goes_on
    for before, after in pairwise(parts):
        assert before.text.endswith("\n")
        assert not before.goes_on or re.match(r" {0,3}(-|\d+\.)", after.text)
        assert before.text.count("\n") >= document.BLOCKS / 2


async def test_garbage_is_collected_as_before_when_the_screen_has_gone(home: object) -> None:
    usual = gc.get_threshold()
    install_model()
    async with make_app().run_test(size=(80, 24)) as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "hello")
        assert gc.get_threshold()[2] > 1000 * usual[2]
        assert gc.get_freeze_count() > 1000
    assert gc.get_threshold() == usual
    assert gc.get_freeze_count() == 0


async def test_what_was_drawn_of_messages_that_have_gone_is_let_go(home: object) -> None:
    install_model()
    async with make_app().run_test(size=(80, 24)) as pilot:
        await wait_for_state(pilot, "ready")
        await talk(pilot, "hello")
        await pilot.pause()
        drawn = ref(pilot.app.screen.query(PieceView).first()._styles_cache)
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: gc.collect() >= 0 and drawn() is None)
