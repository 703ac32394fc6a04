"""A compression and its watchers as processes: terminals that close, Ctrl+C, death, two of them."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app import jobs, models, paths
from app.commands import compress
from app.jobs import RunningJob
from compress.quantizers import QUANTIZERS
from engine import budget
from engine.config import MIXTRAL_8X7B
from tests.commands_for_tests import Command
from tests.ui import FAKES
from tests.unit.models_for_tests import save_tiny_mixtral
from tests.unit.tokenizers_for_tests import be_another, speak_as_the_demo
from tests.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.usefixtures("every_step")

REPOSITORY = FAKES.parents[1]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def fake_story(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Which story the compressions of this process tell."""

    def choose(story: str) -> None:
        command = [sys.executable, str(FAKES / "fake_job.py"), "--story", story]
        monkeypatch.setattr(jobs, "JOB_COMMAND", command)

    return choose


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Start a command as a process of its own; its compressions tell this story."""
    started: list[subprocess.Popen[str]] = []

    def run(story: str, *words: str | Path, **more: Any) -> "subprocess.Popen[str]":
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | more
        script = str(FAKES / "cli_with_fake_job.py")
        process = subprocess.Popen(
            [sys.executable, script, story, *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            **options,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait_for_job() -> RunningJob:
    wait_until(jobs.running_jobs)
    (job,) = jobs.running_jobs()
    return job


def let_go(job: RunningJob) -> None:
    """End the story "hold"."""
    job.out.parent.mkdir(parents=True, exist_ok=True)
    job.out.with_suffix(".go").touch()


def complaint(process: "subprocess.Popen[str]", code: int) -> str:
    """The one line that a process failed with, after it ended with this exit code."""
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code, err
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("mc-chat: ")]
    return line


# --- the terminal closes --------------------------------------------------------------------------


def test_a_closed_terminal_leaves_the_job_which_finishes_and_can_be_watched(
    start: Start, mc_chat: Command
) -> None:
    ours, theirs = os.openpty()
    shell = start(
        *("hold", "compress", "demo"),
        **{"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True},
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    job = wait_for_job()
    assert b"layer 3 of 4" in read_until(ours, b"layer 3 of 4")
    os.close(ours)
    assert shell.wait(timeout=PATIENCE_SECONDS) == -signal.SIGHUP
    assert jobs.running_jobs() == [job]

    watcher = start("", "watch", "--json")
    assert watcher.stderr is not None
    assert watcher.stderr.readline() == "reading the original\n"
    let_go(job)
    out, err = watcher.communicate(timeout=PATIENCE_SECONDS)
    assert watcher.returncode == 0, err
    assert json.loads(out)["name"] == "demo"
    assert "layer 4 of 4" in err
    assert models.demo_installed()
    assert jobs.running_jobs() == []
    # Later, too, one can learn how it ended.
    assert mc_chat("watch", "demo", "--json").json["name"] == "demo"


def read_until(terminal: int, words: bytes) -> bytes:
    seen = b""
    while words not in seen:
        seen += os.read(terminal, 4096)
    return seen


def test_a_watcher_that_is_killed_leaves_the_job(start: Start) -> None:
    shell = start("hold", "compress", "demo")
    job = wait_for_job()
    shell.kill()
    shell.wait()
    assert jobs.running_jobs() == [job]


# --- Ctrl+C ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_job_cleanly(start: Start, number: signal.Signals) -> None:
    shell = start("hold", "compress", "demo")
    wait_for_job()
    shell.send_signal(number)
    assert "run the same command to go on" in complaint(shell, 130)
    assert jobs.running_jobs() == []


def test_ctrl_c_stops_watching_and_not_the_job(start: Start) -> None:
    start("hold", "compress", "demo")
    job = wait_for_job()
    watcher = start("", "watch")
    assert watcher.stderr is not None
    for line in watcher.stderr:
        if "layer 3 of 4" in line:
            break
    watcher.send_signal(signal.SIGINT)
    said = complaint(watcher, 130)
    assert "the compression goes on" in said
    assert "`mc-chat watch --stop demo` stops it" in said
    assert jobs.running_jobs() == [job]


def test_a_compression_is_stopped_by_name_and_goes_on_later(
    start: Start, mc_chat: Command, fake_story: Callable[[str], None]
) -> None:
    shell = start("hold", "compress", "demo")
    job = wait_for_job()
    stopped = mc_chat("watch", "--stop")
    assert (stopped.code, stopped.out) == (
        0,
        "demo has stopped; run the same `mc-chat compress` to go on\n",
    )
    assert "stopping demo at the next whole step\n" in stopped.err
    assert jobs.running_jobs() == []
    assert "stopped after layer 2" in complaint(shell, 130)
    again = mc_chat("watch", "--stop", "demo")
    assert (again.code, again.out) == (2, "")
    assert "demo is not being compressed" in again.err
    fake_story("done")
    assert mc_chat("compress", "demo").code == 0
    start("hold", "compress", "demo", "--restart")
    wait_until(jobs.running_jobs)
    found = mc_chat("watch", "--stop", job.out, "--json").json
    assert found == {"name": "demo", "folder": str(job.out), "stopped": True}


def test_one_of_several_has_to_be_named_to_be_stopped(
    start: Start, mc_chat: Command, tmp_path: Path
) -> None:
    for out in ("one", "two"):
        start("hold", "compress", "demo", "--out", tmp_path / out)
    wait_until(lambda: len(jobs.running_jobs()) == 2)
    refused = mc_chat("watch", "--stop")
    assert refused.code == 2
    assert f"name one of: {tmp_path / 'one'}, {tmp_path / 'two'}" in refused.err
    assert len(jobs.running_jobs()) == 2


def test_with_its_model_goes_what_its_compression_has_told(
    mc_chat: Command, fake_story: Callable[[str], None]
) -> None:
    fake_story("done")
    mc_chat("compress", "demo")
    mc_chat("compress", "demo", "--bits", "2")
    assert len(list(paths.jobs_dir().iterdir())) == 4
    assert mc_chat("rm", "demo").code == 0
    assert {path.name[:9] for path in paths.jobs_dir().iterdir()} == {"demo-2bit"}
    assert mc_chat("watch", "demo").code == 2


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_killed_job_is_noticed_by_who_started_it_and_by_who_watches(start: Start) -> None:
    shell = start("hold", "compress", "demo")
    job = wait_for_job()
    watcher = start("", "watch", "demo")
    assert watcher.stderr is not None
    watcher.stderr.readline()
    os.kill(job.pid, signal.SIGKILL)
    for process in (shell, watcher):
        said = complaint(process, 1)
        assert "stopped unexpectedly: it was killed" in said
        assert "run it again to go on" in said
    assert jobs.running_jobs() == []


def test_two_runs_on_one_output_refuse_each_other(start: Start, mc_chat: Command) -> None:
    start("hold", "compress", "demo")
    job = wait_for_job()
    for words in (("demo",), ("demo", "--bits", "2", "--out", job.out), ("demo", "--restart")):
        second = mc_chat("compress", *words)
        assert second.code == 2
        assert f"process {job.pid} is compressing into {job.out} already" in second.err
        assert f"`mc-chat watch {job.out}` shows it" in second.err
    assert jobs.running_jobs() == [job]


@pytest.mark.parametrize(
    ("story", "said", "shown"),
    [
        ("fail", "the disk is full: 1.2 GB more are needed", "layer 2 of 4, score"),
        ("offline", "the connection was lost; run the same command again", "85 MB/s"),
    ],
    ids=["disk", "network"],
)
def test_a_full_disk_and_a_lost_network_are_told_now_and_later(
    mc_chat: Command, fake_story: Callable[[str], None], story: str, said: str, shown: str
) -> None:
    fake_story(story)
    first = mc_chat("compress", "demo")
    assert first.code == 1
    assert f"mc-chat: {said}" in first.err
    assert shown in first.err
    later = mc_chat("watch", "demo")
    assert later.code == 1
    assert f"mc-chat: {said}" in later.err
    fake_story("done")
    assert mc_chat("compress", "demo", "--json").json["name"] == "demo"


def test_a_job_that_cannot_start_is_told(mc_chat: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "JOB_COMMAND", ["/no/such/program"])
    result = mc_chat("compress", "demo")
    assert result.code == 1
    assert "could not be started" in result.err


# --- which is meant -------------------------------------------------------------------------------


def test_without_a_name_the_only_one_is_watched_and_several_are_listed(
    start: Start, mc_chat: Command, tmp_path: Path
) -> None:
    nothing = mc_chat("watch")
    assert nothing.code == 2
    assert "no compression is running" in nothing.err
    start("hold", "compress", "demo", "--bits", "2")
    wait_for_job()
    start("hold", "compress", "demo", "--out", tmp_path / "elsewhere")
    wait_until(lambda: len(jobs.running_jobs()) == 2)
    listed = mc_chat("watch")
    assert listed.code == 0
    assert [line.split(":")[0] for line in listed.out.splitlines()] == [
        "demo-2bit",
        str(tmp_path / "elsewhere"),
    ]
    found = mc_chat("watch", "--json").json["running"]
    assert [job["out"] for job in found] == [
        str(paths.models_dir() / "demo-2bit"),
        str(tmp_path / "elsewhere"),
    ]
    unknown = mc_chat("watch", "nothing")
    assert unknown.code == 2
    assert "running: demo-2bit, " in unknown.err


def test_steps_are_shown_one_line_a_stage_with_the_time_left(
    mc_chat: Command, fake_story: Callable[[str], None]
) -> None:
    fake_story("done")
    lines = mc_chat("compress", "demo").err.splitlines()
    assert lines[:2] == ["compressing demo", "reading the original"]
    assert "layer 3 of 4, score  55%, 0:18 left: score: expert 8 of 8" in lines
    assert len([line for line in lines if line.startswith("layer ")]) == 4 * 5


def test_the_words_reach_the_job(
    mc_chat: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    echo = "import sys; open(sys.argv[1], 'w').write('\\n'.join(sys.argv[2:]))"
    words_file = tmp_path / "words"
    monkeypatch.setattr(jobs, "JOB_COMMAND", [sys.executable, "-c", echo, str(words_file)])

    def words(*given: str) -> list[str]:
        mc_chat("compress", *given)
        return words_file.read_text().split("\n")

    def value(option: str, given: list[str]) -> str:
        return given[given.index(option) + 1]

    repository = words("mistralai/Mixtral-8x7B-v0.1", "--offline", "--keep-source", "--restart")
    assert repository[0] == "mistralai/Mixtral-8x7B-v0.1"
    assert value("--out", repository) == str(paths.models_dir() / "mixtral-8x7b-v0.1-2.5bit")
    assert {"--offline", "--keep-source", "--restart"} <= set(repository)
    chosen = words("demo", "--bits", "2", "--device", "cuda:1", "--error", "model", "--seed", "7")
    assert value("--bits", chosen) == "2"
    assert value("--device", chosen) == "cuda:1"
    assert value("--error", chosen) == "model"
    assert value("--seed", chosen) == "7"
    assert "--expert-bytes" not in chosen
    mixtral = "mistralai/Mixtral-8x7B-Instruct-v0.1"
    by_card = words(mixtral, "--vram", "24GiB")
    assert "--allocator" not in by_card
    bits, experts = float(value("--bits", by_card)), int(value("--expert-bytes", by_card))
    whole = budget.nominal_budget(MIXTRAL_8X7B, bits, 128, 8192, "cuda", rotated=True)
    even = 32 * budget.expert_bytes(MIXTRAL_8X7B, budget.spread_bits(bits, 8), 128, rotated=True)
    free = 24 * 2**30 - budget.CUDA_CONTEXT_BYTES
    filled = whole.total - even + experts
    assert whole.total < filled <= budget.COMFORT * free < filled + 10**6
    for other in (("--allocator", "pmq"), ("--quantizer", "hqq")):
        assert "--expert-bytes" not in words(mixtral, "--vram", "24GiB", *other)


def test_names_offered_are_those_there_are() -> None:
    assert tuple(QUANTIZERS) == compress.QUANTIZER_NAMES


# --- the real job ---------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "original"
    shape = {"vocab_size": 2048, "hidden_size": 128, "intermediate_size": 128}
    save_tiny_mixtral(folder, **shape, num_hidden_layers=2, num_local_experts=8)
    speak_as_the_demo(folder)
    be_another(folder)
    return folder


def test_a_real_job_killed_in_the_middle_goes_on_where_it_was(
    mc_chat: Command, start: Start, source: Path
) -> None:
    given = ("--text", __file__, "--samples", "4", "--window", "64", "--bits", "2")
    shell = start("real", "compress", source, *given)
    job = wait_for_job()
    assert shell.stderr is not None
    for line in shell.stderr:
        if line.startswith("layer 2 of 2, score"):
            os.kill(job.pid, signal.SIGKILL)
    shell.wait()
    assert shell.returncode == 1
    refused = mc_chat("watch", job.out)
    assert "stopped unexpectedly" in refused.err
    assert not job.out.exists()

    again = mc_chat("compress", source, *given)
    assert again.code == 0
    assert "layer 1 of 2, score" not in again.err
    assert mc_chat("verify", job.out).code == 0
