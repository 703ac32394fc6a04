"""The first run, from an empty folder to a chat, with a scripted engine and compression."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from app import jobs, load_choices, models, sources, tui
from app.catalogue import ReadyBuild, ready_builds
from app.load_choices import LoadChoice
from app.screens import wizard
from app.screens.chat import ChatScreen
from app.screens.compressing import CompressScreen
from app.screens.help import HelpScreen
from app.screens.models import ModelsScreen
from app.screens.parting import PartingScreen
from app.screens.report import ReportScreen
from app.screens.transferring import TransferScreen
from app.screens.wizard import LOOKING, WizardScreen
from app.units import size
from app.widgets.header import HeaderLine
from app.widgets.job_view import JobView
from app.widgets.plan_table import PlanTable
from app.widgets.source_list import SourceList
from assets import DEMO_DIR
from compress.plan import plan
from engine.config import MIXTRAL_8X7B
from engine.protocol import Devices
from tests.checkpoints_for_tests import write_tiny_checkpoint
from tests.fakes.fake_worker import DEVICES, SMALL_DEVICES
from tests.hub_for_tests import Hub, connect, environment, running_hub
from tests.ui import install_model, make_app, text_of, wait_for_state, wait_until

pytestmark = pytest.mark.usefixtures("home")


def table(pilot: Pilot[None]) -> PlanTable:
    return pilot.app.screen.query_one(PlanTable)


async def choose_mixtral(pilot: Pilot[None]) -> None:
    pilot.app.screen.query_one(SourceList).focus()
    await pilot.press("down")
    await wait_until(pilot, lambda: pilot.app.screen._chosen == wizard.MIXTRAL)


async def choose_another(pilot: Pilot[None], name: str) -> None:
    """Go to the last line and type the original's name."""
    pilot.app.screen.query_one(SourceList).focus()
    await pilot.press("down", "down")
    await wait_until(pilot, lambda: pilot.app.screen.query_one("#folder").display)
    pilot.app.screen.query_one(Input).value = name
    pilot.app.screen.query_one(Input).focus()
    await pilot.press("enter")


async def test_one_key_leads_from_nothing_to_a_chat():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        assert isinstance(pilot.app.screen, WizardScreen)
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await wait_for_state(pilot, "ready")
        assert models.demo_installed()


async def test_after_a_build_stands_how_good_it_is():
    async with make_app(story="measured").run_test(size=(80, 24)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ReportScreen))
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))


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
        marks = {str(table(pilot).get_cell_at((row, 2))).strip() for row in range(7)}
        assert marks == {"✕ too big"}
        assert plan(MIXTRAL_8X7B, SMALL_DEVICES[0]).recommended is None


async def test_another_device_gives_another_plan():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("d")
        assert "▸ AMD Ryzen" in text_of(pilot, "#machine")
        assert "AMD Ryzen" in text_of(pilot, "#message")


async def test_the_chosen_device_and_context_reach_the_job_and_the_engine():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await choose_mixtral(pilot)
        await pilot.press("d", "c")
        assert "16,384 tokens" in text_of(pilot, "#context")
        table(pilot).focus()
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await wait_for_state(pilot, "ready")
        assert "AMD Ryzen" in pilot.app.screen.query_one(HeaderLine).about
        assert pilot.app.screen._readings.context == 16_384
        (model,) = models.installed()
        assert (model.folder / "arguments").read_text().split() == [
            "mistralai/Mixtral-8x7B-Instruct-v0.1",
            *("--bits", "4", "--out", str(model.folder), "--device", "cpu"),
        ]


async def test_a_choice_is_remembered_by_the_next_start():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("d", "enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
    assert load_choices.recall(models.demo_folder()) == LoadChoice("cpu", 1024)
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        assert "AMD Ryzen" in pilot.app.screen.query_one(HeaderLine).about


async def test_the_context_goes_round_and_changes_the_table():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await choose_mixtral(pilot)
        seen = []
        for _ in range(6):
            await pilot.press("c")
            tokens = text_of(pilot, "#context").split()[1]
            seen.append((tokens, table(pilot).chosen.kv_bytes))
        expected = [16_384, 32_768, 1024, 2048, 4096, 8192]
        per_token = plan(MIXTRAL_8X7B, DEVICES[0], 8192).choices[0].kv_bytes // 8192
        assert seen == [(f"{tokens:,}", tokens * per_token) for tokens in expected]


async def test_the_demo_has_one_context():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("c")
        assert "trained for 1,024 tokens" in text_of(pilot, "#message")


async def test_what_does_not_fit_is_tried_after_a_second_enter():
    async with make_app("--devices", "small").run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await choose_mixtral(pilot)
        table(pilot).focus()
        await pilot.press("enter")
        assert "1.5 bits need" in text_of(pilot, "#message")
        assert "Enter again" in text_of(pilot, "#message")
        await pilot.press("down", "enter")
        assert "1.75 bits need" in text_of(pilot, "#message"), "another size is asked for anew"
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await wait_for_state(pilot, "ready")
        assert pilot.app.screen.query_one(HeaderLine).about.endswith(", forced")


async def test_a_device_that_cannot_be_used_says_why_and_is_never_tried():
    async with make_app("--devices", "odd").run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        assert "▸ Box of unknown size  memory unknown" in text_of(pilot, "#machine")
        assert "✕ its compute capability 6.1 is too old" in text_of(pilot, "#machine")
        marks = {str(table(pilot).get_cell_at((row, 2))).strip() for row in range(7)}
        assert marks == {"? unknown"}
        await pilot.press("d")
        assert "cannot be used" in text_of(pilot, "#message")
        await pilot.press("enter", "enter")
        assert "cannot be used" in text_of(pilot, "#message")
        assert isinstance(pilot.app.screen, WizardScreen)


async def test_a_hub_source_says_what_it_downloads_and_the_disk_it_needs(monkeypatch):
    monkeypatch.setattr("app.job_words.free_disk", lambda folder: 150 * 10**9)
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await choose_mixtral(pilot)
        need = sources.mixtral().disk_bytes(3.0, "cuda", "held")
        await wait_until(pilot, lambda: "93.4 GB from the hub" in text_of(pilot, "#message"))
        assert f"up to {size(need)} of disk" in text_of(pilot, "#message")
        assert "measures the device and says how many hours" in text_of(pilot, "#message")
        monkeypatch.setattr("app.job_words.free_disk", lambda folder: 10**9)
        await pilot.press("d")
        # A processor calibrates on fewer tokens.
        less = sources.mixtral().disk_bytes(table(pilot).chosen.nominal_bits, "cpu")
        assert f"✕ Needs up to {size(less)}" in text_of(pilot, "#message")
        assert "hours on two cores" in text_of(pilot, "#message")
        assert "1.00 GB are free" in text_of(pilot, "#message")


async def test_another_original_asks_for_its_name(tmp_path):
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await choose_another(pilot, str(tmp_path / "nowhere"))
        await wait_until(pilot, lambda: "there is no folder" in text_of(pilot, "#message"))
        table(pilot).focus()
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.focused, Input))
        assert "OWNER/NAME" in text_of(pilot, "#message")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A repository with the demo's shape on a hub on localhost."""
    folder = tmp_path / "hub" / "owner" / "Small-Mixtral"
    folder.mkdir(parents=True)
    shutil.copy(DEMO_DIR / "config.json", folder)
    with running_hub(tmp_path / "hub") as hub:
        connect(hub, monkeypatch, tmp_path)
        yield "owner/Small-Mixtral"


async def test_a_repository_is_looked_at_and_its_job_begins(repository):
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await choose_another(pilot, "owner/nothing")
        await wait_until(pilot, lambda: "no repository" in text_of(pilot, "#message"))
        pilot.app.screen.query_one(Input).value = repository
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.focused, PlanTable))
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        (model,) = models.installed()
        assert (model.folder / "arguments").read_text().startswith(f"{repository} --bits")


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A catalogue with one build, of a tiny model on a hub on localhost."""
    root = tmp_path / "hub" / "someone" / "Mixtral-2bit"
    write_tiny_checkpoint(root)
    with running_hub(tmp_path / "hub") as hub:
        found = ReadyBuild(
            "Mixtral 8x7B at 2 bits",
            "someone/Mixtral-2bit",
            hub.revision(root),
            sources.MIXTRAL_REPOSITORY,
            2.0,
            13_900_000_000,
        )
        catalogue = tmp_path / "catalogue.json"
        catalogue.write_text(json.dumps({"builds": [vars(found)]}))
        monkeypatch.setattr("app.sources.ready_builds", partial(ready_builds, path=catalogue))
        for name, value in environment(hub, tmp_path).items():
            monkeypatch.setenv(name, value)
        yield hub


async def choose_the_build(pilot: Pilot[None]) -> None:
    await wait_for_state(pilot, "ready")
    pilot.app.screen.query_one(SourceList).focus()
    await pilot.press("end")
    await wait_until(pilot, lambda: "Downloads 13.9 GB" in text_of(pilot, "#message"))
    assert table(pilot).row_count == 1
    table(pilot).focus()


@pytest.mark.usefixtures("build")
async def test_a_ready_build_is_downloaded_and_opened():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await choose_the_build(pilot)
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        assert [model.name for model in models.installed()] == ["Mixtral-2bit"]


@pytest.mark.usefixtures("build")
async def test_a_download_that_fails_says_why_and_can_be_tried_again(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    async with make_app().run_test(size=(120, 36)) as pilot:
        await choose_the_build(pilot)
        await pilot.press("enter")
        await wait_for_state(pilot, "down")
        assert "not to be used" in text_of(pilot, "#ending")
        monkeypatch.delenv("HF_HUB_OFFLINE")
        await pilot.press("r")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))


async def test_a_download_is_left_joined_again_and_stopped(build: Hub):
    build.faults.bytes_per_second = 20_000
    async with make_app().run_test(size=(120, 36)) as pilot:
        await choose_the_build(pilot)
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, TransferScreen))
        await wait_until(pilot, lambda: "downloading" in text_of(pilot, "#transfer"))
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, PartingScreen))
        await pilot.press("b")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))
        assert "goes on in the background" in text_of(pilot, "#message")
        assert "A download of Mixtral-2bit is running" in text_of(pilot, "#running")
        await pilot.press("w")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, TransferScreen))
        await wait_until(pilot, lambda: " kB of " in text_of(pilot, "#transfer"))
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, PartingScreen))
        await pilot.press("s")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))
        assert "goes on from there" in text_of(pilot, "#message")
        assert jobs.all_running() == []
        assert models.installed() == []


async def test_without_ready_builds_there_is_no_such_choice():
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        assert pilot.app.screen.query_one(SourceList).option_count == len(wizard.SOURCES)


async def test_a_folder_with_an_original_is_compressed(tmp_path):
    (tmp_path / "config.json").write_text((DEMO_DIR / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"")
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_for_state(pilot, "ready")
        await choose_another(pilot, str(tmp_path))
        await wait_until(pilot, lambda: isinstance(pilot.app.focused, PlanTable))
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        assert [model.name for model in models.installed()] == [f"{tmp_path.name}-4bit"]


async def test_the_chats_model_does_not_count_as_another_programs():
    install_model()
    async with make_app().run_test(size=(120, 36)) as pilot:
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await wait_for_state(pilot, "ready")
        await pilot.press("f4")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ModelsScreen))
        await pilot.press("c")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))
        await wait_for_state(pilot, "ready")
        # The fake holds memory while a model is loaded.
        assert "24.1 GB free" in text_of(pilot, "#machine")


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


@pytest.mark.parametrize("words", ["It is ready.", "stopped unexpectedly"])
async def test_a_compression_that_was_left_says_when_it_has_ended(
    monkeypatch: pytest.MonkeyPatch, words: str
):
    monkeypatch.setattr(tui, "JOBS_LOOK_SECONDS", 0.05)
    async with make_app(story="hold").run_test(size=(120, 36)) as pilot:
        await hold(pilot)
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, PartingScreen))
        await pilot.press("b")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))
        background = pilot.app._background
        await wait_until(pilot, lambda: background._running and not background._watched)
        (job,) = jobs.running_jobs()
        if "ready" in words:
            job.out.parent.mkdir(exist_ok=True)
            job.out.with_suffix(".go").touch()
        else:
            os.kill(job.pid, signal.SIGKILL)
        await wait_until(pilot, lambda: pilot.app._notifications)
        (notice,) = pilot.app._notifications
        assert notice.title == "demo"
        assert words in notice.message


async def test_a_compression_that_was_watched_to_its_end_is_not_told_twice(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(tui, "JOBS_LOOK_SECONDS", 0.05)
    async with make_app(story="hold").run_test(size=(120, 36)) as pilot:
        await hold(pilot)
        background = pilot.app._background
        await wait_until(pilot, lambda: background._watched)
        (job,) = jobs.running_jobs()
        job.out.parent.mkdir(exist_ok=True)
        job.out.with_suffix(".go").touch()
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await wait_until(pilot, lambda: not background._running)
        assert not pilot.app._notifications


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


async def test_a_compression_that_ends_behind_the_help_leads_on_when_that_closes():
    async with make_app(story="hold").run_test(size=(120, 36)) as pilot:
        await hold(pilot)
        await pilot.press("f1")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen))
        models.demo_folder().parent.mkdir(parents=True, exist_ok=True)
        models.demo_folder().with_suffix(".go").touch()
        await wait_until(pilot, lambda: not jobs.running_jobs())
        await pilot.press("escape")
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
        saved = sources.demo().disk_bytes(2.5, "cuda") - sources.demo().disk_bytes(2.25, "cuda")
        smaller = f"The next smaller choice, 2.25 bits, needs {size(saved)} less"
        assert smaller in text_of(pilot, "#ending")
        await pilot.press("r")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))


@pytest.mark.parametrize(
    ("story", "reason", "way"),
    [
        ("memory", "the device ran out of memory", "D plans for AMD Ryzen 9 5950X"),
        ("offline", "the connection was lost", "need no network"),
    ],
)
async def test_a_failure_says_what_else_could_be_chosen(story: str, reason: str, way: str):
    async with make_app(story=story).run_test(size=(80, 24)) as pilot:
        await wait_for_state(pilot, "ready")
        await pilot.press("enter")
        await wait_for_state(pilot, "down")
        ending = text_of(pilot, "#ending")
        assert ending.startswith(f"✕ {reason}")
        assert way in ending
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(pilot.app.screen, WizardScreen))


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


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (120, 36)])
async def test_what_enter_begins_is_seen_however_late_the_engine_answers(size: tuple[int, int]):
    async with make_app("--devices", "none").run_test(size=size) as pilot:
        await wait_for_state(pilot, "starting")
        await pilot.pause()
        pilot.app._services.events.publish(Devices(SMALL_DEVICES))
        strips = pilot.app.screen._compositor.render_strips
        await wait_until(pilot, lambda: any("★ 2.50" in strip.text for strip in strips()))
        assert not any("Device" in strip.text for strip in strips()), "there is only one"
