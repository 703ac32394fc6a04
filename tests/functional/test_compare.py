"""One prompt, two replies: the screen of it, with a scripted engine behind."""

from pathlib import Path

import pytest
from textual.containers import VerticalScroll
from textual.pilot import Pilot
from textual.widgets import Static

from app import paths
from app.screens.chat import ChatScreen
from app.screens.compare import CompareScreen
from app.widgets.header import HeaderLine
from app.widgets.messages import ModelMessage, Notice
from app.widgets.prompt import Prompt
from app.widgets.take_view import TakeView
from tests.fakes import fake_job
from tests.fakes.fake_worker import ANSWER
from tests.ui import install_model, make_app, talk, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")

OTHERWISE = ANSWER.replace("far fewer parameters", "only a part of the parameters")


async def compare(pilot: Pilot[None]) -> None:
    """Open it on the last reply."""
    await pilot.press("tab", "a")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, CompareScreen))
    await pilot.pause()


async def asked(pilot: Pilot[None]) -> None:
    """Ask, and wait for the end."""
    await pilot.press("enter")
    await wait_for_state(pilot, "ready")
    await wait_until(pilot, lambda: "agree" in verdict(pilot))


def verdict(pilot: Pilot[None]) -> str:
    return str(pilot.app.screen.query_one("#verdict", Static).content)


def text(pilot: Pilot[None], side: str, part: str = "text") -> str:
    return str(pilot.app.screen.query_one(f"#{side} .{part}", Static).content)


def title(pilot: Pilot[None], side: str) -> str:
    return str(pilot.app.screen.query_one(f"#{side}", TakeView).border_title)


def greedy() -> None:
    paths.settings_file().parent.mkdir(parents=True, exist_ok=True)
    paths.settings_file().write_text("[sampling]\ntemperature = 0\n")


async def test_the_same_again_without_pruning_and_kept_as_a_branch():
    greedy()
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await talk(pilot, "differ, please")
        await compare(pilot)
        assert title(pilot, "left") == "A  demo · 2.50 bits · ODP on"
        assert title(pilot, "right") == "B  demo · 2.50 bits · no pruning"
        assert text(pilot, "left") == ANSWER
        assert verdict(pilot) == "Enter asks for B: the same prompt, greedy."
        await asked(pilot)
        assert "A has “far” and B has “only”" in verdict(pilot)
        assert text(pilot, "right").replace("≠", "") == OTHERWISE
        assert "≠only" in text(pilot, "right")
        assert "≠far" in text(pilot, "left")
        scrolls = [view.query_one(VerticalScroll) for view in pilot.app.screen.query(TakeView)]
        assert [scroll.scroll_y for scroll in scrolls] == [0, 0]
        await pilot.resize_terminal(120, 20)
        await wait_until(pilot, lambda: scrolls[0].max_scroll_y > 0)
        await pilot.press("down", "down")
        assert [scroll.scroll_y for scroll in scrolls] == [2, 2]
        await pilot.press("pagedown")
        assert all(scroll.scroll_y > 2 for scroll in scrolls)
        assert "0 % pruned" in text(pilot, "right", "figures")
        assert "12.9 B (28 %) active" in text(pilot, "right", "figures")
        assert "31 % pruned · 10.2 B (22 %) active" in text(pilot, "left", "figures")
        await pilot.press("u")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await wait_until(pilot, lambda: pilot.app.screen.query(ModelMessage).last().has_focus)
        kept = pilot.app.screen.query(ModelMessage).last()
        assert kept.text == OTHERWISE
        assert (kept.record.branch, kept.record.branches) == (2, 2)
        assert kept.record.made.pruning == "off"
        assert kept.record.summary.endswith(" · demo, no pruning")
        await pilot.press("left")
        await wait_until(pilot, lambda: pilot.app.screen.query(ModelMessage).last().text == ANSWER)
        await talk(pilot, "and the chat goes on")


async def test_a_reply_without_a_seed_is_made_anew_too():
    install_model()
    async with make_app().run_test(size=(60, 20)) as pilot:
        await talk(pilot, "hello")
        await compare(pilot)
        assert "drawn without a seed" in verdict(pilot)
        assert text(pilot, "left") == ""
        await pilot.press("n")
        assert text(pilot, "left") == ANSWER
        await pilot.press("n", "f8")
        assert title(pilot, "right").endswith("ODP ×0.75")
        await asked(pilot)
        assert verdict(pilot).startswith("Both say the same")
        assert "made now" in text(pilot, "left", "state")
        left, right = pilot.app.screen.query(TakeView)
        assert left.region.bottom <= right.region.y
        await pilot.resize_terminal(80, 24)
        await wait_until(pilot, lambda: left.region.right <= right.region.x)


async def test_another_model_comes_and_goes():
    greedy()
    install_model()
    other = install_model("other")
    async with make_app(model=other.parent / "demo").run_test(size=(120, 36)) as pilot:
        await talk(pilot, "hello")
        chat = pilot.app.screen
        await compare(pilot)
        await pilot.press("m")
        assert title(pilot, "right") == "B  other · 2.50 bits · no pruning"
        assert "the chat's comes back" in verdict(pilot)
        await asked(pilot)
        assert chat.query_one(HeaderLine).state == "ready"
        assert not chat.query(Notice)
        await pilot.press("escape")
        await wait_until(pilot, lambda: pilot.app.screen is chat)
        assert chat.query_one(HeaderLine).about.startswith("demo · ")
        await talk(pilot, "again")


async def test_every_way_to_prune_that_a_build_knows_and_every_build_come_in_turn():
    greedy()
    install_model()
    install_model("otp", otp=fake_job.OTP)
    async with make_app(model=paths.models_dir() / "demo").run_test(size=(120, 36)) as pilot:
        await talk(pilot, "hello")
        await compare(pilot)
        seen = [title(pilot, "right")]
        for key in ("f2", "m", "f2", "f9", "m", "m", "f2"):
            await pilot.press(key)
            seen.append(title(pilot, "right"))
        assert [each.removeprefix("B  ") for each in seen] == [
            "demo · 2.50 bits · no pruning",
            "demo · 2.50 bits · ODP on",
            "otp · 2.50 bits · ODP on",
            "otp · 2.50 bits · OTP on",
            "otp · 2.50 bits · OTP ×1.25",
            "demo · 2.50 bits · ODP ×1.25",
            "otp · 2.50 bits · ODP ×1.25",
            "otp · 2.50 bits · OTP ×1.25",
        ]
        await asked(pilot)
        assert title(pilot, "right") == "B  otp · 2.50 bits · OTP ×1.25"


async def test_a_chats_model_outside_the_models_folder_comes_in_its_turn(tmp_path: Path):
    greedy()
    install_model("other")
    elsewhere = tmp_path / "elsewhere"
    fake_job.write_model(elsewhere)
    async with make_app(model=elsewhere).run_test(size=(120, 36)) as pilot:
        await talk(pilot, "hello")
        await compare(pilot)
        for name in ("other", str(elsewhere)):
            await pilot.press("m")
            assert title(pilot, "right").startswith(f"B  {name} · ")


async def test_a_model_that_does_not_load_is_told_in_its_column():
    greedy()
    install_model()
    install_model("broken")
    async with make_app(model=paths.models_dir() / "demo").run_test(size=(120, 36)) as pilot:
        await talk(pilot, "hello")
        chat = pilot.app.screen
        await compare(pilot)
        await pilot.press("m", "enter")
        await wait_until(pilot, lambda: "truncated" in text(pilot, "right", "state"))
        await wait_for_state(pilot, "ready")
        await pilot.press("escape")
        await wait_until(pilot, lambda: pilot.app.screen is chat)
        assert not chat.query(Notice)
        await talk(pilot, "still here")


async def test_esc_stops_first_and_leaves_then():
    greedy()
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        pilot.app.screen.query_one(Prompt).text = "hold on"
        await pilot.press("enter")
        await wait_for_state(pilot, "writing")
        await wait_until(pilot, lambda: pilot.app.screen.query(ModelMessage).last().text)
        await pilot.press("escape")
        await wait_for_state(pilot, "ready")
        chat = pilot.app.screen
        await compare(pilot)
        await pilot.press("enter")
        await wait_until(pilot, lambda: len(text(pilot, "right")) > 40)
        await pilot.press("escape")
        await wait_for_state(pilot, "ready")
        assert pilot.app.screen is not chat
        assert text(pilot, "right", "state") == "stopped"
        await pilot.press("escape")
        await wait_until(pilot, lambda: pilot.app.screen is chat)
        await talk(pilot, "next")


async def test_leaving_and_a_dead_engine():
    greedy()
    install_model()
    app = make_app()
    async with app.run_test(size=(120, 36)) as pilot:
        await talk(pilot, "hello")
        await compare(pilot)
        app._services.engine._process._process.kill()
        await wait_for_state(pilot, "down")
        assert "The engine has stopped" in verdict(pilot)
        await pilot.press("enter", "escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await pilot.press("ctrl+r")
        await talk(pilot, "back again")


async def test_there_must_be_a_reply():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.app.screen.run_action("screen.compare")
        await wait_until(pilot, lambda: pilot.app._notifications)
        assert isinstance(pilot.app.screen, ChatScreen)
