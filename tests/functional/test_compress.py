"""Whole compressions of a tiny random Mixtral: results, resuming, refusing, stopping."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compress import workspace
from compress.allocation import LayerScores, allocate, plan_budget
from compress.allocator_names import ALLOCATOR_NAMES
from compress.evaluation import Scope, evaluate
from compress.pipeline import CompressJob, compress
from compress.progress import STAGES, Done, JobFailed, Progress, Started, decode
from compress.streams import StreamStore
from engine.checkpoint import load_model
from engine.errors import DiskFullError, Interrupted, McChatError, SourceError, UsageError
from engine.manifest import MANIFEST_NAME, open_manifest, verify_hashes
from tests.compressions_for_tests import contents, quiet
from tests.unit.models_for_tests import save_tiny_mixtral
from tests.unit.tokenizers_for_tests import SPECIAL, byte_level

REPOSITORY = Path(__file__).resolve().parents[2]
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "vocab_size": 320,
    "num_hidden_layers": 3,
    "num_local_experts": 8,
    "initializer_range": 0.06,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    save_tiny_mixtral(folder, **SHAPE)
    byte_level().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(SPECIAL))
    return folder


@pytest.fixture(scope="module")
def text(source: Path) -> Path:
    path = source.parent / "text.txt"
    path.write_text((REPOSITORY / "engine" / "layout.py").read_text() * 2)
    return path


@pytest.fixture
def job(source: Path, text: Path, tmp_path: Path) -> CompressJob:
    return CompressJob(
        source, tmp_path / "out", text=text, samples=6, window=64, group_size=64, bits=2.0
    )


def stop_at(stage: str, layer: int) -> Callable[[Progress], None]:
    """A listener that interrupts there."""

    def listener(progress: Progress) -> None:
        if (progress.stage, progress.layer) == (stage, layer):
            raise Interrupted("stop")

    return listener


def test_result_is_a_whole_checkpoint(job: CompressJob, source: Path) -> None:
    heard: list[Progress] = []
    out = compress(replace(job, allocator="pmq"), heard.append)
    manifest = open_manifest(out)
    verify_hashes(out, manifest)
    assert sorted(manifest.files) == sorted(set(contents(out)) - {MANIFEST_NAME})
    assert manifest.nominal_bits == 2.0
    assert manifest.recipe.calibration.startswith("text.txt")
    for record in manifest.layers:
        assert set(record.expert_bits) == {1, 2, 3}
        free = replace(plan_budget("pmq", 2.0, 8), forced=())
        assert record.unforced_bits == allocate("pmq", LayerScores.of(record), free)
        assert sum(record.frequency) == pytest.approx(1)
        assert 0 < record.odp_threshold < 1
        assert record.odp_quantile > 0
    tensors = [t for path in out.glob("*.safetensors") for t in load_file(path).values()]
    assert sum(t.nbytes for t in tensors) == manifest.sizes.total_bytes
    assert [progress.stage for progress in heard if progress.layer == 1] == sorted(
        (progress.stage for progress in heard if progress.layer == 1), key=STAGES.index
    )
    fractions = [progress.fraction for progress in heard]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert {progress.stage for progress in heard} == set(STAGES) - {"download"}
    assert not workspace.partial_folder(out).exists()


def test_more_bits_are_closer_to_the_original(job: CompressJob, source: Path) -> None:
    tokens = torch.randint(0, 300, (8, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = load_model(source).forward(tokens)
        errors = []
        for bits in (1, 2, 3):
            out = compress(replace(job, bits=bits, allocator="uniform", restart=True), quiet)
            errors.append(float((load_model(out).forward(tokens) - exact).norm() / exact.norm()))
    assert 1.0 > errors[0] > 1.1 * errors[1] > 1.1 * 1.1 * errors[2]


def test_same_command_same_bytes_resumed_or_not(job: CompressJob) -> None:
    whole = contents(compress(job, quiet))
    for stage, layer in (("score", 0), ("write", 1), ("verify", 2)):
        with pytest.raises(Interrupted):
            compress(replace(job, restart=True), stop_at(stage, layer))
        unfinished = workspace.partial_folder(job.out)
        # The finished result is kept until the new one is whole.
        assert contents(job.out) == whole
        (job.out.rename(job.out.with_name("kept")))
        journal = unfinished / "journal.jsonl"
        with journal.open("a") as file:
            file.write('{"record": {"exp')  # a crash in the middle of a line
        heard: list[Progress] = []
        assert contents(compress(job, heard.append)) == whole
        worked = {progress.layer for progress in heard if progress.stage == "quantize"}
        assert worked == set(range(layer + (stage == "verify"), 3))
        for path in job.out.with_name("kept").iterdir():
            path.unlink()
        job.out.with_name("kept").rmdir()


def test_unfinished_work_of_another_recipe_is_not_thrown_away(job: CompressJob) -> None:
    with pytest.raises(Interrupted):
        compress(job, stop_at("score", 1))
    with pytest.raises(UsageError, match="--restart"):
        compress(replace(job, bits=2.5), quiet)
    assert open_manifest(compress(replace(job, bits=2.5, restart=True), quiet)).nominal_bits == 2.5
    with pytest.raises(UsageError, match="exists already"):
        compress(job, quiet)


def test_two_jobs_never_write_one_output(job: CompressJob) -> None:
    def second(progress: Progress) -> None:
        if progress.stage == "score":
            with pytest.raises(UsageError, match=f"another compression .process {os.getpid()}"):
                compress(replace(job, restart=True), quiet)
            raise Interrupted("seen")

    with pytest.raises(Interrupted):
        compress(job, second)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"bits": 7}, UsageError, "between 1 and 4"),
        ({"bits": 2.5, "allocator": "uniform"}, McChatError, "uniform"),
        ({"allocator": "awq"}, UsageError, "pmq"),
        ({"allocator": "bsp"}, UsageError, "2.5"),
        ({"allocator": "pmq", "expert_bytes": 10**6}, UsageError, "global"),
        ({"allocator": "global", "expert_bytes": 10}, McChatError, "too few"),
        ({"allocator": "global", "quantizer": "hqq", "text": None}, UsageError, "text"),
        ({"device": "cuda:7"}, UsageError, "cuda:7"),
        ({"quantizer": "awq"}, UsageError, "gptq"),
        ({"error": "somewhere"}, UsageError, "block"),
        ({"group_size": 100}, UsageError, "--group-size"),
        ({"group_size": 128}, UsageError, "--group-size"),
        ({"text": None, "offline": True}, McChatError, "--text"),
        ({"samples": 10_000}, SourceError, "--samples"),
        ({"samples": 0}, UsageError, "--samples"),
        ({"window": 4096}, UsageError, "--window"),
        ({"source": Path("nowhere")}, SourceError, "nowhere"),
        ({"text": Path("nowhere.txt")}, SourceError, "nowhere.txt"),
    ],
)
def test_bad_requests_fail_at_once_in_one_line(
    job: CompressJob, changes: dict[str, Any], error: type[McChatError], message: str
) -> None:
    heard: list[Progress] = []
    with pytest.raises(error, match=message) as raised:
        compress(replace(job, **changes), heard.append)
    assert "\n" not in str(raised.value)
    assert {progress.stage for progress in heard} <= {"check"}
    assert not job.out.exists()
    assert not workspace.partial_folder(job.out).exists()


def test_no_disk_space_is_said_before_and_during(
    job: CompressJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    with monkeypatch.context() as patch:
        patch.setattr(workspace.shutil, "disk_usage", lambda path: Usage())
        with pytest.raises(DiskFullError, match=r"1,0\d\d are free"):
            compress(job, quiet)
    assert not job.out.exists()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(StreamStore, "commit", full)
        with pytest.raises(DiskFullError, match="run the same command again"):
            compress(job, quiet)
    assert open_manifest(compress(job, quiet)).nominal_bits == 2.0


@pytest.mark.parametrize("allocator", ALLOCATOR_NAMES)
def test_every_allocator_and_quantizer_runs(job: CompressJob, allocator: str) -> None:
    names = {"random": "rtn", "uniform": "minmax", "fnorm": "hqq", "pmq": "refined"}
    changed = replace(job, allocator=allocator, quantizer=names.get(allocator, "gptq"))
    if allocator == "bsp":
        changed = replace(changed, bits=2.5)
    manifest = open_manifest(compress(changed, quiet))
    mean = {"bsp": 8 / 3, "global": pytest.approx(2.0, abs=0.1)}
    assert manifest.nominal_bits == mean.get(allocator, 2.0)
    assert (manifest.recipe.allocator, manifest.recipe.quantizer) == (
        allocator,
        changed.quantizer,
    )


def test_a_quick_build_reads_no_text(job: CompressJob) -> None:
    quick = replace(job, quantizer="hqq", text=None, offline=True, bits=2.5)
    manifest = open_manifest(compress(quick, quiet))
    assert manifest.nominal_bits == 2.5
    assert (manifest.recipe.calibration, manifest.recipe.samples) == ("none", 0)
    assert any("ODP skips nothing" in note for note in manifest.recipe.notes)
    assert {record.odp_threshold for record in manifest.layers} == {0.0}
    evaluated = evaluate(job.out, Scope(job.text, window=64, pruning="odp"))
    assert evaluated.prune_ratio == 0.0


def test_errors_on_the_models_output_cost_a_second_pass(job: CompressJob) -> None:
    block = open_manifest(compress(job, quiet))
    model = open_manifest(compress(replace(job, error="model", restart=True), quiet))
    assert (block.recipe.error, model.recipe.error) == ("block", "model")
    for one, other in zip(block.layers, model.layers, strict=True):
        assert one.frequency == other.frequency
        assert one.errors != other.errors


def test_the_global_program_keeps_to_its_bytes(job: CompressJob) -> None:
    whole = replace(job, allocator="global", quantizer="rtn")
    free = open_manifest(compress(whole, quiet)).sizes
    spent = free.expert_code_bytes + free.expert_metadata_bytes
    given = spent - 5000
    less = open_manifest(compress(replace(whole, expert_bytes=given, restart=True), quiet)).sizes
    assert given - 5000 < less.expert_code_bytes + less.expert_metadata_bytes <= given


def test_rounded_budget_is_written_down(job: CompressJob) -> None:
    manifest = open_manifest(compress(replace(job, bits=1.3, allocator="pmq"), quiet))
    assert manifest.nominal_bits == 1.25
    assert len(manifest.recipe.notes) == 2
    assert "rounded to 1.25" in manifest.recipe.notes[0]
    assert "dropped" in manifest.recipe.notes[1]


def test_scores_of_an_earlier_run_give_the_same_result(job: CompressJob) -> None:
    first = compress(job, quiet)
    scores = [LayerScores.of(record) for record in open_manifest(first).layers]
    again = compress(replace(job, out=job.out.with_name("again")), quiet, scores)
    names = [name for name in contents(first) if name != MANIFEST_NAME]
    assert all(contents(first)[name] == contents(again)[name] for name in names)


def test_evaluation_reads_compressed_and_original(job: CompressJob, source: Path) -> None:
    assert job.text is not None
    out = compress(job, quiet)
    scope = Scope(job.text, window=64)
    original = evaluate(source, scope)
    small = evaluate(out, scope)
    pruned = evaluate(out, replace(scope, pruning="odp"))
    assert original.tokens == small.tokens == pruned.tokens
    assert original.prune_ratio == small.prune_ratio == 0.0
    assert 0.1 < pruned.prune_ratio < 0.4
    with pytest.raises(UsageError, match="off"):
        evaluate(source, Scope(job.text, pruning="odp"))


def command(job: CompressJob) -> list[str]:
    return [
        *(sys.executable, "-m", "compress.job", str(job.source), "--out", str(job.out)),
        *("--text", str(job.text), "--samples", "6", "--window", "64"),
        *("--group-size", "64", "--bits", "2"),
    ]


def test_job_prints_progress_lines(job: CompressJob) -> None:
    done = subprocess.run(command(job), cwd=REPOSITORY, capture_output=True, text=True, check=True)
    events = [decode(line) for line in done.stdout.splitlines()]
    assert isinstance(events[0], Started)
    assert all(isinstance(event, Progress) for event in events[1:-1])
    assert events[-1] == Done(str(job.out))
    failed = subprocess.run([*command(job), "--bits", "7"], cwd=REPOSITORY, capture_output=True)
    assert failed.returncode == 2
    (event,) = (decode(line) for line in failed.stdout.decode().splitlines()[-1:])
    assert isinstance(event, JobFailed)
    assert event.kind == "UsageError"
    assert failed.stderr == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_it_cleanly(job: CompressJob, number: signal.Signals) -> None:
    with subprocess.Popen(command(job), cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = decode(line.decode())
            if isinstance(event, Progress) and event.stage == "quantize":
                os.kill(process.pid, number)
                break
        rest = [decode(line.decode()) for line in process.stdout]
    assert process.returncode == 130
    assert isinstance(rest[-1], JobFailed)
    assert rest[-1].kind == "Interrupted"
    assert not job.out.exists()
    assert open_manifest(compress(job, quiet)).nominal_bits == 2.0
