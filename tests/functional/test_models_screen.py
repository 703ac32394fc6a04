"""The installed models: everything by key, with damaged ones among them."""

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from app import models, paths
from app.quality_words import NOT_MEASURED
from app.screens.chat import ChatScreen
from app.screens.expert_map import ExpertMapScreen
from app.screens.models import ModelsScreen
from app.screens.report import ReportScreen
from app.screens.wizard import WizardScreen
from app.widgets.gauges import Gauges
from app.widgets.header import HeaderLine
from app.widgets.messages import Notice
from app.widgets.model_list import ModelList
from app.widgets.prompt import Prompt
from tests.checkpoints_for_tests import write_tiny_checkpoint
from tests.fakes import fake_job
from tests.ui import install_model, make_app, wait_for_state, wait_until

SIZES = [(120, 36), (60, 20)]


@pytest.fixture(autouse=True)
def installed(home: Path) -> None:
    install_model("demo", otp=fake_job.OTP)
    write_tiny_checkpoint(paths.models_dir() / "tiny")
    (paths.models_dir() / "broken").mkdir()
    (paths.models_dir() / "broken" / "mc.json").write_text("{")


async def open_models(pilot: Pilot[None]) -> None:
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
    await wait_for_state(pilot, "ready")
    await pilot.press("f4")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))


def told(pilot: Pilot[None]) -> str:
    return str(pilot.app.screen.query_one("#told", Static).content)


def names(pilot: Pilot[None]) -> list[str]:
    return [model.name for model in pilot.app.screen.query_one(ModelList).models]


async def choose(pilot: Pilot[None], name: str) -> None:
    pilot.app.screen.query_one(ModelList).highlighted = names(pilot).index(name)
    await pilot.pause()


@pytest.mark.parametrize("size", SIZES)
async def test_every_model_stands_there_with_what_it_is(size: tuple[int, int]):
    demo = paths.models_dir() / "demo"
    async with make_app(model=demo).run_test(size=size) as pilot:
        await open_models(pilot)
        screen = pilot.app.screen
        listed = screen.query_one(ModelList)
        assert names(pilot) == ["broken", "demo", "tiny"]
        lines = [str(listed.get_option_at_index(place).prompt) for place in range(3)]
        assert "damaged" in lines[0]
        assert "mc.json" in lines[0]
        assert "● demo" in lines[1]
        assert "2.50 bits · today" in lines[1]
        assert lines[1].endswith(" · demo · ODP, OTP 40 %")
        assert lines[2].endswith(" · ODP")
        assert "1.60 kB" in lines[1]
        assert listed.highlighted == 1, "the one in use"
        assert all(len(line) < size[0] for text in lines for line in text.split("\n"))


async def test_enter_loads_another_one():
    async with make_app(model=paths.models_dir() / "demo").run_test(size=(100, 30)) as pilot:
        await open_models(pilot)
        await pilot.press("down", "enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await wait_for_state(pilot, "ready")
        assert pilot.app.screen.query_one(HeaderLine).about.startswith("tiny")


async def test_enter_on_the_one_in_use_and_escape_keep_the_chat():
    async with make_app(model=paths.models_dir() / "demo").run_test(size=(100, 30)) as pilot:
        await open_models(pilot)
        chat = pilot.app.screen_stack[-2]
        await pilot.press("enter")
        await wait_until(pilot, lambda: pilot.app.screen is chat)
        await open_models(pilot)
        await pilot.press("escape")
        await wait_until(pilot, lambda: pilot.app.screen is chat)


async def test_a_whole_model_is_verified_and_an_altered_one_named():
    async with make_app(model=paths.models_dir() / "demo").run_test(size=(100, 30)) as pilot:
        await open_models(pilot)
        await choose(pilot, "tiny")
        await pilot.press("v")
        await wait_until(pilot, lambda: "tiny is whole" in told(pilot))
        layer = paths.models_dir() / "tiny" / "layer-01.safetensors"
        layer.write_bytes(layer.read_bytes()[:-1] + b"!")
        await pilot.press("v")
        await wait_until(pilot, lambda: "layer-01.safetensors was altered" in told(pilot))


async def test_removing_asks_and_is_forgotten_when_another_is_looked_at():
    async with make_app(model=paths.models_dir() / "demo").run_test(size=(100, 30)) as pilot:
        await open_models(pilot)
        await choose(pilot, "tiny")
        await pilot.press("x")
        assert "X again removes tiny" in told(pilot)
        await pilot.press("up", "down", "x")
        assert "X again removes tiny" in told(pilot), "it was asked anew"
        await pilot.press("x")
        assert names(pilot) == ["broken", "demo"]
        assert not (paths.models_dir() / "tiny").exists()
        await choose(pilot, "broken")
        await pilot.press("x", "x")
        assert names(pilot) == ["demo"]


async def test_the_chats_model_is_removed_and_the_chat_goes_on_with_another_one():
    async with make_app(model=paths.models_dir() / "demo").run_test(size=(100, 30)) as pilot:
        await open_models(pilot)
        chat = pilot.app.screen_stack[-2]
        await pilot.press("x")
        assert "It is the chat's" in told(pilot)
        await pilot.press("x")
        assert names(pilot) == ["broken", "tiny"]
        assert "Enter loads another one" in told(pilot)
        await pilot.press("escape")
        await wait_until(pilot, lambda: pilot.app.screen is chat)
        await wait_until(pilot, lambda: pilot.app.screen.query(Notice))
        header = chat.query_one(HeaderLine)
        assert (header.state, header.status) == ("down", "removed")
        assert chat.query_one(Gauges).readings.memory is None, "nothing is held any more"
        chat.query_one(Prompt).text = "hello?"
        await pilot.press("enter")
        await wait_until(pilot, lambda: pilot.app._notifications)
        assert "F4 chooses another model" in next(iter(pilot.app._notifications)).message
        assert chat.query_one(Prompt).text == "hello?", "it is not lost"
        await pilot.press("f4")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
        await choose(pilot, "tiny")
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await wait_for_state(pilot, "ready")
        assert pilot.app.screen.query_one(HeaderLine).about.startswith("tiny")


async def test_a_model_that_has_learned_otp_meanwhile_is_loaded_anew():
    install_model("demo")
    async with make_app(model=paths.models_dir() / "demo").run_test(size=(100, 30)) as pilot:
        await open_models(pilot)
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        chat = pilot.app.screen
        assert isinstance(chat, ChatScreen)
        loaded = chat._loaded
        assert loaded is not None
        assert loaded.prunings == ("odp", "off")
        assert not pilot.app._notifications
        await open_models(pilot)
        install_model("demo", otp=fake_job.OTP)
        await pilot.press("escape")
        await wait_until(pilot, lambda: chat._loaded.prunings == ("odp", "otp", "off"))
        assert "loaded anew" in next(iter(pilot.app._notifications)).message


async def test_without_the_last_model_there_is_the_wizard():
    for name in ("tiny", "broken"):
        models.remove(name)
    async with make_app(model=paths.models_dir() / "demo").run_test(size=(100, 30)) as pilot:
        await open_models(pilot)
        await pilot.press("x", "x")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))
        assert "demo is gone" in next(iter(pilot.app._notifications)).message
        await pilot.press("escape")
        await pilot.pause()
        assert isinstance(pilot.app.screen, WizardScreen), "there is nothing to go back to"


async def test_a_model_that_is_writing_is_not_removed():
    async with make_app(model=paths.models_dir() / "demo").run_test(size=(100, 30)) as pilot:
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await wait_for_state(pilot, "ready")
        pilot.app.screen.query_one(Prompt).text = "hold on"
        await pilot.press("enter", "f4")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
        await pilot.press("x", "x")
        assert "writing a reply" in told(pilot)
        assert "demo" in names(pilot)


async def test_where_no_model_is_installed_the_key_for_one_works(tmp_path: Path):
    for name in ("tiny", "broken", "demo"):
        models.remove(name)
    elsewhere = tmp_path / "elsewhere"
    fake_job.write_model(elsewhere)
    async with make_app(model=elsewhere).run_test(size=(100, 30)) as pilot:
        await open_models(pilot)
        await pilot.press("c")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))


@pytest.mark.parametrize("size", SIZES)
async def test_the_report_of_a_model_is_a_key_away(size: tuple[int, int]):
    install_model("demo", fake_job.QUALITY)
    async with make_app(model=paths.models_dir() / "demo").run_test(size=size) as pilot:
        await open_models(pilot)
        await pilot.press("r")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ReportScreen))
        words = [str(part.content) for part in pilot.app.screen.query(Static)]
        whole = "\n".join(words)
        assert "1.60 kB instead of 12.0 kB in 16 bits: 2.50 bits" in whole
        assert "97.5 % of the time" in whole
        assert "Perplexity 1.062 times the original's: 1.700 against 1.600." in whole
        assert "On 8,176 tokens of demo corpus, held-out split: text that nothing" in whole
        rows = [line for line in words[-1].splitlines() if "3 3 2 2" in line]
        # Two experts at 3 bits with eps 0.1, two at 2 bits with 0.2, over a stream of norm 8.
        assert [row.split()[0] for row in rows] == ["0", "1", "2", "3"], "named as on the map"
        assert [row.split()[-4:] for row in rows] == [
            [error, "%", "(4.0", "%)"] for error in ("5.0", "6.2", "8.0", "12.1")
        ]
        bars = [row.count("█") for row in rows]
        assert bars == sorted(bars)
        assert bars[0] < bars[-1]
        assert all(len(row) <= size[0] - 4 for row in rows)
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
        await choose(pilot, "tiny")
        await pilot.press("r")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ReportScreen))
        words = [str(part.content) for part in pilot.app.screen.query(Static)]
        assert any(NOT_MEASURED in text for text in words)
        assert any("`mc-chat prune tiny`" in text for text in words)


async def test_the_wizard_and_the_map_are_a_key_away():
    async with make_app(model=paths.models_dir() / "demo").run_test(size=(100, 30)) as pilot:
        await open_models(pilot)
        await pilot.press("m")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ExpertMapScreen))
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
        await pilot.press("c")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))
