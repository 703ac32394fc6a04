"""Replies that are awkward to draw: cut anywhere, very long, on a screen that changes its size."""

import time

import pytest
from textual.widgets import Markdown
from textual.widgets.markdown import MarkdownFence

from app.widgets.chat_view import ChatView
from app.widgets.document import Document
from app.widgets.prompt import Prompt
from tests.fakes.fake_worker import PIECES
from tests.functional.test_turns import prompt, replied, talk, turns
from tests.ui import install_model, make_app, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")


async def test_pieces_that_end_within_fences_and_characters_make_the_whole():
    install_model()
    async with make_app("--pace", "0.003").run_test(size=(100, 40)) as pilot:
        await wait_for_state(pilot, "ready")
        prompt(pilot).text = "pieces"
        await pilot.press("enter")
        await wait_until(pilot, lambda: pilot.app.screen.query(MarkdownFence))
        seen = pilot.app.screen.query_one(Markdown).source
        assert PIECES.startswith(seen)  # it streamed
        await replied(pilot)
        assert turns(pilot) == ["pieces", PIECES]
        (fence,) = pilot.app.screen.query(MarkdownFence)
        assert fence.code == "```python\nprint('ß')\n```"
        assert len(pilot.app.screen.query("MarkdownTable")) == 1


async def test_a_reply_of_ten_thousand_tokens_leaves_the_screen_awake():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        started = time.process_time()  # it is ours alone, whoever uses this machine too
        await talk(pilot, "many")
        assert time.process_time() - started < 30  # it takes two; drawn anew each time, many more
        text = turns(pilot)[-1]
        assert len(text) > 60_000
        assert text.endswith("words.")
        view = pilot.app.screen.query_one(ChatView)
        document = pilot.app.screen.query_one(Document)
        await wait_until(pilot, lambda: document.source == text)
        await wait_until(pilot, lambda: view.is_vertical_scroll_end)
        await pilot.press("a", "pageup", "b")
        assert prompt(pilot).text == "ab"
        assert not view.is_vertical_scroll_end
        await pilot.resize_terminal(60, 20)
        await wait_until(pilot, lambda: pilot.app.screen.query_one(Prompt).region.bottom <= 20)
        await pilot.resize_terminal(120, 36)
        await wait_until(pilot, lambda: pilot.app.screen.query_one(Prompt).region.bottom > 20)
        assert turns(pilot)[-1] == text
