"""The list of chats as a person uses it: everything by key, on the real history."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.theme import Theme
from textual.widgets import Input, Static

from app import tui
from app.history import History, HistoryError
from app.screens.chats import ChatsScreen, Opened, SearchField
from app.theme import MC_THEME, THEMES
from app.widgets.chat_list import ChatList
from tests.chats_for_tests import Clock, say_all
from tests.ui import wait_until
from tests.unit.test_themes import AA, contrast


@pytest.fixture
def history(home: Path) -> History:
    """Three chats, the last one about pike."""
    history = History(home / "history.sqlite", Clock())
    for title, *said in (
        ("Ducks", "Do ducks swim?", "They do."),
        ("Geese", "And geese?", "They swim too."),
        ("Pike", "What eats ducks?"),
    ):
        say_all(history, history.new_chat("demo", title), *said)
    return history


class ListApp(App[None]):
    """The list alone, without an engine; ``result`` is what it ended with."""

    CSS_PATH = Path(tui.__file__).with_name("tui.tcss")

    def __init__(self, history: History) -> None:
        super().__init__()
        self.register_theme(MC_THEME)
        self.theme = MC_THEME.name
        self.history = history
        self.result: Opened | str | None = "nothing yet"

    def on_mount(self) -> None:
        """Open it."""
        self.push_screen(ChatsScreen(self.history), self.end)

    def end(self, result: Opened | None) -> None:
        """It was left."""
        self.result = result


@asynccontextmanager
async def opened(history: History, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Pilot[None]]:
    async with ListApp(history).run_test(size=size) as pilot:
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatsScreen))
        yield pilot


def shown(pilot: Pilot[None]) -> list[str]:
    return [row.chat.title for row in pilot.app.screen.query_one(ChatList).rows]


def chosen(pilot: Pilot[None]) -> str:
    row = pilot.app.screen.query_one(ChatList).row
    return row.chat.title if row else ""


def told(pilot: Pilot[None]) -> str:
    return str(pilot.app.screen.query_one("#told", Static).content)


async def opened_chat(pilot: Pilot[None]) -> list[str]:
    """What is said on the current line of the chat that was opened."""
    app = pilot.app
    assert isinstance(app, ListApp)
    await wait_until(pilot, lambda: app.result != "nothing yet")
    assert isinstance(app.result, Opened)
    return [message.content for message in app.history.messages(app.result.chat)]


# --- choosing -------------------------------------------------------------------------------------


async def test_arrows_choose_and_enter_opens_while_the_search_has_the_focus(history: History):
    async with opened(history) as pilot:
        assert shown(pilot) == ["Pike", "Geese", "Ducks"]
        assert isinstance(pilot.app.focused, SearchField)
        await pilot.press("down", "down", "up", "enter")
        assert await opened_chat(pilot) == ["And geese?", "They swim too."]


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
async def test_the_chosen_line_can_be_read(history: History, theme: Theme):
    async with opened(history) as pilot:
        pilot.app.register_theme(theme)
        pilot.app.theme = theme.name
        await pilot.press(*"duck")
        chosen = pilot.app.screen.query_one(ChatList).render_line(0)
        written = [segment for segment in chosen if segment.text.strip()]
        assert "".join(segment.text for segment in written).startswith("Ducks")
        for _, style, _ in written:
            colours = (colour.get_truecolor().hex for colour in (style.color, style.bgcolor))
            assert contrast(*colours) >= AA


async def test_typing_searches_titles_and_texts(history: History):
    async with opened(history) as pilot:
        await pilot.press(*"duck")
        assert shown(pilot) == ["Ducks", "Pike"]
        await pilot.press(*"s swim")
        assert shown(pilot) == ["Ducks"]
        await pilot.press(*"ming")
        assert shown(pilot) == []
        assert pilot.app.screen.query_one("#nothing").display
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, ChatsScreen)
        await pilot.press(*["backspace"] * 4, "enter")
        assert await opened_chat(pilot) == ["Do ducks swim?", "They do."]


async def test_a_message_found_on_another_line_is_what_opens(history: History):
    ducks = history.search("Ducks")[0].chat.id
    history.add_message(ducks, None, "user", "Do herons fly?")
    async with opened(history) as pilot:
        await pilot.press(*"they do", "enter")
        assert await opened_chat(pilot) == ["Do ducks swim?", "They do."]
        assert pilot.app.result.depth == 2


async def test_a_title_found_opens_the_chat_at_its_end(history: History):
    async with opened(history) as pilot:
        await pilot.press(*"geese", "enter")
        await opened_chat(pilot)
        assert pilot.app.result.depth is None


async def test_esc_closes_and_changes_nothing(history: History):
    async with opened(history) as pilot:
        await pilot.press(*"duck", "escape")
        assert pilot.app.result is None


async def test_without_a_chat_it_says_so(tmp_path: Path):
    async with opened(History(tmp_path / "history.sqlite")) as pilot:
        nothing = pilot.app.screen.query_one("#nothing", Static)
        assert "no chat yet" in str(nothing.content)
        await pilot.press("enter", "f2", "tab", "r", "d", "e", "u")
        assert "nothing to bring back" in told(pilot)
        await pilot.press("escape")
        assert pilot.app.result is None


# --- changing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [["f2"], ["tab", "r"]])
async def test_a_title_is_written_over_where_it_stands(history: History, keys: list[str]):
    async with opened(history) as pilot:
        await pilot.press("down", *keys)
        field = pilot.app.screen.query_one("#title", Input)
        await wait_until(pilot, lambda: field.region.height == 1)
        row = pilot.app.screen.query_one(ChatList).place
        assert (field.region.x, field.region.y) == (row.x, row.y)
        await pilot.press("end", *"[b]!", "enter")
        assert shown(pilot) == ["Pike", "Geese[b]!", "Ducks"]
        assert chosen(pilot) == "Geese[b]!"
        assert not field.display
        await pilot.press("f2", *"x", "escape")
        assert "Geese[b]!" in shown(pilot)
        assert isinstance(pilot.app.screen, ChatsScreen)
    assert history.chats()[1].title == "Geese[b]!"


async def test_deleting_can_be_undone_also_later(history: History):
    async with opened(history) as pilot:
        await pilot.press("tab", "d")
        assert (shown(pilot), chosen(pilot)) == (["Geese", "Ducks"], "Geese")
        assert "u brings it back" in told(pilot)
        await pilot.press("d", "u")
        assert (shown(pilot), chosen(pilot)) == (["Geese", "Ducks"], "Geese")
    async with opened(history) as pilot:
        await pilot.press("tab", "u")
        assert (shown(pilot), chosen(pilot)) == (["Pike", "Geese", "Ducks"], "Pike")
        await pilot.press("u")
        assert "nothing to bring back" in told(pilot)


async def test_the_last_chat_can_be_deleted_and_comes_back(history: History):
    async with opened(history) as pilot:
        await pilot.press("tab", "d", "d", "d")
        assert shown(pilot) == []
        await pilot.press("u", "u", "u")
        assert shown(pilot) == ["Pike", "Geese", "Ducks"]


async def test_letters_are_keys_in_the_list_and_letters_in_the_field(history: History):
    async with opened(history) as pilot:
        await pilot.press("d", "u")
        assert shown(pilot) == ["Ducks", "Pike"]
        await pilot.press("tab", "slash")
        assert isinstance(pilot.app.focused, SearchField)
        assert len(history.chats()) == 3


async def test_a_history_that_cannot_be_written_is_told(
    history: History, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise HistoryError("the disk is full")

    async with opened(history) as pilot:
        monkeypatch.setattr(History, "delete_chat", fail)
        await pilot.press("tab", "d")
        assert told(pilot) == "the disk is full"
        assert len(shown(pilot)) == 3


# --- files ----------------------------------------------------------------------------------------


async def test_export_and_import(history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    async with opened(history) as pilot:
        await pilot.press("tab", "down", "down", "e")
        field = pilot.app.screen.query_one("#path", Input)
        assert field.value == str(tmp_path / "Ducks.md")
        await pilot.press("enter")
        await wait_until(pilot, (tmp_path / "Ducks.md").exists)
        await wait_until(pilot, lambda: "is in" in told(pilot))

        await pilot.press("e")
        assert field.value == str(tmp_path / "Ducks (2).md")
        field.value = str(tmp_path / "ducks.json")
        await pilot.press("enter")
        await wait_until(pilot, (tmp_path / "ducks.json").exists)
        await wait_until(pilot, lambda: "is in" in told(pilot))

        await pilot.press("i")
        assert field.value == ""
        field.value = str(tmp_path / "ducks.json")
        await pilot.press("enter")
        await wait_until(pilot, lambda: len(shown(pilot)) == 4)
        assert (chosen(pilot), shown(pilot).count("Ducks")) == ("Ducks", 2)
    assert json.loads((tmp_path / "ducks.json").read_text())["chat"]["title"] == "Ducks"
    assert (tmp_path / "Ducks.md").read_text().startswith("# Ducks\n")


async def test_what_goes_wrong_with_files_is_told(history: History, tmp_path: Path):
    (tmp_path / "there.md").write_text("[]")
    async with opened(history) as pilot:
        for key, name, said in (
            ("e", "ducks.txt", "neither in .md nor in .json"),
            ("e", "missing/ducks.md", "cannot be written"),
            ("e", "there.md", "is there already"),
            ("i", "missing.json", "cannot be read"),
            ("i", "there.md", "is no exported chat"),
            ("i", "", "cannot be read"),
        ):
            pilot.app.screen.query_one(ChatList).focus()
            await pilot.press(key)
            pilot.app.screen.query_one("#path", Input).value = str(tmp_path / name)
            await pilot.press("enter")
            await wait_until(pilot, lambda words=said: words in told(pilot))
    assert len(history.chats()) == 3


async def test_esc_leaves_the_question_and_tab_does_not(history: History):
    async with opened(history) as pilot:
        await pilot.press("tab", "e", "tab")
        assert pilot.app.focused is pilot.app.screen.query_one("#path")
        await pilot.press("escape")
        assert isinstance(pilot.app.focused, ChatList)
        await pilot.press("escape")
        assert pilot.app.result is None


async def test_it_fits_small_terminals_and_grows_back(history: History):
    async with opened(history, (120, 36)) as pilot:
        await pilot.press("f2")
        for size in ((60, 20), (120, 36)):
            await pilot.resize_terminal(*size)
            field = pilot.app.screen.query_one("#title", Input)
            place = pilot.app.screen.query_one(ChatList)
            await wait_until(pilot, lambda f=field, p=place: f.region.offset == p.place)
            assert field.region.right <= size[0]
