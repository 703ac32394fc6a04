"""A Mixtral on a small hub becomes a checkpoint here, through a kill and a lost network."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.hub import c4
from compress.hub.connection import Patience
from compress.pipeline import CompressJob, compress
from compress.progress import Progress, decode
from engine.checkpoint import load_model
from engine.errors import NetworkError
from engine.manifest import open_manifest, verify_hashes
from tests.hub_for_tests import Hub, connect, environment, running_hub
from tests.unit.models_for_tests import save_tiny_mixtral
from tests.unit.tokenizers_for_tests import SPECIAL, byte_level

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "owner/tiny-mixtral"
LAYERS = 4
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "vocab_size": 320,
    "num_hidden_layers": LAYERS,
    "num_local_experts": 8,
    "initializer_range": 0.06,
}
OPTIONS: dict[str, Any] = {"bits": 2.0, "group_size": 64, "samples": 6, "window": 64}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def shard_as_published(folder: Path) -> None:
    """Lay the weights out as the published Mixtrals are: 16-bit, in the order of their use, a
    shard for one layer and two thirds of the next."""
    single = folder / "model.safetensors"
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(single).items()}
    single.unlink()

    def place(name: str) -> tuple[int, str]:
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        ends = {"model.embed_tokens.weight": -1, "model.norm.weight": LAYERS}
        return (int(layer[1]) if layer else ends.get(name, LAYERS), name)

    layer_bytes = sum(t.nbytes for name, t in tensors.items() if ".layers.0." in name)
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name in sorted(tensors, key=place):
        if sum(t.nbytes for t in shards[-1].values()) > 5 * layer_bytes / 3:
            shards.append({})
        shards[-1][name] = tensors[name]
    names = [
        f"model-{part:05d}-of-{len(shards):05d}.safetensors" for part, _ in enumerate(shards, 1)
    ]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name, {"format": "pt"})
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture
def hub(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a sharded Mixtral, 16-bit as the real one, and a shard of C4."""
    root = tmp_path / "hub"
    folder = root / NAME
    save_tiny_mixtral(folder, **SHAPE)
    shard_as_published(folder)
    byte_level().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(SPECIAL))
    (folder / "consolidated.00.pt").write_bytes(b"never read")
    text = (REPOSITORY / "engine" / "layout.py").read_text()
    documents = [json.dumps({"text": text[start:]}) for start in range(0, 1000, 100)]
    shard = root / "datasets" / c4.REPOSITORY / c4.FILE
    shard.parent.mkdir(parents=True)
    shard.write_bytes(gzip.compress("\n".join([*documents, ""]).encode(), mtime=0))
    monkeypatch.setattr(Patience, "limit", 0.3)
    monkeypatch.setattr(Patience, "first_delay", 0.02)
    with running_hub(root) as hub:
        connect(hub, monkeypatch, tmp_path)
        yield hub


def job(out: Path, **changes: Any) -> CompressJob:
    return CompressJob(NAME, out, **OPTIONS, **changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def shards_beside(out: Path) -> set[str]:
    partial = out.with_name(out.name + ".partial")
    return {path.name for path in partial.rglob("model-*.safetensors")}


def at_first_layer(action: Callable[[], None]) -> Callable[[Progress], None]:
    """A listener that acts once the layers begin."""

    def listener(progress: Progress) -> None:
        if progress.stage == "calibrate":
            action()

    return listener


def kill_at(layer: int, hub: Hub, out: Path, home: Path) -> None:
    """Run the job as a process of its own, and kill it in a layer."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    command = [sys.executable, "-m", "compress.job", NAME, "--out", str(out), *words]
    places = environment(hub, home) | {"MC_CHAT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env={**os.environ, **places}, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            step = decode(line)
            if isinstance(step, Progress) and (step.stage, step.layer) == ("quantize", layer):
                break
        os.kill(process.pid, signal.SIGKILL)


def test_killed_and_cut_off_the_result_is_that_of_an_undisturbed_run(
    hub: Hub, home: Path, tmp_path: Path
) -> None:
    undisturbed, out = tmp_path / "first" / "tiny", tmp_path / "second" / "tiny"
    most = [0]

    def watch(progress: Progress) -> None:
        most[0] = max(most[0], len(shards_beside(undisturbed)))

    compress(job(undisturbed), watch)
    assert most == [2]
    weights = sum(path.stat().st_size for path in (hub.folder / NAME).glob("*.safetensors"))

    hub.faults.bytes_per_second = 2_000_000  # the process waits for the network, and dies there
    kill_at(1, hub, out, home)
    hub.faults.bytes_per_second = None
    assert not out.exists()
    with pytest.raises(NetworkError, match="run the same command again to go on"):
        compress(job(out), at_first_layer(lambda: setattr(hub.faults, "reset", True)))
    assert not out.exists()
    hub.faults.reset = False
    hub.bytes_sent = 0
    compress(job(out), lambda progress: None)
    assert hub.bytes_sent < 2 * weights / 3

    assert contents(out) == contents(undisturbed)
    manifest = open_manifest(out)
    verify_hashes(out, manifest)
    assert manifest.source.repository == NAME
    assert manifest.source.revision == hub.revision(hub.folder / NAME)
    assert manifest.recipe.calibration.startswith("allenai/c4 en, first ")
    assert not hub.requested("consolidated.00.pt")
    assert not list(out.parent.glob("*.partial"))
    tokens = torch.randint(0, 300, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        original = load_model(hub.folder / NAME).forward(tokens)
        compressed = load_model(out).forward(tokens)
    assert (compressed - original).norm() < original.norm()


def test_a_kept_source_compresses_again_without_the_network(hub: Hub, tmp_path: Path) -> None:
    first, second = tmp_path / "one" / "tiny", tmp_path / "one" / "again"
    compress(job(first, keep_source=True), lambda progress: None)
    asked = len(hub.requests)
    hub.faults.reset = True
    compress(job(second, keep_source=True, offline=True, allocator="global"), lambda step: None)
    assert len(hub.requests) == asked
    open_manifest(second)
