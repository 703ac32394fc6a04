"""`mc-chat pull` and `publish` with the true huggingface_hub and a small hub on localhost."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from app import paths
from compress.hub.connection import Patience
from compress.hub.publish import publish
from compress.hub.pull import pull
from compress.progress import Transfer
from engine.checkpoint import load_model
from engine.errors import Interrupted
from engine.manifest import MANIFEST_NAME, open_manifest, verify_hashes
from tests.checkpoints_for_tests import write_tiny_checkpoint
from tests.commands_for_tests import Command, Result, failed
from tests.compressions_for_tests import contents
from tests.hub_for_tests import TOKEN, Hub, connect, environment, running_hub
from tests.waiting import wait_until

# What huggingface_hub's uploads say of themselves.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "owner/tiny-2bit"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(Patience, "limit", 0.5)
    monkeypatch.setattr(Patience, "first_delay", 0.02)
    with running_hub(tmp_path / "hub") as hub:
        connect(hub, monkeypatch, tmp_path)
        yield hub


@pytest.fixture
def remote(hub: Hub) -> Path:
    """A tiny compressed model on the hub."""
    folder = hub.folder / NAME
    write_tiny_checkpoint(folder)
    (folder / "README.md").write_text("a card")
    (folder / "evil.py").write_text("print('no')")
    return folder


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


# --- pull -----------------------------------------------------------------------------------------


def test_pull_installs_what_the_manifest_names(mc_chat: Command, hub: Hub, remote: Path) -> None:
    result = mc_chat("pull", NAME, "--json")
    assert result.code == 0
    folder = paths.models_dir() / "tiny-2bit"
    assert result.json["name"] == "tiny-2bit"
    assert result.json["folder"] == str(folder)
    expected = contents(remote)
    del expected["README.md"], expected["evil.py"]
    assert contents(folder) == expected
    assert not folder.with_name("tiny-2bit.partial").exists()
    assert not hub.requested("evil.py")
    verify_hashes(folder, open_manifest(folder))
    tokens = torch.tensor([[1, 5, 9]])
    assert torch.equal(load_model(folder).forward(tokens), load_model(remote).forward(tokens))
    failed(mc_chat("pull", NAME), 2, "exists already")


def test_pull_says_bytes_speed_and_what_it_does(hub: Hub, remote: Path, tmp_path: Path) -> None:
    heard: list[Transfer] = []
    pull(NAME, tmp_path / "out", heard.append)
    done = [transfer.done for transfer in heard]
    assert done == sorted(done)
    assert done[-1] == heard[-1].total
    assert any(transfer.message.startswith("downloading layer-00") for transfer in heard)
    assert any(transfer.message.startswith("verifying dense") for transfer in heard)


def test_pull_killed_goes_on_where_it_was(hub: Hub, remote: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "app.cli", "pull", NAME, "--out", str(out)]
    places = environment(hub, tmp_path) | {"MC_CHAT_HOME": str(tmp_path / "home")}
    settings = {**os.environ, **places}
    hub.faults.bytes_per_second = 400_000
    with subprocess.Popen(command, env=settings, cwd=REPOSITORY) as process:
        wait_until(lambda: hub.bytes_sent > 150_000)
        os.kill(process.pid, signal.SIGKILL)
    before = hub.bytes_sent
    hub.faults.bytes_per_second = None
    expected = contents(remote)
    del expected["README.md"], expected["evil.py"]
    total = sum(len(data) for data in expected.values())
    assert before < total
    assert not out.exists()
    done = subprocess.run(command, env=settings, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, f"pulling {NAME}\n")
    assert contents(out) == expected
    # Only what was on its way when the process died has to come again.
    assert hub.bytes_sent < total + 30_000
    assert any(request.range for request in hub.requests)


def test_pull_offline_makes_no_connection(mc_chat: Command, hub: Hub, remote: Path) -> None:
    failed(mc_chat("pull", NAME, "--offline"), 1, "not to be used")
    assert not hub.requests
    assert not list(paths.models_dir().glob("*"))


def test_pull_that_lost_the_network_goes_on_later(mc_chat: Command, hub: Hub, remote: Path) -> None:
    hub.faults.altered = {"dense.safetensors"}
    failed(mc_chat("pull", NAME), 1, "altered")
    hub.faults.altered = set()
    hub.faults.status = 503
    failed(mc_chat("pull", NAME), 1, "run the same command again to go on")
    hub.faults.status = None
    assert mc_chat("pull", NAME).code == 0
    assert len(hub.requested("layer-00.safetensors")) == 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: raw["files"].update({"../evil": raw["files"]["dense.safetensors"]}), "evil"),
        (lambda raw: raw["files"].update({"evil.py": raw["files"]["dense.safetensors"]}), "evil"),
        (lambda raw: raw["files"].pop("layer-01.safetensors"), "layer-01"),
        (lambda raw: raw["files"]["dense.safetensors"].update(sha256="0" * 64), "describes"),
        (lambda raw: raw["files"]["dense.safetensors"].update(bytes=3), "describes"),
        (lambda raw: raw.update(format_version=99), "format version 99"),
        (lambda raw: raw.pop("layers"), "damaged"),
    ],
)
def test_pull_refuses_manifests_that_it_cannot_trust(
    mc_chat: Command, hub: Hub, remote: Path, damage: Callable[[Any], Any], said: str
) -> None:
    raw = json.loads((remote / MANIFEST_NAME).read_text())
    damage(raw)
    (remote / MANIFEST_NAME).write_text(json.dumps(raw))
    failed(mc_chat("pull", NAME), 1, said)
    assert not hub.requested("dense.safetensors")
    assert not (paths.models_dir() / "tiny-2bit").exists()


def test_pull_of_an_original_says_what_to_do(mc_chat: Command, hub: Hub, remote: Path) -> None:
    (remote / MANIFEST_NAME).unlink()
    failed(mc_chat("pull", NAME), 1, f"mc-chat compress {NAME}")
    failed(mc_chat("pull", "owner/absent"), 1, "no repository owner/absent")
    failed(mc_chat("pull", "absent"), 2, "owner/name")


def test_pull_looks_at_the_disk_before_the_first_byte(
    mc_chat: Command, hub: Hub, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    failed(mc_chat("pull", NAME), 1, "1,000 are free")
    assert not hub.requested("dense.safetensors")


def test_two_pulls_of_one_model_refuse_each_other(mc_chat: Command, hub: Hub, remote: Path) -> None:
    second: list[Result] = []

    def listener(transfer: Transfer) -> None:
        if not second:
            second.append(mc_chat("pull", NAME))

    pull(NAME, paths.models_dir() / "tiny-2bit", listener)
    failed(second[0], 2, "another program is writing")
    assert mc_chat("info", "tiny-2bit").code == 0


# --- publish --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prunes", [False, True])
def test_published_and_pulled_is_the_same(
    mc_chat: Command, hub: Hub, tiny: Path, login: None, prunes: bool, tmp_path: Path
) -> None:
    if prunes:
        text = tmp_path / "text.txt"
        text.write_text("Some words to be surprised by, and others. " * 50)
        learning = ("prune", "tiny", "--text", text, "--samples", "4", "--window", "32")
        assert mc_chat(*learning).code == 0
    result = mc_chat("publish", "tiny", "me/new", "--json")
    assert result.code == 0, result.err
    assert result.json["url"] == f"{hub.url}/me/new"
    assert hub.created == {"me/new": False}
    assert mc_chat("pull", "me/new").code == 0
    assert contents(paths.models_dir() / "new") == contents(tiny)
    again = mc_chat("publish", "tiny", "me/new", "--json")
    assert again.json["uploaded"] == []
    assert len(hub.commits) == 1


def test_the_card_says_what_the_manifest_says(
    mc_chat: Command, hub: Hub, tiny: Path, login: None
) -> None:
    mc_chat("publish", "tiny", "me/new")
    card = (hub.folder / "me/new/README.md").read_text()
    _, front, text = card.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["base_model"] == "tests/tiny"
    assert facts["library_name"] == "mc-chat"
    assert "license" not in facts
    manifest = open_manifest(tiny)
    assert f"| bytes of the weights | {manifest.sizes.total_bytes:,} |" in text
    assert "mc-chat pull me/new\nmc-chat run new\n" in text
    assert "| 0 | 1 | 2 | 1 |" in text


def test_private_models_stay_private(mc_chat: Command, hub: Hub, tiny: Path, login: None) -> None:
    assert mc_chat("publish", "tiny", "me/secret", "--private").code == 0
    assert hub.created == {"me/secret": True}
    assert mc_chat("publish", "tiny", "me/open").code == 0
    before = len(hub.commits)
    failed(mc_chat("publish", "tiny", "me/open", "--private"), 1, "is public")
    assert len(hub.commits) == before


def test_an_interrupted_publishing_sends_only_what_is_missing(
    mc_chat: Command, hub: Hub, tiny: Path, login: None
) -> None:
    hub.faults.fail_upload_after = 1
    failed(mc_chat("publish", "tiny", "me/new"), 1, "me/new")
    assert not hub.commits
    hub.faults.fail_upload_after = None
    assert mc_chat("publish", "tiny", "me/new").code == 0
    sent = [request.path for request in hub.requests if request.method == "PUT"]
    weights = {path.name for path in tiny.glob("*.safetensors")}
    assert len(hub.objects) >= len(weights)
    assert len(sent) == len(hub.objects) + 1  # the refused one came twice
    assert weights <= set(hub.commits[0])


def test_bytes_are_told_within_a_file_and_it_can_be_stopped_there(
    hub: Hub, tiny: Path, login: None
) -> None:
    told: list[Transfer] = []
    name = "dense.safetensors"
    size = (tiny / name).stat().st_size

    def within(transfer: Transfer) -> int:
        """Bytes of the file that have been sent."""
        first = next(heard.done for heard in told if heard.name == name and heard.total)
        return transfer.done - first

    def stop_within(transfer: Transfer) -> None:
        told.append(transfer)
        if transfer.name == name and transfer.total and 0 < within(transfer) < size:
            raise Interrupted("enough")

    with pytest.raises(Interrupted, match="enough"):
        publish(tiny, "me/new", False, stop_within)
    assert not hub.commits
    assert (tiny / name).read_bytes() not in hub.objects.values()
    told.clear()
    publish(tiny, "me/new", False, told.append)
    sent = [within(transfer) for transfer in told if transfer.name == name and transfer.total]
    assert sent == sorted(sent)
    assert sent[-1] == size
    assert len(sent) > size // 2**17, "not in one piece"
    assert (hub.folder / "me/new" / name).read_bytes() == (tiny / name).read_bytes()


def test_publishing_needs_a_login_and_a_whole_model(
    mc_chat: Command, hub: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed(mc_chat("publish", "tiny", "me/new"), 1, "hf auth login")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    failed(mc_chat("publish", "tiny", "me/new"), 1, "hf auth login")
    asked = len(hub.requests)
    dense = tiny / "dense.safetensors"
    dense.write_bytes(dense.read_bytes()[:-1] + b"x")
    failed(mc_chat("publish", "tiny", "me/new"), 1, "altered")
    assert len(hub.requests) == asked
