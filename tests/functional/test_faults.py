"""Whatever happens to a compression, nothing that was finished is lost, and started again it makes
the very bytes that it would have made. docs/faults.md is the table of this for users."""

import dataclasses
import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.random_original import write_random_original
from compress import workspace
from compress.pipeline import CompressJob, compress
from compress.progress import Progress
from engine.config import MIXTRAL_8X7B
from engine.errors import (
    CheckpointError,
    Interrupted,
    McChatError,
    SourceError,
    UsageError,
)
from engine.manifest import open_manifest, verify_hashes
from tests.compressions_for_tests import complaint, contents, quiet
from tests.fakes.forking_jobs import ALLOCATING, Ending, Run
from tests.hub_for_tests import environment, running_hub
from tests.unit.tokenizers_for_tests import be_another

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = replace(
    MIXTRAL_8X7B, num_layers=2, hidden_size=64, intermediate_size=64, num_heads=2, num_kv_heads=1,
    head_dim=32, num_experts=4, vocab_size=2048, max_context=512,
)  # fmt: skip
NAME = "owner/original"
SHARD = "model-00002-of-00002.safetensors"
KILLED = -9


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and, as on a hub, an original."""
    place = tmp_path_factory.mktemp("faults")
    write_random_original(place / NAME, CONFIG, shard_bytes=500_000)
    be_another(place / NAME)
    assert (place / NAME / SHARD).is_file()
    (place / "text.txt").write_text((REPOSITORY / "engine" / "layout.py").read_text())
    return place


def words(place: Path, out: Path, source: Path | str, *more: str) -> list[str]:
    given = [str(source), "--out", str(out), "--text", str(place / "text.txt"), "--bits", "2"]
    given += ["--samples", "2", "--window", "32", "--group-size", "64", "--device", "cpu"]
    return [*given, *more]


Forked = Callable[[Run], Ending]


@pytest.fixture(scope="module")
def forked(place: Path) -> Iterator[Forked]:
    """Runs a job in a process that is there at once, and knows the hub."""
    warming = words(place, place / "warm", place / NAME)
    with (
        running_hub(place) as hub,
        subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.forking_jobs", place, *warming],
            cwd=REPOSITORY,
            env=os.environ | environment(hub, place) | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        given, answers = server.stdin, server.stdout
        assert answers.readline() == "ready\n"

        def run(wanted: Run) -> Ending:
            given.write(json.dumps(dataclasses.asdict(wanted)) + "\n")
            given.flush()
            return Ending(**json.loads(answers.readline()))

        yield run
        given.close()


class Bench:
    """One output that is made again and again, and what it must be."""

    def __init__(self, forked: Forked, place: Path, tmp_path: Path, options: list[str]) -> None:
        self._forked = forked
        self._place = place
        self._options = options
        """The source, and further words."""
        self.out = tmp_path / "out"
        before = time.monotonic()
        self.calls = self.run().calls
        self.seconds = time.monotonic() - before
        self.right = contents(self.out)

    def again(self, *more: str) -> "Bench":
        """The same output with further options."""
        return Bench(self._forked, self._place, self.out.parent, [*self._options, *more])

    @property
    def is_done(self) -> bool:
        """Whether it is published and cleaned up."""
        return self.out.exists() and not (self.out / "journal.jsonl").exists()

    def run(self, **faults: object) -> Ending:
        return self._forked(Run(words(self._place, self.out, *self._options), **faults))  # type: ignore[arg-type]

    def anew(self) -> None:
        for folder in (self.out, workspace.partial_folder(self.out)):
            shutil.rmtree(folder, ignore_errors=True)

    def finish(self, **more: object) -> None:
        """Run it to its end: the bytes are the right ones, and nothing lies beside them."""
        ending = self.run(**more)
        assert ending.code == 0, ending
        assert contents(self.out) == self.right
        assert [path.name for path in self.out.parent.iterdir()] == [self.out.name]


@pytest.fixture
def bench(forked: Forked, place: Path, tmp_path: Path) -> Callable[..., Bench]:
    def make(*options: str, streamed: bool = False) -> Bench:
        source = NAME if streamed else str(place / NAME)
        return Bench(forked, place, tmp_path, [source, *options])

    return make


# --- killed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allocator", "placement", "kills"),
    [("pmq", "host", 7), ("global", "host", 7), ("pmq", "disk", 6)],
)
def test_killed_at_any_moment_it_becomes_the_same(
    bench: Callable[..., Bench], allocator: str, placement: str, kills: int
) -> None:
    made = bench("--allocator", allocator)
    chance = random.Random(f"{allocator} {placement}")
    made.anew()
    while kills:
        ending = made.run(kill_after=chance.uniform(0.0, made.seconds), placement=placement)
        kills -= ending.code == KILLED
        if made.is_done:
            assert contents(made.out) == made.right
            made.anew()
    made.finish(placement=placement)


@pytest.mark.parametrize("allocator", ["pmq", "global"])
def test_dead_at_every_single_step_it_becomes_the_same(
    bench: Callable[..., Bench], allocator: str
) -> None:
    """The file that is just being synced is torn: this is a power failure, too."""
    made = bench("--allocator", allocator, "--quantizer", "rtn")
    steps = range(len(made.calls))
    for step in steps if allocator == "pmq" else steps[1::3]:
        made.anew()
        assert made.run(die_at=step, placement="disk" if step % 2 else "host").code == KILLED
        if not made.is_done:
            made.finish()
        assert contents(made.out) == made.right, made.calls[step]


@pytest.mark.parametrize(("allocator", "every"), [("pmq", 8), ("global", 14)])
def test_dead_at_steps_of_a_streamed_source_it_becomes_the_same(
    bench: Callable[..., Bench], allocator: str, every: int
) -> None:
    made = bench("--allocator", allocator, "--quantizer", "rtn", streamed=True)
    for step in range(0, len(made.calls), every):
        made.anew()
        assert made.run(die_at=step).code == KILLED
        if not made.is_done:
            made.finish()
        assert contents(made.out) == made.right, made.calls[step]


def test_dead_while_it_replaces_an_older_result(bench: Callable[..., Bench]) -> None:
    made = bench("--quantizer", "rtn")
    replacing = made.again("--restart")
    steps = range(len(replacing.calls))
    for step in (*steps[::12], *steps[-12:]):
        assert replacing.run(die_at=step).code == KILLED
        # At no moment is there neither the older nor the newer one, whole.
        folders = (made.out, made.out.with_name("out.old"), workspace.partial_folder(made.out))
        assert any(is_whole(folder) for folder in folders)
        if not made.is_done:
            made.finish()  # without --restart it goes on
        assert contents(made.out) == made.right, replacing.calls[step]


def is_whole(folder: Path) -> bool:
    try:
        verify_hashes(folder, open_manifest(folder))
    except McChatError:
        return False
    return True


def test_streams_may_lie_elsewhere_when_it_goes_on(bench: Callable[..., Bench]) -> None:
    made = bench()
    for first, then in (("host", "disk"), ("disk", "host"), ("disk", "device")):
        made.anew()
        middle = len(made.calls) * 2 // 3
        assert made.run(die_at=middle, placement=first).code == KILLED
        made.finish(placement=then)


# --- the disk is full -----------------------------------------------------------------------------


def test_full_at_any_write_it_says_so_and_goes_on(bench: Callable[..., Bench]) -> None:
    made = bench("--quantizer", "rtn")
    made.anew()
    calls = made.run(placement="disk").calls
    writes = [step for step, name in enumerate(calls) if name in ALLOCATING]
    for step in writes[::3]:
        made.anew()
        ending = made.run(full_at=step, placement="disk")
        assert ending.code == 1
        assert ending.event["kind"] == "DiskFullError", ending
        assert "no space left" in ending.event["message"]
        assert "again" in ending.event["message"]
        made.finish()


def test_a_file_that_may_not_be_that_large(bench: Callable[..., Bench]) -> None:
    made = bench("--quantizer", "rtn")
    sizes = sorted({len(content) for content in made.right.values()})
    for size in (sizes[-1] - 1, sizes[-2] - 1, 4000):
        for placement in ("host", "disk"):
            made.anew()
            ending = made.run(largest_file=size, placement=placement)
            assert ending.event["kind"] == "DiskFullError", ending
            assert "`ulimit -f`" in ending.event["message"]
            made.finish()


# --- something has changed in between -------------------------------------------------------------


@pytest.fixture
def job(place: Path, tmp_path: Path) -> CompressJob:
    shutil.copytree(place / NAME, tmp_path / "original")
    shutil.copy(place / "text.txt", tmp_path)
    return CompressJob(
        tmp_path / "original", tmp_path / "models" / "small", text=tmp_path / "text.txt",
        samples=2, window=32, group_size=64, bits=2.0, quantizer="rtn", device="cpu",
    )  # fmt: skip


def stop_at_second(progress: Progress) -> None:
    if (progress.stage, progress.layer) == ("quantize", 1):
        raise Interrupted("stop")


@pytest.fixture
def stopped(job: CompressJob) -> CompressJob:
    """The job, interrupted in its second layer."""
    with pytest.raises(Interrupted):
        compress(job, stop_at_second)
    return job


def test_a_truncated_shard_is_named(stopped: CompressJob) -> None:
    assert isinstance(stopped.source, Path)
    shard = stopped.source / SHARD
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    said = complaint(stopped, SourceError)
    assert SHARD in said
    assert "download it again" in said
    shard.write_bytes(content)
    assert is_whole(compress(stopped, quiet))


def test_an_altered_shard_is_another_source(stopped: CompressJob) -> None:
    assert isinstance(stopped.source, Path)
    shard = stopped.source / SHARD
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "another source" in complaint(stopped, UsageError)
    shard.write_bytes(content)
    assert is_whole(compress(stopped, quiet))


def test_another_text_is_refused(stopped: CompressJob) -> None:
    assert stopped.text is not None
    before = stopped.text.read_text()
    stopped.text.write_text("x" + before)
    assert "another calibration text" in complaint(stopped, UsageError)
    stopped.text.write_text(before)
    assert is_whole(compress(stopped, quiet))


@pytest.mark.parametrize("cut", [1, 40, -40])
def test_a_journal_cut_short_costs_a_layer(stopped: CompressJob, cut: int) -> None:
    """Cut in its last line, or, by the whole of that and most of the first, to nothing."""
    journal = workspace.partial_folder(stopped.out) / "journal.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(content[:-cut])
    right = contents(compress(replace(stopped, out=stopped.out.with_name("other")), quiet))
    made = contents(compress(stopped, quiet))
    del right["mc.json"], made["mc.json"]  # it has the name
    assert made == right


def test_a_journal_of_something_else_is_left_alone(job: CompressJob) -> None:
    partial = workspace.partial_folder(job.out)
    partial.mkdir(parents=True)
    for diary in ("Dear diary,\n", "[1, 2]\n"):
        (partial / "journal.jsonl").write_text(diary)
        assert "journal.jsonl is damaged: begin anew with --restart" in complaint(
            job, CheckpointError
        )
        assert (partial / "journal.jsonl").read_text() == diary


def test_a_journal_with_a_strange_line_is_damaged(stopped: CompressJob) -> None:
    with (workspace.partial_folder(stopped.out) / "journal.jsonl").open("a") as file:
        file.write('{"record": {"bits": 3}, "file": {}}\n')
    assert "damaged: begin anew with --restart" in complaint(stopped, CheckpointError)
    assert is_whole(compress(replace(stopped, restart=True), quiet))


@pytest.mark.parametrize("name", ["layer-00.safetensors", "compared-01.stream"])
def test_what_was_finished_and_is_damaged_is_named(stopped: CompressJob, name: str) -> None:
    path = workspace.partial_folder(stopped.out) / name
    path.write_bytes(path.read_bytes()[:-8])
    said = complaint(stopped, CheckpointError)
    assert str(path) in said
    assert "begin anew with --restart" in said
    path.unlink()
    assert str(path) in complaint(stopped, CheckpointError)
    assert is_whole(compress(replace(stopped, restart=True), quiet))


def test_kept_embeddings_that_are_damaged_are_named(stopped: CompressJob) -> None:
    (kept,) = workspace.partial_folder(stopped.out).glob("*embed*.kept")
    kept.write_bytes(kept.read_bytes()[:-8])
    assert str(kept) in complaint(stopped, CheckpointError)
    kept.unlink()  # it comes again
    assert is_whole(compress(stopped, quiet))


# --- somebody else is there -----------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_a_strangers_folder_is_never_taken_over(job: CompressJob, restart: bool) -> None:
    photos = workspace.partial_folder(job.out)
    photos.mkdir(parents=True)
    (photos / "holiday.jpg").write_bytes(b"sun")
    said = complaint(replace(job, restart=restart), UsageError)
    assert "is of no compression, it holds holiday.jpg: move it away" in said
    assert [path.name for path in photos.iterdir()] == ["holiday.jpg"]
    shutil.rmtree(photos)
    photos.write_bytes(b"a file")
    assert "is in the way" in complaint(replace(job, restart=restart), UsageError)


def test_two_runs_on_one_output_refuse_each_other(job: CompressJob) -> None:
    refused = []

    def second(progress: Progress) -> None:
        if progress.stage == "quantize" and not refused:
            refused.append(complaint(replace(job, restart=True), UsageError))

    assert is_whole(compress(job, second))
    assert f"another compression (process {os.getpid()}) is writing" in refused[0]
    assert "exists already" in complaint(job, UsageError)


def test_two_started_at_once_make_one(job: CompressJob) -> None:
    ends: list[str] = []

    def run() -> None:
        try:
            compress(job, quiet)
            ends.append("done")
        except UsageError as error:
            ends.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (refused,) = [end for end in ends if end != "done"]
    assert "another compression" in refused or "exists already" in refused
    assert is_whole(job.out)


def test_a_result_is_replaced_only_by_restart_and_at_the_end(stopped: CompressJob) -> None:
    first = contents(compress(stopped, quiet))
    assert "exists already" in complaint(replace(stopped, bits=3.0), UsageError)
    other = replace(stopped, bits=3.0, restart=True)
    with pytest.raises(Interrupted):
        compress(other, stop_at_second)
    assert contents(stopped.out) == first
    assert "repeat those" in complaint(stopped, UsageError)
    # It was to replace that very folder; another one that has come there since is not replaced.
    kept = stopped.out.rename(stopped.out.with_name("kept"))
    stopped.out.mkdir()
    assert "exists already" in complaint(replace(other, restart=False), UsageError)
    stopped.out.rmdir()
    kept.rename(stopped.out)
    assert open_manifest(compress(replace(other, restart=False), quiet)).nominal_bits == 3.0


# --- it may not be written ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
@pytest.mark.parametrize("name", ["mkdir", "fsync"])
def test_what_may_not_be_written_is_named(
    job: CompressJob, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    def refuse(path: object, *more: object) -> None:
        raise OSError(number, os.strerror(number), None if name == "fsync" else str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, refuse)
        said = complaint(job, UsageError)
    assert os.strerror(number) in said
    assert str(job.out.parent) in said
    assert is_whole(compress(job, quiet))


def test_a_place_under_a_file_is_none(job: CompressJob) -> None:
    assert job.text is not None
    said = complaint(replace(job, out=job.text / "small"), UsageError)
    assert os.strerror(errno.ENOTDIR) in said


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc here")
def test_a_place_that_takes_no_folders_is_none(job: CompressJob) -> None:
    said = complaint(replace(job, out=Path("/proc/small")), UsageError)
    assert "/proc" in said


def test_a_source_that_vanishes_is_named(job: CompressJob) -> None:
    def remove(progress: Progress) -> None:
        if (progress.stage, progress.layer) == ("quantize", 0):
            shutil.rmtree(job.source, ignore_errors=True)

    with pytest.raises(SourceError, match=r"cannot be read|missing") as caught:
        compress(job, remove)
    assert "\n" not in str(caught.value)


# --- what is told of all this ---------------------------------------------------------------------


def test_the_table_of_faults_names_tests_that_there_are() -> None:
    table = (REPOSITORY / "docs" / "faults.md").read_text()
    code = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", table))
    assert len(named) > 30
    assert [name for name in sorted(named) if f"def {name}(" not in code] == []
