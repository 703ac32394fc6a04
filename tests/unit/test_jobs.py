"""Jobs that belong to nobody: their file, its lock, and what a watcher makes of it."""

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType

import pytest

from app import jobs
from app.child import child_environment
from app.job_client import JobClient
from app.jobs import Job, JobWatch
from compress.job import Teller
from compress.job import parser as job_parser
from compress.progress import Done, JobEvent, JobFailed, Progress, Started, decode, encode
from engine.errors import UsageError, WorkerError
from tests.ui import FAKES, end_jobs
from tests.waiting import PATIENCE_SECONDS, wait_until

STEP = Progress("score", 0, 4, 0.1, 1.0, None, "scoring expert 1 of 8")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MC_CHAT_HOME", str(tmp_path / "home"))
    yield
    end_jobs()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(Path("source"), 2.5, tmp_path / "model")


def fake(story: str) -> list[str]:
    return [sys.executable, str(FAKES / "fake_job.py"), "--story", story]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def until_end(watch: JobWatch) -> list[JobEvent]:
    """Everything that a job tells."""
    events: list[JobEvent] = []

    def ended() -> bool:
        events.extend(watch.poll())
        return last_is(events, Done | JobFailed)()

    wait_until(ended)
    return events


def test_a_job_tells_who_it_is_then_its_steps_then_its_result(job: Job) -> None:
    process = jobs.start(job, fake("done"))
    events = until_end(JobWatch(job.folder, process))
    assert events[0] == Started(process.pid, "source", 2.5, str(job.folder))
    fractions = [event.fraction for event in events if isinstance(event, Progress)]
    assert len(fractions) > 10
    assert fractions == sorted(fractions)
    assert events[-1] == Done(str(job.folder))
    assert jobs.running_jobs() == []
    # Whoever comes late is told the same.
    assert until_end(JobWatch(job.folder)) == events


def test_it_leads_a_session_of_its_own_and_is_found_while_it_runs(job: Job) -> None:
    process = jobs.start(job, fake("hold"))
    wait_until(lambda: jobs.running(job.folder))
    found = jobs.running(job.folder)
    assert found is not None
    assert (found.pid, found.out, found.source, found.bits) == (
        process.pid,
        job.folder,
        "source",
        2.5,
    )
    assert os.getsid(process.pid) == process.pid
    assert jobs.running_jobs() == [found]
    with pytest.raises(UsageError, match=f"process {process.pid} is compressing into"):
        jobs.start(job, fake("done"))
    elsewhere = Job(job.source, job.bits, job.folder.with_name("other"))
    until_end(JobWatch(elsewhere.folder, jobs.start(elsewhere, fake("done"))))
    assert jobs.running_jobs() == [found]


def test_stopping_before_its_first_word_waits_for_it(job: Job) -> None:
    watch = JobWatch(job.folder, jobs.start(job, fake("hold")))
    watch.stop()
    assert until_end(watch)[-1] == JobFailed(
        "Interrupted", "stopped after layer 2; run the same command to go on"
    )


@pytest.mark.parametrize("knows_the_process", [True, False])
def test_a_death_is_told_with_the_last_words(job: Job, knows_the_process: bool) -> None:
    code = """
        import os, signal, sys
        from compress.job import Teller, take_output
        from compress.progress import Started
        Teller(take_output()).tell(Started(os.getpid(), "source", 2.5, "model"))
        print("a word of a library")
        print("out of memory", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    process = jobs.start(job, python(code))
    events = until_end(JobWatch(job.folder, process if knows_the_process else None))
    assert isinstance(events[-1], JobFailed)
    assert events[-1].kind == "WorkerError"
    assert "stopped unexpectedly: it was killed, " in events[-1].message
    assert "out of memory; what is finished is kept" in events[-1].message
    assert "a word of a library" in jobs.log_file(job.folder).read_text()
    process.wait()


def test_the_next_may_start_while_the_last_still_dies(job: Job) -> None:
    code = """
        import os, time
        from compress.job import Teller, take_output
        from compress.progress import JobFailed
        Teller(take_output()).tell(JobFailed("DiskFullError", "full"))
        time.sleep(60)
        """
    first = jobs.start(job, python(code))
    assert until_end(JobWatch(job.folder, first)) == [JobFailed("DiskFullError", "full")]
    assert until_end(JobWatch(job.folder, jobs.start(job, fake("done"))))[-1] == Done(
        str(job.folder)
    )
    first.kill()
    first.wait()


def test_the_last_word_counts_when_the_next_may_start(job: Job) -> None:
    code = """
        import os, time
        from compress.job import Teller, take_output
        from compress.progress import JobFailed, encode
        taken = take_output()
        os.write(taken, encode(JobFailed("DiskFullError", "full")).encode() + b"\\n")
        time.sleep(0.5)
        """
    watch = JobWatch(job.folder, jobs.start(job, python(code)))
    assert until_end(watch) == [JobFailed("DiskFullError", "full")]
    assert jobs.running_jobs() == []
    assert not watch.is_alive


def test_what_cannot_start_is_told_and_nothing_stays_locked(job: Job) -> None:
    with pytest.raises(WorkerError, match="could not be started"):
        jobs.start(job, ["/no/such/program"])
    assert until_end(JobWatch(job.folder, jobs.start(job, fake("done"))))[-1] == Done(
        str(job.folder)
    )


def test_a_folder_has_one_file_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {jobs.log_file(path) for path in (tmp_path / "a", Path("a"), Path("b/../a"))}
    assert len(named) == 1
    assert jobs.log_file(tmp_path / "b" / "a") not in named


def age(path: Path, days: float) -> None:
    then = time.time() - days * 24 * 3600
    os.utime(path, (then, then))


def test_old_files_are_removed_when_the_next_job_starts(job: Job, tmp_path: Path) -> None:
    others = [Job(job.source, 2.0, tmp_path / name) for name in ("old", "young", "running")]
    for other, story in zip(others, ("done", "done", "hold"), strict=True):
        process = jobs.start(other, fake(story))
        if story == "done":
            until_end(JobWatch(other.folder, process))
    wait_until(lambda: jobs.running(others[2].folder))
    for other, days in zip(others, (31, 29, 31), strict=True):
        age(jobs.log_file(other.folder).with_suffix(".jsonl"), days)
    until_end(JobWatch(job.folder, jobs.start(job, fake("done"))))
    assert [jobs.is_known(other.folder) for other in others] == [False, True, True]
    assert not jobs.log_file(others[0].folder).exists()
    assert jobs.running(others[2].folder) is not None


def test_what_a_job_has_told_is_forgotten_unless_it_runs(job: Job) -> None:
    jobs.start(job, fake("hold"))
    wait_until(lambda: jobs.running(job.folder))
    jobs.forget(job.folder)
    assert jobs.is_known(job.folder)
    watch = JobWatch(job.folder)
    watch.stop()
    until_end(watch)
    jobs.forget(job.folder)
    assert not jobs.is_known(job.folder)
    assert list(jobs.log_file(job.folder).parent.iterdir()) == []
    jobs.forget(job.folder)
    until_end(JobWatch(job.folder, jobs.start(job, fake("done"))))


def test_a_file_removed_while_a_job_starts_is_made_again(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is then on a file that nobody will find."""
    path = jobs.log_file(job.folder).with_suffix(".jsonl")
    take = jobs.take

    def removed_before(descriptor: int, at: Path) -> bool:
        monkeypatch.setattr(jobs, "take", take)
        path.unlink()
        return take(descriptor, at)

    monkeypatch.setattr(jobs, "take", removed_before)
    assert until_end(JobWatch(job.folder, jobs.start(job, fake("done"))))[-1] == Done(
        str(job.folder)
    )


def test_the_words_of_a_job() -> None:
    job = Job("owner/name", 2.25, Path("out"), "cuda:1", ("--seed", "3", "--keep-source"))
    options = job_parser().parse_args(job.arguments())
    assert (options.source, options.bits, options.out) == ("owner/name", 2.25, Path("out"))
    assert (options.device, options.seed, options.keep_source) == ("cuda:1", 3, True)
    assert not options.restart
    assert job_parser().parse_args(job.arguments(restart=True)).restart


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", "mistralai/Mixtral-8x7B-v0.1"),
        ("/models/mixtral", Path("/models/mixtral")),
        ("./models/mixtral", Path("models/mixtral")),
        ("a/b/c", Path("a/b/c")),
        ("mixtral", Path("mixtral")),
        ("../mixtral", Path("../mixtral")),
        ("here/there", Path("here/there")),
    ],
)
def test_what_a_source_is(
    text: str, source: Path | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "there").mkdir(parents=True)
    assert job_parser().parse_args([text, "--out", "out"]).source == source


# --- what the job writes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [Started(1, "demo", 2.5, "/out"), STEP, Done("/out"), JobFailed("DiskFullError", "full\n")],
)
def test_events_survive_the_way(event: JobEvent) -> None:
    assert decode(encode(event)) == event
    assert "\n" not in encode(event)


def test_steps_that_repeat_are_thinned_out_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "events"
    teller = Teller(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    bytes_of_a_download = [
        Progress("download", 0, 4, 0.1, 1.0, None, f"{count} MB") for count in range(100)
    ]
    for event in (STEP, STEP, STEP, *bytes_of_a_download, STEP, Done("out")):
        teller.tell(event)
    told = [decode(line) for line in path.read_text().splitlines()]
    assert told == [STEP, bytes_of_a_download[0], STEP, Done("out")]


def test_a_full_disk_costs_steps_but_not_the_last_word(tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk."""
    failed = JobFailed("DiskFullError", "no space left: make room and run it again")
    code = f"""
        import resource
        from compress.job import Teller, take_output
        from compress.progress import JobFailed, Progress, Started
        limit = {len(encode(failed)) + 1}
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        teller = Teller(take_output())
        for event in (Started(1, "source", 2.5, "out"), {STEP!r}, {failed!r}):
            teller.tell(event)
        """
    events = tmp_path / "events"
    with events.open("ab") as told:
        subprocess.run(python(code), stdout=told, env=child_environment(), check=True)
    assert [decode(line) for line in events.read_text().splitlines()] == [failed]


def test_a_last_word_behind_which_a_watcher_has_read_already_is_heard(job: Job) -> None:
    """A job's file is emptied on a full disk, and its last line may be longer than all before."""
    code = """
        import os, sys
        from compress.progress import JobFailed, Started, encode
        print(encode(Started(os.getpid(), "s", 2, "o")), flush=True)
        input_file = sys.argv[sys.argv.index("--out") + 1] + ".go"
        while not os.path.exists(input_file):
            pass
        os.ftruncate(1, 0)
        print(encode(JobFailed("DiskFullError", "full " * 100)), flush=True)
        """
    process = jobs.start(job, python(code))
    watch = JobWatch(job.folder, process)
    wait_until(watch.poll)
    Path(f"{job.folder}.go").touch()
    process.wait()
    assert until_end(watch)[-1] == JobFailed("DiskFullError", "full " * 100)


def test_a_reader_that_goes_away_does_not_end_the_job() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    teller = Teller(writer)
    for event in (Started(1, "source", 2.5, "out"), STEP, Done("out")):
        teller.tell(event)


# --- the screen's end -----------------------------------------------------------------------------


async def until(end: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not end():
            await asyncio.sleep(0.01)


def last_is(heard: list[JobEvent], kind: type | UnionType) -> Callable[[], bool]:
    return lambda: bool(heard) and isinstance(heard[-1], kind)


async def test_a_client_hears_a_job_and_another_joins_it(job: Job) -> None:
    first: list[JobEvent] = []
    second: list[JobEvent] = []
    client = JobClient(first.append, job, fake("hold"))
    client.start()
    await until(lambda: len(first) > 5)
    joined = JobClient(second.append, job, fake("hold"))
    joined.start()
    await until(lambda: len(second) == len(first))
    client.leave()
    joined.cancel()
    await until(last_is(second, JobFailed))
    assert second[-1].kind == "Interrupted"
    assert not last_is(first, JobFailed)()


async def test_a_client_whose_job_cannot_start_is_told(job: Job) -> None:
    heard: list[JobEvent] = []
    JobClient(heard.append, job, ["/no/such/program"]).start()
    assert [event.kind for event in heard] == ["WorkerError"]
