"""Whole compressions of a small checkpoint in the true layout, streamed from a hub on localhost."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import load_file, save_file

from benchmarks.random_original import write_random_original
from compress import projection, workspace
from compress.hub.connection import Patience
from compress.pipeline import CompressJob, compress
from compress.progress import Done, JobFailed, Progress, decode
from compress.quantizer_names import DEFAULT_QUANTIZER
from engine.config import MIXTRAL_8X7B, ModelConfig
from engine.errors import (
    DiskFullError,
    HubError,
    Interrupted,
    McChatError,
    NetworkError,
    SourceError,
)
from engine.manifest import MANIFEST_NAME, open_manifest, verify_hashes
from engine.original import INDEX_FILE
from tests.compressions_for_tests import complaint, contents, quiet
from tests.hub_for_tests import Hub, connect, environment, running_hub
from tests.unit.tokenizers_for_tests import be_another

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "owner/mixtral"
SHARDS = 5
PATIENCE_SECONDS = 60.0

BASE: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mixtral",
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.36.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
"""The config.json of mistralai/Mixtral-8x7B-v0.1, all its keys."""

LARGE = BASE | {
    "hidden_size": 6144,
    "intermediate_size": 16384,
    "max_position_embeddings": 65536,
    "num_attention_heads": 48,
    "num_hidden_layers": 56,
    "router_aux_loss_coef": 0.001,
    "router_jitter_noise": 0.0,
    "transformers_version": "4.40.0.dev0",
    "vocab_size": 32768,
}
"""The same of Mixtral-8x22B-Instruct-v0.1."""

SMALL = BASE | {
    "hidden_size": 128,
    "intermediate_size": 256,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "vocab_size": 2048,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hub's folder, with the original in it."""
    root = tmp_path_factory.mktemp("hub")
    write_random_original(root / NAME, ModelConfig.from_dict(SMALL), shard_bytes=1_700_000)
    (root / NAME / "config.json").write_text(json.dumps(SMALL, indent=2))
    be_another(root / NAME)
    weight_map = json.loads((root / NAME / INDEX_FILE).read_text())["weight_map"]
    assert len(set(weight_map.values())) == SHARDS
    second = {shard for name, shard in weight_map.items() if name.startswith("model.layers.1.")}
    assert len(second) == 2  # one of the layers that lie on two
    return root


@pytest.fixture
def hub(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(Patience, "limit", 0.3)
    monkeypatch.setattr(Patience, "first_delay", 0.02)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with running_hub(root) as hub:
        connect(hub, monkeypatch, tmp_path)
        yield hub


@pytest.fixture(scope="module")
def text(root: Path) -> Path:
    path = root.parent / "text.txt"
    path.write_text((REPOSITORY / "engine" / "layout.py").read_text())
    return path


@pytest.fixture
def job(text: Path, tmp_path: Path) -> CompressJob:
    """A quick one, from the hub, in one pass."""
    return CompressJob(
        NAME, tmp_path / "models" / "small", text=text, samples=4, window=64, bits=2.0,
        allocator="pmq", quantizer="rtn", device="cpu",
    )  # fmt: skip


def left_behind(job: CompressJob) -> list[str]:
    return sorted(path.name for path in job.out.parent.glob("*"))


def shards_asked_for(hub: Hub) -> list[str]:
    names = [request.path.rsplit("/", 1)[-1] for request in hub.requests]
    return [name for name in names if name.endswith(".safetensors")]


@contextmanager
def watched(measure: Callable[[], int]) -> Iterator[list[int]]:
    """What is measured, again and again all the time; raises what measuring raised."""
    found, over = [0], threading.Event()

    def look() -> None:
        while not over.is_set():
            found.append(measure())
            time.sleep(0.001)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(look)
        try:
            yield found
        finally:
            over.set()
        watching.result()


def shards_counted(folder: Path) -> AbstractContextManager[list[int]]:
    """How many shards, half ones included, are in a folder."""

    def count() -> int:
        names = {p.name.split(".safetensors")[0] for p in folder.glob("*.safetensors*")}
        return len(names - {"model"})  # that is the index

    return watched(count)


def bytes_in(folder: Path) -> int:
    """Of all files, those that go the while left out, and folders."""
    total = 0
    with suppress(FileNotFoundError):
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):
                total += path.stat().st_size if path.is_file() else 0
    return total


# --- from the first byte to a reply ---------------------------------------------------------------


def start(job: CompressJob, hub: Hub, home: Path) -> "subprocess.Popen[str]":
    words = [str(job.source), "--out", str(job.out), "--text", str(job.text), "--bits", "2"]
    words += ["--samples", "4", "--window", "64", "--device", "cpu"]
    if job.allocator:
        words += ["--allocator", job.allocator]
    return subprocess.Popen(
        [sys.executable, "-m", "compress.job", *words],
        cwd=REPOSITORY,
        env=os.environ | environment(hub, home),
        stdout=subprocess.PIPE,
        text=True,
    )


def test_killed_and_cut_off_it_becomes_what_it_would_have_become(
    hub: Hub, job: CompressJob, tmp_path: Path
) -> None:
    job = replace(job, quantizer=DEFAULT_QUANTIZER)
    straight = compress(replace(job, out=tmp_path / "straight" / "small"), quiet)
    streaming = workspace.partial_folder(job.out) / workspace.SOURCE_FOLDER
    with shards_counted(streaming) as counts:
        killed = start(job, hub, tmp_path)
        assert killed.stdout is not None
        for line in killed.stdout:
            event = decode(line)
            if isinstance(event, Progress) and (event.stage, event.layer) == ("quantize", 1):
                killed.kill()
        assert killed.wait(PATIENCE_SECONDS) < 0

        hub.faults.reset = True  # and now nobody answers
        said = complaint(job, NetworkError)
        assert "run the same command again to go on" in said
        assert not job.out.exists()

        hub.faults.reset = False
        hub.faults.cut_after, hub.faults.cuts = 300_000, 2
        hub.requests.clear()
        finished = start(job, hub, tmp_path)
        told, _ = finished.communicate(timeout=PATIENCE_SECONDS)
    events = [decode(line) for line in told.splitlines()]
    assert events[-1] == Done(str(job.out))
    assert hub.faults.cuts == 0
    worked = {event.layer for event in events if getattr(event, "stage", "") == "quantize"}
    assert 0 not in worked
    assert 3 in worked
    asked = shards_asked_for(hub)
    assert "model-00001-of-00005.safetensors" not in asked
    assert len(asked) <= SHARDS - 1 + 2, "more came again than what was cut"
    assert any(request.range for request in hub.requests), "every download began anew"
    assert max(counts) == 2
    assert contents(job.out) == contents(straight)

    assert mc_chat("verify", job.out)["name"] == "small"
    assert mc_chat("run", job.out, "Hello", "--max-tokens", "4")["tokens"] >= 1


def mc_chat(*words: str | Path) -> Any:
    """What a command prints as JSON."""
    command = [sys.executable, "-m", "app.cli", *map(str, words), "--json"]
    done = subprocess.run(
        command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_folder_gives_the_same_but_for_its_name(
    hub: Hub, job: CompressJob, root: Path, tmp_path: Path
) -> None:
    streamed = contents(compress(job, quiet))
    local = contents(compress(replace(job, source=root / NAME, out=tmp_path / "small"), quiet))
    by_hub = json.loads(streamed.pop(MANIFEST_NAME))
    by_folder = json.loads(local.pop(MANIFEST_NAME))
    assert streamed == local
    revision = hub.revision(root / NAME)
    assert by_hub.pop("source") == by_folder.pop("source") | {
        "repository": NAME,
        "revision": revision,
    }
    assert by_hub == by_folder


def test_what_is_in_the_hubs_cache_is_not_downloaded(hub: Hub, job: CompressJob) -> None:
    streamed = contents(compress(job, quiet))
    for path in (hub.folder / NAME).iterdir():
        cached = Path(hf_hub_download(NAME, path.name)).parent
    hub.requests.clear()
    for offline in (False, True):
        again = replace(job, offline=offline, restart=True)
        assert contents(compress(again, quiet)) == streamed
    assert hub.requests == []
    # One shard less, and it is a repository like any other.
    next(cached.glob("model-00003*")).unlink()
    compress(replace(job, restart=True), quiet)
    assert len(shards_asked_for(hub)) == SHARDS


# --- two passes -----------------------------------------------------------------------------------


class Watcher:
    """Notes, with each message, how many requests for shards the hub has had."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.heard: list[tuple[str, str, int]] = []

    def __call__(self, progress: Progress) -> None:
        self.heard.append((progress.stage, progress.message, len(shards_asked_for(self._hub))))

    def announced(self) -> str:
        (found,) = [heard for heard in self.heard if "passes over the source" in heard[1]]
        stage, message, shards = found
        assert (stage, shards) == ("check", 0)
        return message


@pytest.fixture
def twice(job: CompressJob) -> CompressJob:
    """One as new builds are made: in two passes."""
    return replace(job, allocator=None)


def weights(hub: Hub) -> projection.Download:
    sizes = [path.stat().st_size for path in (hub.folder / NAME).glob("*.safetensors")]
    return projection.Download(sum(sizes), max(sizes))


def disk(job: CompressJob, hub: Hub, stay: projection.Stay) -> int:
    """What is predicted of a job."""
    config = ModelConfig.from_dict(SMALL)
    experts = projection.expert_bytes(config, job.bits, job.group_size, rotated=False)
    return projection.disk_bytes(config, experts, job.group_size, 4 * 64, weights(hub), stay)


def have_free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(workspace.shutil, "disk_usage", lambda path: SimpleNamespace(free=count))


def test_two_passes_download_once_where_the_disk_has_room(
    hub: Hub, twice: CompressJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, needed = Watcher(hub), disk(twice, hub, "held")
    have_free(monkeypatch, -(-needed * 10 // 9))
    partial = workspace.partial_folder(twice.out)
    with watched(lambda: bytes_in(partial)) as used:
        compress(twice, watcher)
    assert watcher.announced().startswith("needs 2 passes over the source: downloads it once")
    assert len(shards_asked_for(hub)) == SHARDS
    assert 0.8 * needed < max(used) <= needed


def test_without_room_two_passes_download_twice_and_say_so_first(
    hub: Hub, twice: CompressJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = contents(compress(replace(twice, out=twice.out.with_name("usual")), quiet))
    hub.requests.clear()
    watcher = Watcher(hub)
    have_free(monkeypatch, disk(twice, hub, "streamed"))
    with shards_counted(workspace.partial_folder(twice.out) / workspace.SOURCE_FOLDER) as counts:
        made = contents(compress(twice, watcher))
    said = watcher.announced()
    assert said.startswith("needs 2 passes over the source: downloads it twice")
    assert "(0.0 GB more would do)" in said
    assert "hours more at 100 Mbit/s" in said
    asked = Counter(shards_asked_for(hub))
    assert len(asked) == SHARDS
    assert min(asked.values()) >= 2  # more where a busy machine lets a connection time out
    assert max(counts) == 2
    assert {name: made[name] for name in made if name != MANIFEST_NAME} == {
        name: usual[name] for name in usual if name != MANIFEST_NAME
    }


def test_held_shards_serve_a_run_that_goes_on(hub: Hub, twice: CompressJob) -> None:
    straight = contents(compress(twice, quiet))
    shutil.rmtree(twice.out)
    hub.requests.clear()
    for stage, layer in (("score", 3), ("quantize", 1), ("quantize", 3)):

        def stop(progress: Progress, at: tuple[str, int] = (stage, layer)) -> None:
            if (progress.stage, progress.layer) == at:
                raise Interrupted("stop")

        with pytest.raises(Interrupted):
            compress(twice, stop)
    assert contents(compress(twice, quiet)) == straight
    assert sorted(shards_asked_for(hub)) == sorted(set(shards_asked_for(hub)))


def test_what_is_left_behind_all_layers_brings_one_shard_at_most(
    hub: Hub, twice: CompressJob
) -> None:
    def stop(progress: Progress) -> None:
        if "outside the layers" in progress.message:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        compress(twice, stop)
    hub.requests.clear()
    compress(twice, quiet)
    assert len(shards_asked_for(hub)) <= 1


def test_what_was_held_goes_where_there_is_no_room_any_more(
    hub: Hub, twice: CompressJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(progress: Progress) -> None:
        if (progress.stage, progress.layer) == ("quantize", 1):
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        compress(twice, stop)
    streaming = workspace.partial_folder(twice.out) / workspace.SOURCE_FOLDER
    assert len(list(streaming.glob("*.safetensors"))) == SHARDS - 1
    have_free(monkeypatch, 0)
    with shards_counted(streaming) as counts:
        compress(twice, quiet)
    late = counts[-(len(counts) // 2) :]
    assert max(late) <= 2


def test_a_head_in_the_first_shard_is_kept_when_that_goes(hub: Hub, job: CompressJob) -> None:
    usual = contents(compress(replace(job, out=job.out.with_name("usual")), quiet))
    folder = hub.folder / "owner" / "head"
    shutil.copytree(hub.folder / NAME, folder)
    first, last = (f"model-0000{part}-of-00005.safetensors" for part in (1, 5))
    tensors = load_file(folder / last)
    head = tensors.pop("lm_head.weight")
    save_file(tensors, folder / last)
    save_file(load_file(folder / first) | {"lm_head.weight": head}, folder / first)
    index = json.loads((folder / INDEX_FILE).read_text())
    index["weight_map"]["lm_head.weight"] = first
    (folder / INDEX_FILE).write_text(json.dumps(index))
    hub.requests.clear()
    with shards_counted(workspace.partial_folder(job.out) / workspace.SOURCE_FOLDER) as counts:
        made = contents(compress(replace(job, source="owner/head"), quiet))
    assert max(counts) == 2
    assert len(shards_asked_for(hub)) == SHARDS
    for name in set(made) - {MANIFEST_NAME}:
        assert made[name] == usual[name]


def test_a_kept_source_serves_both_passes_and_later_ones(
    hub: Hub, job: CompressJob, root: Path
) -> None:
    watcher = Watcher(hub)
    whole = compress(replace(job, allocator="global", keep_source=True), watcher)
    assert "passes over the source: downloads it once and keeps it" in watcher.announced()
    assert len(shards_asked_for(hub)) == SHARDS
    kept = job.out.parent / "owner--mixtral.source"
    for path in (root / NAME).iterdir():
        assert (kept / path.name).read_bytes() == path.read_bytes()

    hub.requests.clear()
    again = replace(job, out=job.out.with_name("again"), keep_source=True, offline=True)
    compress(replace(again, allocator="global"), quiet)
    assert hub.requests == []
    folder = replace(again, source=kept, out=job.out.with_name("folder"), allocator="global")
    layers = contents(compress(folder, quiet))
    assert layers["layer-00.safetensors"] == contents(whole)["layer-00.safetensors"]


def test_errors_of_the_model_keep_to_two_shards(
    hub: Hub, job: CompressJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher(hub)
    have_free(monkeypatch, weights(hub).total)
    with shards_counted(workspace.partial_folder(job.out) / workspace.SOURCE_FOLDER) as counts:
        compress(replace(job, error="model", samples=1), watcher)
    assert "needs 3 passes over the source: downloads it 3 times" in watcher.announced()
    assert max(counts) == 2


def test_a_quick_build_reads_every_shard_once(hub: Hub, job: CompressJob) -> None:
    with shards_counted(workspace.partial_folder(job.out) / workspace.SOURCE_FOLDER) as counts:
        compress(replace(job, quantizer="hqq", text=None), quiet)
    assert len(shards_asked_for(hub)) == SHARDS
    assert max(counts) == 2


# --- refused, and nothing left --------------------------------------------------------------------


def test_the_whole_job_must_fit_before_the_first_byte(
    hub: Hub, job: CompressJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [path.stat().st_size for path in (hub.folder / NAME).glob("*.safetensors")]
    for keep, source in ((False, 2 * max(sizes)), (True, sum(sizes))):

        class Usage:
            free = source + 500_000  # the result alone takes more

        with monkeypatch.context() as patch:
            patch.setattr(workspace.shutil, "disk_usage", lambda path: Usage())
            said = complaint(replace(job, keep_source=keep), DiskFullError)
        assert "are free: make room" in said
        assert shards_asked_for(hub) == []
        assert left_behind(job) in ([], ["owner--mixtral.source"])


def test_what_is_kept_already_needs_no_room_again(
    hub: Hub, job: CompressJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(progress: Progress) -> None:
        if (progress.stage, progress.layer) == ("quantize", 3):
            raise Interrupted("stop")

    kept = replace(job, keep_source=True)
    with pytest.raises(Interrupted):
        compress(kept, stop)
    total = sum(path.stat().st_size for path in (hub.folder / NAME).glob("*.safetensors"))

    class Usage:
        free = total

    monkeypatch.setattr(workspace.shutil, "disk_usage", lambda path: Usage())
    assert compress(kept, quiet) == job.out


def test_offline_makes_no_connection(
    hub: Hub, job: CompressJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--offline or HF_HUB_OFFLINE" in complaint(replace(job, offline=True), NetworkError)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "--offline or HF_HUB_OFFLINE" in complaint(job, NetworkError)
    assert hub.requests == []
    assert left_behind(job) == []


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("missing", HubError, "no repository owner/absent that you may see"),
        ("gated", HubError, "is gated: accept its licence"),
        ("pickled", SourceError, "holds only pickled weights"),
        ("empty", SourceError, "holds no safetensors weights"),
        ("llama", SourceError, "the architecture LlamaForCausalLM is not supported"),
        ("torn", SourceError, "damaged"),
        ("partly", SourceError, "has no tensor lm_head.weight"),
    ],
)
def test_what_is_no_mixtral_is_refused_in_one_line(
    hub: Hub, job: CompressJob, fault: str, kind: type[McChatError], said: str, keep: bool
) -> None:
    name = "owner/absent" if fault == "missing" else f"owner/{fault}"
    folder = hub.folder / name
    if fault != "missing":
        shutil.copytree(hub.folder / NAME, folder, dirs_exist_ok=True)
    if fault == "gated":
        hub.faults.gated.add(name)
    if fault in ("pickled", "empty"):
        for path in (*folder.glob("*.safetensors"), folder / INDEX_FILE):
            path.unlink()
    if fault == "pickled":
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    if fault == "llama":
        other = SMALL | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        (folder / "config.json").write_text(json.dumps(other))
    if fault == "torn":
        (folder / INDEX_FILE).write_text('{"weight_map": ')
    if fault == "partly":
        index = json.loads((folder / INDEX_FILE).read_text())
        del index["weight_map"]["lm_head.weight"]
        (folder / INDEX_FILE).write_text(json.dumps(index))
    assert said in complaint(replace(job, source=name, keep_source=keep), kind)
    assert left_behind(job) == []
    assert shards_asked_for(hub) == []
    if folder.exists():
        shutil.rmtree(folder)


def test_an_altered_shard_stops_it_cleanly(hub: Hub, job: CompressJob) -> None:
    name = "model-00003-of-00005.safetensors"
    hub.faults.altered.add(name)
    assert f"{name} of {NAME} arrived altered twice" in complaint(job, HubError)
    hub.faults.altered.clear()
    verify_hashes(compress(job, quiet), open_manifest(job.out))


def test_a_failed_job_says_so_on_its_last_line(hub: Hub, job: CompressJob, tmp_path: Path) -> None:
    process = start(replace(job, source="owner/absent"), hub, tmp_path)
    told, _ = process.communicate(timeout=PATIENCE_SECONDS)
    event = decode(told.splitlines()[-1])
    assert isinstance(event, JobFailed)
    assert (process.returncode, event.kind) == (1, "HubError")
    assert left_behind(job) == []


# --- every Mixtral --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_floats_are_read_too(
    job: CompressJob, root: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    bfloat16 = compress(replace(job, source=root / NAME, out=tmp_path / "bf16"), quiet)
    folder = tmp_path / "other"
    shutil.copytree(root / NAME, folder)
    for path in folder.glob("*.safetensors"):
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    out = compress(replace(job, source=folder, out=tmp_path / "small"), quiet)
    for path in out.glob("layer-*.safetensors"):
        ours, theirs = load_file(path), load_file(bfloat16 / path.name)
        assert torch.equal(ours["attention.q.codes"], theirs["attention.q.codes"])
    assert load_file(out / "dense.safetensors")["embed.weight"].dtype == torch.float16


@pytest.mark.parametrize(
    ("changes", "weights", "head_dim"),
    [
        (BASE, 46.7e9, 128),
        (BASE | {"transformers_version": "4.36.0.dev0", "torch_dtype": "float16"}, 46.7e9, 128),
        (LARGE, 140.6e9, 128),
        (LARGE | {"vocab_size": 32000, "num_key_value_heads": 8}, 140.6e9, 128),
        (BASE | {"head_dim": 128, "sliding_window": 4096, "eos_token_id": [2, 3]}, 46.7e9, 128),
    ],
)
def test_the_configurations_of_the_real_ones_are_understood(
    changes: dict[str, Any], weights: float, head_dim: int
) -> None:
    config = ModelConfig.from_dict(changes)
    assert config.total_weights == pytest.approx(weights, rel=2e-3)
    assert (config.head_dim, config.rope_theta, config.tie_embeddings) == (head_dim, 1e6, False)
    assert config.sliding_window == changes["sliding_window"]
    assert config.vocab_size == changes["vocab_size"]


def test_the_built_in_shape_is_the_real_ones() -> None:
    assert ModelConfig.from_dict(BASE) == MIXTRAL_8X7B
