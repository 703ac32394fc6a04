"""Writing: keys, pastes, files that go along."""

from pathlib import Path

import pytest
from textual import events
from textual.pilot import Pilot

from app import paths
from app.history import History
from app.screens.help import HelpScreen
from app.widgets.chips import Chips
from app.widgets.messages import Turn
from app.widgets.prompt import Prompt
from tests.ui import install_model, make_app, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(autouse=True)
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_model()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("ducks\n" * 200)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\x00\xff")
    return tmp_path


def said() -> list[str]:
    history = History(paths.history_db())
    try:
        chats = history.chats()
        return [record.content for record in history.messages(chats[0].id)] if chats else []
    finally:
        history.close()


def prompt(pilot: Pilot[None]) -> Prompt:
    return pilot.app.screen.query_one(Prompt)


async def test_the_setting_turns_enter_into_a_new_line(home: Path):
    paths.settings_file().write_text("enter_sends = false\n")
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("a", "enter", "b", "alt+enter", "c")
        assert prompt(pilot).text == "a\nb\nc"
        await pilot.press("ctrl+j")
        await wait_until(pilot, lambda: said()[:1] == ["a\nb\nc"])
        await wait_for_state(pilot, "ready")
        await pilot.press("d", "ctrl+enter")
        await wait_until(pilot, lambda: said()[2:3] == ["d"])


async def test_a_long_paste_is_kept_whole_and_the_prompt_takes_a_third_of_the_screen():
    text = "\r".join(f"line {n} 東京 \x1b[31m" for n in range(3_000))
    async with make_app().run_test(size=(80, 24)) as pilot:
        await wait_for_state(pilot, "ready")
        pilot.app.post_message(events.Paste(text))
        await wait_until(pilot, lambda: prompt(pilot).text)
        assert prompt(pilot).size.height <= 24 / 3
        assert "about" in str(prompt(pilot).border_subtitle)
        await pilot.press("enter")
        await wait_until(pilot, said)
        assert said()[0].split("\n") == [f"line {n} 東京 [31m" for n in range(3_000)]
        assert prompt(pilot).text == ""


async def test_a_file_goes_along_and_is_shown_before_it_is_sent():
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        chips = pilot.app.screen.query_one(Chips)
        assert not chips.display
        await pilot.press(*"see @notes.txt")
        await wait_until(pilot, lambda: chips.display)
        assert "notes.txt · 1.20 kB" in str(chips.content)
        assert prompt(pilot).border_subtitle == "about 300 tokens"
        await pilot.press("enter")
        await wait_until(pilot, said)
        assert said()[0] == "notes.txt:\n```\n" + "ducks\n" * 200 + "```\n\nsee @notes.txt"
        await wait_until(pilot, lambda: not chips.display)
        await wait_for_state(pilot, "ready")
        turn = pilot.app.screen.query(Turn).first()
        assert turn.region.height < 24  # folded


async def test_tab_completes_a_files_name_and_shows_what_it_may_be(folder: Path):
    (folder / "notes.md").write_text("geese")
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        chips = pilot.app.screen.query_one(Chips)
        await pilot.press(*"in @no", "tab")
        await wait_until(pilot, lambda: chips.display)
        assert prompt(pilot).text == "in @notes."
        assert "notes.md  notes.txt" in str(chips.content)
        await pilot.press("m", "tab")
        await wait_until(pilot, lambda: "notes.md · 5 B" in str(chips.content))
        await pilot.press(*"or")
        assert prompt(pilot).text == "in @notes.md or"
        assert pilot.app.focused is prompt(pilot)
        await pilot.press(*" @x", "tab")
        assert "nothing begins like this" in str(chips.content)


async def test_what_cannot_go_along_is_told_and_nothing_is_lost():
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        prompt(pilot).text = "@picture.png and @none.txt"
        chips = pilot.app.screen.query_one(Chips)
        await wait_until(pilot, lambda: chips.display)
        assert "✕ picture.png is no text" in str(chips.content)
        assert "– there is no file none.txt; it stays text" in str(chips.content)
        await pilot.press("enter")
        await wait_until(pilot, lambda: pilot.app._notifications)
        assert prompt(pilot).text == "@picture.png and @none.txt"
        assert said() == []


async def test_a_line_with_a_stroke_is_a_command_and_a_space_before_it_makes_it_a_message():
    async with make_app().run_test() as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press(*"/pruning 0.5", "enter")
        await wait_until(pilot, lambda: pilot.app.screen._odp.strength == 0.5)
        await pilot.press(*"/help", "enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen))
        await pilot.press("escape")
        await wait_until(pilot, lambda: prompt(pilot).has_focus)
        await pilot.press(*"/nothing", "enter")
        await wait_until(pilot, lambda: pilot.app._notifications)
        assert "there is no /nothing" in next(iter(pilot.app._notifications)).message
        assert prompt(pilot).text == "/nothing"
        assert said() == []
        prompt(pilot).text = " /nothing"
        await pilot.press("enter")
        await wait_until(pilot, lambda: said()[:1] == ["/nothing"])
        await wait_for_state(pilot, "ready")
        prompt(pilot).text = "/usr/bin/env is what?"
        await pilot.press("enter")
        await wait_until(pilot, lambda: said()[2:3] == ["/usr/bin/env is what?"])
