"""The line of keys: what it says follows what can be done, and the mouse presses what it shows."""

from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.pilot import Pilot
from textual.screen import Screen

from app.widgets.keys_footer import KeysFooter
from tests.ui import wait_until

WORDS = ("One", "Two", "Three")


class Page(App[None]):
    """Three keys; the second may be impossible, or possible but not now."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "press('Quit')", show=False, priority=True),
        *(Binding(key, f"press('{word}')", word) for key, word in zip("oth", WORDS, strict=True)),
        Binding("x", "press('One')", "One"),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.pressed: list[str] = []
        self.second: bool | None = True

    def compose(self) -> ComposeResult:
        yield KeysFooter()

    def action_press(self, word: str) -> None:
        self.pressed.append(word)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self.second if parameters == ("Two",) else True


def line(pilot: Pilot[None]) -> str:
    return "".join(part.text for part in pilot.app.screen._compositor.render_strips()[-1])


async def test_it_says_what_can_be_done_each_action_once() -> None:
    async with Page().run_test(size=(40, 4)) as pilot:
        page = pilot.app
        assert isinstance(page, Page)
        await wait_until(pilot, lambda: line(pilot).strip())
        assert line(pilot).strip() == "o One  t Two  h Three"
        page.second = False
        page.refresh_bindings()
        page.refresh_bindings()
        await pilot.pause()
        assert line(pilot).strip() == "o One  h Three"


async def test_the_last_key_is_in_sight_where_not_all_fit() -> None:
    async with Page().run_test(size=(20, 4)) as pilot:
        await wait_until(pilot, lambda: line(pilot).strip())
        assert line(pilot).strip() == "o One  h Three"
        await pilot.resize_terminal(8, 4)
        await pilot.pause()
        assert line(pilot).strip() == "h Thre"


class Inner(Page):
    """With a way back among the keys that are too many."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "press('Back')", "Back", key_display="Esc"),
        Binding("z", "press('Four')", "Four"),
    ]


async def test_the_way_back_is_in_sight_where_not_all_fit() -> None:
    async with Inner().run_test(size=(60, 4)) as pilot:
        await wait_until(pilot, lambda: line(pilot).strip())
        words = line(pilot).strip()
        assert words == "o One  t Two  h Three  Esc Back  z Four"
        await pilot.resize_terminal(2 + len(words) - 1, 4)
        await pilot.pause()
        assert line(pilot).strip() == "o One  t Two  Esc Back  z Four"
        await pilot.resize_terminal(20, 4)
        await pilot.pause()
        assert line(pilot).strip() == "Esc Back  z Four"


async def test_a_click_presses_what_is_there_if_that_can_be_done() -> None:
    async with Page().run_test(size=(40, 4)) as pilot:
        page = pilot.app
        assert isinstance(page, Page)
        await wait_until(pilot, lambda: line(pilot).strip())
        for column in (1, 6, 9, 16, 30):
            await pilot.click(offset=(column, 3))
        assert page.pressed == ["One", "Two", "Three"]
        page.second = None
        page.refresh_bindings()
        await pilot.pause()
        await pilot.click(offset=(9, 3))
        assert page.pressed == ["One", "Two", "Three"]


async def test_the_key_under_the_mouse_is_marked() -> None:
    def backgrounds(pilot: Pilot[None]) -> list[object]:
        (strip,) = pilot.app.screen._compositor.render_strips()[-1:]
        return [part.style and part.style.bgcolor for part in strip if part.text.strip()]

    async with Page().run_test(size=(40, 4)) as pilot:
        await wait_until(pilot, lambda: line(pilot).strip())
        assert len(set(backgrounds(pilot))) == 1
        await pilot.hover(offset=(9, 3))
        await pilot.pause()
        assert len(set(backgrounds(pilot))) == 2
        await pilot.hover(offset=(9, 1))
        await pilot.pause()
        assert len(set(backgrounds(pilot))) == 1


async def test_a_screen_that_goes_is_not_looked_at() -> None:
    async with Page().run_test(size=(40, 4)) as pilot:
        page = pilot.app
        await wait_until(pilot, lambda: line(pilot).strip())
        for _ in range(5):
            page.push_screen(Over())
            await pilot.pause()
            page.screen.refresh_bindings()
            page.pop_screen()
        await pilot.pause()
        assert line(pilot).strip() == "o One  t Two  h Three"


class Over(Screen[None]):
    """Has a line of its own."""

    def compose(self) -> ComposeResult:
        yield KeysFooter()
