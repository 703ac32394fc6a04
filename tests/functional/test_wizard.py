"""The first run, from an empty folder to a chat, with a scripted engine and compression."""

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from app import jobs, models
from app.screens.chat import ChatScreen
from app.screens.compressing import CompressScreen
from app.screens.parting import PartingScreen
from app.screens.wizard import LOOKING, WizardScreen
from app.widgets.job_view import JobView
from app.widgets.plan_table import PlanTable
from app.widgets.source_list import SourceList
from assets import DEMO_DIR
from compress.plan import plan
from engine.config import MIXTRAL_8X7B
from tests.fakes.fake_worker import DEVICES, SMALL_DEVICES
from tests.ui import make_app, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")


def text_of(pilot: Pilot[None], selector: str) -> str:
    return str(pilot.app.screen.query_one(selector, Static).content)


def table(pilot: Pilot[None]) -> PlanTable:
    return pilot.app.screen.query_one(PlanTable)


async def choose_mixtral(pilot: Pilot[None]) -> None:
    pilot.app.screen.query_one(SourceList).focus()
    await pilot.press("down")
    await wait_until(pilot, lambda: pilot.app.screen.query_one("#folder").display)


async def test_one_key_leads_from_nothing_to_a_chat():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        assert isinstance(pilot.app.screen, WizardScreen)
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await wait_for_state(pilot, "ready")
        assert models.demo_installed()


async def test_the_machine_and_its_free_memory_are_shown():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        machine = text_of(pilot, "#machine")
        assert "▸ NVIDIA GeForce RTX 3090  24.1 GB free of 25.3 GB" in machine
        assert "AMD Ryzen 9 5950X, 16 cores" in machine


async def test_a_machine_that_takes_its_time_leaves_the_wizard_usable():
    async with make_app("--devices", "none").run_test() as pilot:
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))
        assert text_of(pilot, "#machine") == LOOKING
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, WizardScreen)


async def test_an_engine_that_dies_while_looking_is_told_and_can_be_asked_again():
    async with make_app("--devices", "dies").run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "down")
        assert "exit code 1: no driver" in text_of(pilot, "#message")
        engine = pilot.app._services.engine
        first = engine._process
        await pilot.press("ctrl+r")
        # "starting" may be over before anybody looks; another process is proof enough.
        await wait_until(pilot, lambda: engine._process is not first)
        await wait_for_state(pilot, "down")


async def test_a_damaged_model_is_told():
    folder = models.demo_folder()
    folder.mkdir(parents=True)
    (folder / "mc.json").write_text("{")
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_until(pilot, lambda: pilot.app._notifications)
        (notice,) = pilot.app._notifications
        assert "cannot be read" in notice.message


async def test_the_recommended_size_is_preselected_and_is_the_plans():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await choose_mixtral(pilot)
        expected = plan(MIXTRAL_8X7B, DEVICES[0])
        await wait_until(pilot, lambda: table(pilot).chosen == expected.recommended)
        assert table(pilot).row_count == len(expected.choices)


async def test_what_does_not_fit_says_so_in_words():
    async with make_app("--devices", "small").run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await choose_mixtral(pilot)
        await wait_until(pilot, lambda: "nothing fits" in text_of(pilot, "#message"))
        marks = {str(table(pilot).get_cell_at((row, 5))).strip() for row in range(7)}
        assert marks == {"✕ too big"}
        assert plan(MIXTRAL_8X7B, SMALL_DEVICES[0]).recommended is None


async def test_another_device_gives_another_plan():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("d")
        assert "▸ AMD Ryzen" in text_of(pilot, "#machine")
        assert "AMD Ryzen" in text_of(pilot, "#message")


async def test_mixtral_asks_for_a_folder(tmp_path):
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await choose_mixtral(pilot)
        table(pilot).focus()
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.focused, Input))
        assert "does not download" in text_of(pilot, "#message")

        pilot.app.screen.query_one(Input).value = str(tmp_path / "nowhere")
        await pilot.press("enter")
        await wait_until(pilot, lambda: "there is no folder" in text_of(pilot, "#message"))


async def test_a_folder_with_an_original_is_compressed(tmp_path):
    (tmp_path / "config.json").write_text((DEMO_DIR / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"")
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await choose_mixtral(pilot)
        pilot.app.screen.query_one(Input).value = str(tmp_path)
        pilot.app.screen.query_one(Input).focus()
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.focused, PlanTable))
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        assert [model.name for model in models.installed()] == [f"{tmp_path.name}-3bit"]


async def hold(pilot: Pilot[None]) -> JobView:
    """Begin the demo's compression, and wait until it does not go on."""
    await wait_for_state(pilot, "ready")
    await pilot.press("enter")
    await wait_until(pilot, lambda: isinstance(pilot.app.screen, CompressScreen))
    view = pilot.app.screen.query_one(JobView)
    await wait_until(pilot, lambda: view.progress and view.progress.fraction == 0.55)
    return view


async def test_a_compression_can_be_stopped_and_says_that_it_can_go_on():
    async with make_app(story="hold").run_test(size=(120, 36)) as pilot:
        view = await hold(pilot)
        assert view.progress.layer == 2
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, PartingScreen))
        await pilot.press("s")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))
        assert "goes on from there" in text_of(pilot, "#message")
        assert not models.demo_installed()
        assert jobs.running_jobs() == []


async def test_one_can_stay_with_a_compression():
    async with make_app(story="hold").run_test(size=(120, 36)) as pilot:
        await hold(pilot)
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, PartingScreen))
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, CompressScreen))
        assert len(jobs.running_jobs()) == 1


async def test_a_compression_that_ends_meanwhile_answers_the_question_itself():
    async with make_app(story="hold").run_test(size=(120, 36)) as pilot:
        await hold(pilot)
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, PartingScreen))
        models.demo_folder().parent.mkdir(parents=True, exist_ok=True)
        models.demo_folder().with_suffix(".go").touch()
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))


async def test_a_compression_left_in_the_background_can_be_watched_again():
    async with make_app(story="hold").run_test(size=(120, 36)) as pilot:
        await hold(pilot)
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, PartingScreen))
        await pilot.press("b")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))
        assert "in the background" in text_of(pilot, "#message")
        (job,) = jobs.running_jobs()
        assert (job.out, job.bits) == (models.demo_folder(), 2.5)
        await pilot.press("w")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, CompressScreen))
        view = pilot.app.screen.query_one(JobView)
        await wait_until(pilot, lambda: view.progress and view.progress.fraction == 0.55)
        assert jobs.running_jobs() == [job]


async def test_a_compression_outlives_the_app_and_the_next_one_finds_it():
    async with make_app(story="hold").run_test(size=(120, 36)) as pilot:
        await hold(pilot)
    assert len(jobs.running_jobs()) == 1
    async with make_app(story="hold").run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        assert "W watches" in text_of(pilot, "#running")
        await pilot.press("w")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, CompressScreen))
        view = pilot.app.screen.query_one(JobView)
        await wait_until(pilot, lambda: view.progress and view.progress.fraction == 0.55)
        await pilot.press("escape", "s")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))
        await wait_until(pilot, lambda: not pilot.app.screen.query_one("#running").display)
    assert jobs.running_jobs() == []


async def test_a_failure_gives_its_reason_and_can_be_tried_again():
    async with make_app(story="fail").run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("enter")
        await wait_for_state(pilot, "down")
        assert text_of(pilot, "#ending").startswith("✕ the disk is full: 1.2 GB more are needed")
        await pilot.press("r")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))


async def test_after_a_failure_one_can_begin_anew():
    async with make_app(story="anew").run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("enter")
        await wait_for_state(pilot, "down")
        assert "begun with other options" in text_of(pilot, "#ending")
        await pilot.press("r")
        await wait_until(pilot, lambda: "begun with" in text_of(pilot, "#ending"))
        await pilot.press("n")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))


async def test_a_failed_compression_can_be_left():
    async with make_app(story="fail").run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("enter")
        await wait_for_state(pilot, "down")
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))


async def test_a_job_that_dies_without_a_word_is_told():
    async with make_app(story="dies").run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("enter")
        await wait_for_state(pilot, "down")
        assert "stopped unexpectedly: it was killed" in text_of(pilot, "#ending")
        assert "run it again to go on" in text_of(pilot, "#ending")


async def test_two_apps_and_one_output_make_one_job():
    async with make_app(story="hold").run_test(size=(120, 36)) as pilot:
        await hold(pilot)
    before = jobs.running_jobs()
    async with make_app(story="hold").run_test(size=(120, 36)) as pilot:
        await hold(pilot)
        assert jobs.running_jobs() == before
