"""A long chat: only a window of it is mounted, and the engine gets all of it."""

import pytest
from textual.pilot import Pilot

from app import paths
from app.history import History
from app.widgets.chat_view import WINDOW, ChatView
from app.widgets.messages import ModelMessage, Turn
from app.widgets.prompt import Prompt
from tests.chats_for_tests import say_all
from tests.ui import install_model, make_app, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")

MESSAGES = 2_000


@pytest.fixture
def long_chat(home: object) -> None:
    install_model()
    history = History(paths.history_db())
    chat = history.new_chat("demo", "long")
    texts = (
        f"question {n}\nin two lines" if n % 2 else f"answer {n} in **bold**"
        for n in range(MESSAGES)
    )
    with history.together():
        say_all(history, chat, *texts)
    history.close()


def depths(pilot: Pilot[None]) -> list[int]:
    return [turn.record.depth for turn in pilot.app.screen.query(Turn)]


def first_in_sight(pilot: Pilot[None], line: float | None = None) -> tuple[int, float]:
    """Depth of the first message that is seen, or would be if the chat began at a line of its own;
    and the line of the screen where the message begins."""
    view = pilot.app.screen.query_one(ChatView)
    top = view.scroll_y if line is None else line
    first = next(turn for turn in view.turns if turn.virtual_region.bottom > top)
    return first.record.depth, first.virtual_region.y - top


async def settle(pilot: Pilot[None]) -> None:
    """Until nothing comes any more: in three looks, which a busy machine spreads out."""
    looks: list[list[int]] = []
    while looks[-3:] != 3 * [depths(pilot)]:
        looks.append(depths(pilot))
        await pilot.pause(0.05)


async def go_to_messages(pilot: Pilot[None]) -> None:
    await pilot.press("shift+up")
    await wait_until(pilot, lambda: focused_depth(pilot))


def focused_depth(pilot: Pilot[None]) -> int | None:
    focused = pilot.app.focused
    return focused.record.depth if isinstance(focused, Turn) else None


async def test_it_opens_at_its_end_with_a_few_messages(long_chat):
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_until(pilot, lambda: pilot.app.screen.query(ModelMessage))
        assert len(depths(pilot)) <= WINDOW, "not even at first"
        await settle(pilot)
        assert depths(pilot)[-1] == MESSAGES
        assert len(depths(pilot)) <= WINDOW
        assert pilot.app.screen.query_one(ChatView).is_vertical_scroll_end


async def test_a_message_that_a_search_found_is_where_the_chat_opens(long_chat):
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("ctrl+o", *"question 301", "enter")
        await wait_until(pilot, lambda: focused_depth(pilot) == 302)
        await settle(pilot)
        assert len(depths(pilot)) <= 2 * WINDOW
        turn, view = pilot.app.focused, pilot.app.screen.query_one(ChatView)
        assert "question 301" in turn.text
        assert view.region.contains_region(turn.region), "it is in sight"
        await pilot.press("escape")
        assert isinstance(pilot.app.focused, Prompt)


async def test_scrolling_up_brings_what_is_earlier_and_down_what_is_later(long_chat):
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_until(pilot, lambda: pilot.app.screen.query(ModelMessage))
        view = pilot.app.screen.query_one(ChatView)
        seen = []
        for _ in range(5):
            await settle(pilot)
            await pilot.press("pageup")
            seen.append(first_in_sight(pilot)[0])
        await settle(pilot)
        assert seen == sorted(seen, reverse=True)
        assert seen[-1] < MESSAGES - 36
        assert len(depths(pilot)) <= WINDOW
        assert depths(pilot)[-1] < MESSAGES  # what is far away has left
        assert depths(pilot) == list(range(depths(pilot)[0], depths(pilot)[-1] + 1))

        for _ in range(8):
            await pilot.press("pagedown")
            await settle(pilot)
        assert depths(pilot)[-1] == MESSAGES
        assert view.is_vertical_scroll_end
        assert len(depths(pilot)) <= WINDOW


async def test_what_one_reads_stays_where_it_is(long_chat):
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_until(pilot, lambda: pilot.app.screen.query(ModelMessage))
        await settle(pilot)
        view = pilot.app.screen.query_one(ChatView)
        before = depths(pilot)[0]
        place = first_in_sight(pilot, 5)
        view.scroll_to(y=5, animate=False)
        await wait_until(pilot, lambda: depths(pilot)[0] < before)
        await settle(pilot)
        assert first_in_sight(pilot) == place


async def test_home_and_end_go_to_both_ends(long_chat):
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_until(pilot, lambda: pilot.app.screen.query(ModelMessage))
        await settle(pilot)
        await go_to_messages(pilot)
        await pilot.press("home")
        await wait_until(pilot, lambda: focused_depth(pilot) == 1)
        assert depths(pilot)[0] == 1
        await pilot.press("end")
        await wait_until(pilot, lambda: focused_depth(pilot) == MESSAGES)


async def test_the_engine_gets_the_whole_chat_and_the_end_comes_back(long_chat):
    app = make_app()
    async with app.run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await settle(pilot)
        await go_to_messages(pilot)
        await pilot.press("home")
        await wait_until(pilot, lambda: focused_depth(pilot) == 1)
        pilot.app.screen.query_one(Prompt).focus()
        pilot.app.screen.query_one(Prompt).text = "and now?"
        await pilot.press("enter")
        await wait_until(pilot, lambda: depths(pilot)[-1:] == [MESSAGES + 2])
        await wait_for_state(pilot, "ready")
        assert len(app.screen._conversation.prompt()) == MESSAGES + 2
        await settle(pilot)
        assert len(depths(pilot)) <= WINDOW
