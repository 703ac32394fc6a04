"""The true huggingface_hub against a small hub on localhost that can also fail."""

import hashlib
import itertools
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from compress.hub import (
    HubFile,
    HubRepository,
    HubShards,
    download,
    fetch_config,
    held_bytes,
    list_repository,
    open_repository,
)
from compress.hub.connection import TIMEOUT, Patience
from compress.progress import Transfer
from engine.errors import DiskFullError, HubError, Interrupted, McChatError, NetworkError
from tests.hub_for_tests import TOKEN, Hub, connect, running_hub
from tests.waiting import wait_until

NAME = "owner/model"
SHARDS = tuple(f"model-{part:05d}-of-00004.safetensors" for part in range(1, 5))
SIZE = 200_000


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one repository of four shards and a configuration."""
    root = tmp_path / "hub" / NAME
    root.mkdir(parents=True)
    for number, shard in enumerate(SHARDS):
        (root / shard).write_bytes(random.Random(number).randbytes(SIZE))
    (root / "config.json").write_text('{"architectures": ["MixtralForCausalLM"]}')
    monkeypatch.setattr(Patience, "limit", 0.5)
    monkeypatch.setattr(Patience, "first_delay", 0.02)
    with running_hub(tmp_path / "hub") as hub:
        connect(hub, monkeypatch, tmp_path)
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "downloads"


def quiet(done: object) -> None:
    """Nobody listens."""


def original(hub: Hub, name: str) -> bytes:
    return (hub.folder / NAME / name).read_bytes()


def fetch_one(folder: Path, name: str = SHARDS[0]) -> Path:
    repository = list_repository(NAME)
    return download(repository, repository.file(name), folder, quiet)


def refusal(action: Callable[[], object], kind: type[McChatError]) -> str:
    """The one line of the exception."""
    with pytest.raises(kind) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert type(caught.value) is kind
    return message


# --- listing --------------------------------------------------------------------------------------


def test_a_listing_has_the_commit_the_sizes_and_the_hashes(hub: Hub) -> None:
    listing = list_repository(NAME)
    assert listing.revision == hub.revision(hub.folder / NAME)
    shard = listing.file(SHARDS[0])
    assert shard.size == SIZE
    assert shard.sha256 == hashlib.sha256(original(hub, SHARDS[0])).hexdigest()
    config = listing.file("config.json")
    assert (config.sha256, config.size) == (None, len(original(hub, "config.json")))
    assert config.git_sha1
    assert refusal(lambda: listing.file("nothing"), HubError).startswith(f"{NAME} has no nothing")


def test_the_hub_learns_nothing_but_what_is_asked_for(hub: Hub, folder: Path) -> None:
    fetch_one(folder)
    paths = [request.path for request in hub.requests]
    assert paths == [
        f"/api/models/{NAME}",
        f"/{NAME}/resolve/{list_repository(NAME).revision}/{SHARDS[0]}",
    ]
    assert not any("torch" in request.user_agent for request in hub.requests)


def test_a_job_keeps_its_commit_when_the_hub_moves_on(hub: Hub, folder: Path) -> None:
    first = open_repository(NAME, folder)
    (hub.folder / NAME / "config.json").write_text("{}")
    assert open_repository(NAME, folder) == first
    assert list_repository(NAME).revision != first.revision
    assert open_repository(NAME, folder, list_repository(NAME).revision) != first


@pytest.mark.parametrize(
    ("token", "gated", "private", "name", "said"),
    [
        (None, False, False, "owner/absent", "no repository owner/absent"),
        (None, False, True, NAME, "log in with `hf auth login`"),
        ("hf_wrong", False, False, NAME, "no valid token of yours"),
        (TOKEN, True, False, NAME, f"accept its licence at {{url}}/{NAME}"),
        (None, False, False, "no name", "write it like owner/name"),
    ],
)
def test_refusals_say_what_to_do(
    hub: Hub,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    gated: bool,
    private: bool,
    name: str,
    said: str,
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    if gated:
        hub.faults.gated.add(name)
    if private:
        hub.faults.private.add(name)

    def fetch() -> None:
        repository = list_repository(name)
        download(repository, repository.files[0], folder, quiet)

    message = refusal(fetch, HubError)
    assert said.format(url=hub.url) in message
    assert token is None or token not in message


def test_a_token_opens_a_private_repository(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults.private.add(NAME)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch_one(folder).read_bytes() == original(hub, SHARDS[0])


def test_unknown_revisions_are_named(hub: Hub) -> None:
    assert "revision" in refusal(lambda: list_repository(NAME, "0" * 40), HubError)


# --- one file -------------------------------------------------------------------------------------


def test_a_file_comes_whole_and_only_once(hub: Hub, folder: Path) -> None:
    heard: list[int] = []
    repository = list_repository(NAME)
    path = download(repository, repository.file(SHARDS[0]), folder, heard.append)
    assert path.read_bytes() == original(hub, SHARDS[0])
    assert heard == sorted(heard)
    assert heard[-1] == SIZE
    sent = hub.bytes_sent
    assert fetch_one(folder) == path
    assert hub.bytes_sent == sent
    assert {file.name for file in folder.iterdir()} == {SHARDS[0], "verified.json"}


def test_a_file_already_there_is_hashed_once_only(hub: Hub, folder: Path) -> None:
    folder.mkdir()
    path = folder / SHARDS[0]
    path.write_bytes(original(hub, SHARDS[0]))
    fetch_one(folder)
    # Other bytes at the same size and time pass: only a hash could tell, and it was taken before.
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(bytes(SIZE))
    os.utime(path, ns=times)
    fetch_one(folder)
    assert path.read_bytes() == bytes(SIZE)
    assert hub.bytes_sent == 0


def test_another_content_of_the_same_size_is_replaced(hub: Hub, folder: Path) -> None:
    path = fetch_one(folder)
    path.write_bytes(bytes(SIZE))
    assert fetch_one(folder).read_bytes() == original(hub, SHARDS[0])


def test_an_interrupted_download_goes_on_where_it_stopped(hub: Hub, folder: Path) -> None:
    repository = list_repository(NAME)
    file = repository.file(SHARDS[0])

    def stop(done: int) -> None:
        if done > SIZE // 2:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        download(repository, file, folder, stop)
    held = held_bytes(file, folder)
    assert SIZE // 2 < held < SIZE
    assert not (folder / SHARDS[0]).exists()
    assert fetch_one(folder).read_bytes() == original(hub, SHARDS[0])
    assert hub.requested(SHARDS[0])[-1].range == f"bytes={held}-"


def test_a_connection_cut_again_and_again_is_taken_up_each_time(hub: Hub, folder: Path) -> None:
    hub.faults.cut_after = 30_000
    assert fetch_one(folder).read_bytes() == original(hub, SHARDS[0])
    assert len(hub.requested(SHARDS[0])) == 7
    assert hub.bytes_sent == SIZE


def test_a_server_without_ranges_sends_it_all_again(hub: Hub, folder: Path) -> None:
    hub.faults.ignore_range = True
    hub.faults.cut_after, hub.faults.cuts = 30_000, 1
    assert fetch_one(folder).read_bytes() == original(hub, SHARDS[0])
    assert hub.bytes_sent == SIZE + 30_000


def test_another_host_gets_the_range_and_not_the_token(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.faults.cdn = True
    hub.faults.cut_after, hub.faults.cuts = 30_000, 1
    assert fetch_one(folder).read_bytes() == original(hub, SHARDS[0])
    asked = [(request.token, request.range) for request in hub.requested(SHARDS[0])]
    rest = "bytes=30000-"
    assert asked == [(TOKEN, None), (None, None), (TOKEN, rest), (None, rest)]


def test_a_hub_that_is_not_there_is_named(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", f"http://{address}")
    assert f"{address} cannot be reached" in refusal(lambda: list_repository(NAME), NetworkError)


def test_the_real_patience_is_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    notes: list[str] = []
    patience = Patience(notes.append)

    def fail() -> None:
        while True:
            now[0] += TIMEOUT[0]  # connecting takes as long as it may
            patience.wait(NetworkError("lost"))

    refusal(fail, NetworkError)
    assert 15 < now[0] <= 30
    assert len(notes) >= 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_trouble_that_passes_is_waited_for(hub: Hub, folder: Path, status: int) -> None:
    repository = list_repository(NAME)
    hub.faults.status, hub.faults.status_times = status, 2
    notes: list[str] = []
    path = download(repository, repository.file(SHARDS[0]), folder, quiet, notes.append)
    assert path.read_bytes() == original(hub, SHARDS[0])
    assert len(notes) == 2
    assert "trying again" in notes[0]


def test_a_lost_network_ends_the_try_and_keeps_what_came(hub: Hub, folder: Path) -> None:
    hub.faults.cut_after, hub.faults.cuts = 50_000, 1
    repository = list_repository(NAME)
    file = repository.file(SHARDS[0])

    def unplug(done: int) -> None:
        hub.faults.reset = done >= 50_000

    message = refusal(lambda: download(repository, file, folder, unplug), NetworkError)
    assert "run the same command again to go on" in message
    assert held_bytes(file, folder) == 50_000
    hub.faults.reset = False
    assert fetch_one(folder).read_bytes() == original(hub, SHARDS[0])
    assert hub.bytes_sent == SIZE


def test_waiting_for_the_network_can_be_stopped(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Patience, "limit", 60.0)
    monkeypatch.setattr(Patience, "first_delay", 30.0)
    repository = list_repository(NAME)
    hub.faults.reset = True
    begun = time.monotonic()

    def stop(done: int) -> None:
        if time.monotonic() - begun > 0.3:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        download(repository, repository.files[0], folder, stop)
    assert time.monotonic() - begun < 20, "it waited for the next try"


def test_altered_bytes_are_asked_for_once_more(hub: Hub, folder: Path) -> None:
    hub.faults.altered, hub.faults.altered_times = {SHARDS[0]}, 1
    assert fetch_one(folder).read_bytes() == original(hub, SHARDS[0])
    assert hub.bytes_sent == 2 * SIZE


@pytest.mark.parametrize("name", [SHARDS[0], "config.json"])
def test_bytes_that_stay_altered_are_refused(hub: Hub, folder: Path, name: str) -> None:
    hub.faults.altered = {name}
    assert "altered" in refusal(lambda: fetch_one(folder, name), HubError)
    assert not any(path.name.startswith(name) for path in folder.iterdir())


def test_a_file_that_is_shorter_than_its_listing_is_refused(hub: Hub, folder: Path) -> None:
    hub.faults.truncated = {SHARDS[0]}
    assert "altered" in refusal(lambda: fetch_one(folder), HubError)
    assert not any(folder.iterdir())


def test_a_full_disk_is_said(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = list_repository(NAME)

    def full(done: int) -> None:
        if done:
            raise OSError(28, "No space left on device")

    message = refusal(
        lambda: download(repository, repository.file(SHARDS[0]), folder, full), DiskFullError
    )
    assert "run the same command again" in message
    assert fetch_one(folder).read_bytes() == original(hub, SHARDS[0])


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/b", "..", ".hidden", "c:evil", "a\\b", "", "a\nb"]
)
def test_names_that_lead_out_of_the_folder_are_refused(hub: Hub, folder: Path, name: str) -> None:
    repository = HubRepository(NAME, "0" * 40, (HubFile(name, 3, "0" * 64),))
    refusal(lambda: download(repository, repository.files[0], folder, quiet), HubError)
    assert not hub.requests


# --- no network -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["option", "environment"])
def test_offline_makes_no_connection(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    whole = open_repository(NAME, folder)
    download(whole, whole.file(SHARDS[0]), folder, quiet)
    before = len(hub.requests)
    offline = how == "option"
    if not offline:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    known = open_repository(NAME, folder, offline=offline)
    assert download(known, known.file(SHARDS[0]), folder, quiet).is_file()
    for action in (
        lambda: download(known, known.file(SHARDS[1]), folder, quiet),
        lambda: list_repository(NAME, offline=offline),
        lambda: open_repository("owner/other", folder, offline=offline),
        lambda: fetch_config(NAME, folder, offline),
    ):
        assert "not to be used" in refusal(action, NetworkError)
    assert len(hub.requests) == before


def test_a_config_is_fetched_and_does_without_the_hub_later(hub: Hub, folder: Path) -> None:
    path = fetch_config(NAME, folder)
    assert path.name == "config.json"
    assert path.read_bytes() == original(hub, "config.json")
    hub.faults.reset = True
    assert fetch_config(NAME, folder) == path
    refusal(lambda: fetch_config("owner/other", folder), NetworkError)
    hub.faults.reset = False
    assert "no repository" in refusal(lambda: fetch_config("owner/other", folder), HubError)
    refusal(lambda: fetch_config("../other", folder), HubError)


# --- shards ---------------------------------------------------------------------------------------


def shards(
    folder: Path,
    keep: bool = False,
    listener: Callable[[Transfer], None] = quiet,
    order: tuple[str, ...] = SHARDS,
    passes: int = 1,
) -> HubShards:
    return HubShards(list_repository(NAME), folder, keep, listener, [order] * passes)


def on_disk(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix == ".safetensors"}


@pytest.mark.parametrize("passes", [1, 2])
def test_shards_come_one_ahead_and_go_when_used(hub: Hub, folder: Path, passes: int) -> None:
    order = SHARDS * passes
    with shards(folder, passes=passes) as source:
        for place, name in enumerate(order):
            assert source.fetch(name).read_bytes() == original(hub, name)
            following = order[place + 1 : place + 2]
            wait_until(lambda: on_disk(folder) == {name, *following})  # noqa: B023
            time.sleep(0.05)
            assert on_disk(folder) == {name, *following}
            source.done_with(name)
            assert not (folder / name).exists()
    assert hub.bytes_sent == passes * len(SHARDS) * SIZE


def test_kept_shards_all_stay_and_are_not_fetched_again(hub: Hub, folder: Path) -> None:
    for _ in range(2):
        with shards(folder, keep=True) as source:
            for name in SHARDS:
                source.fetch(name)
                source.done_with(name)
    assert on_disk(folder) == set(SHARDS)
    assert hub.bytes_sent == len(SHARDS) * SIZE


def test_a_layer_on_two_shards_reads_them_in_turns(hub: Hub, folder: Path) -> None:
    with shards(folder, passes=2) as source:
        for first, second in itertools.pairwise(SHARDS):
            for name in (first, second, first, second):
                source.fetch(name)
            assert on_disk(folder) == {first, second}
            source.done_with(first)
        source.done_with(SHARDS[-1])
        wait_until(lambda: on_disk(folder) == set(SHARDS[:2]))  # the second pass
    assert hub.bytes_sent == (len(SHARDS) + 2) * SIZE


def test_held_shards_stay_until_the_last_pass_is_behind_them(hub: Hub, folder: Path) -> None:
    with shards(folder, passes=3) as source:
        source.hold()
        for left in (3, 2, 1):
            source.begin_pass(left)
            for place, name in enumerate(SHARDS):
                assert source.fetch(name).read_bytes() == original(hub, name)
                source.done_with(name)
                if left == 1:
                    assert on_disk(folder) == set(SHARDS[place + 1 :])
            if left > 1:
                assert on_disk(folder) == set(SHARDS)
    assert hub.bytes_sent == len(SHARDS) * SIZE


@pytest.mark.parametrize("held", [True, False])
def test_a_run_that_goes_on_in_the_last_pass_brings_nothing_for_another(
    hub: Hub, folder: Path, held: bool
) -> None:
    with shards(folder, keep=True) as source:
        for name in SHARDS:
            source.fetch(name)
    sent = hub.bytes_sent
    with shards(folder, passes=2) as source:
        if held:
            source.hold()
        source.begin_pass(1)
        for place in (2, 3):
            source.fetch(SHARDS[place])
            assert on_disk(folder) == set(SHARDS[place:])
            source.done_with(SHARDS[place])
        time.sleep(0.05)
        assert on_disk(folder) == set()
    assert hub.bytes_sent == sent


def test_more_than_two_shards_at_once_are_no_deadlock(hub: Hub, folder: Path) -> None:
    with shards(folder) as source:
        for name in SHARDS[:3]:
            source.fetch(name)
        assert on_disk(folder) >= set(SHARDS[:3])


def test_a_later_run_takes_up_what_is_there_and_removes_what_is_not_needed(
    hub: Hub, folder: Path
) -> None:
    with shards(folder, keep=True) as source:
        source.fetch(SHARDS[0])
        source.fetch(SHARDS[1])
    (folder / f"{SHARDS[2]}.abc.incomplete").write_bytes(b"old")
    hub.requests.clear()
    with shards(folder, order=SHARDS[1:2] + SHARDS[3:] + SHARDS[:1]) as source:
        source.fetch(SHARDS[1])
        assert SHARDS[0] not in on_disk(folder)
    assert not hub.requested(SHARDS[1])


def test_waiting_for_a_shard_is_told_in_bytes_and_can_be_stopped(hub: Hub, folder: Path) -> None:
    hub.faults.bytes_per_second = 100_000
    heard: list[Transfer] = []
    thread = threading.get_ident()

    def listener(transfer: Transfer) -> None:
        assert threading.get_ident() == thread
        heard.append(transfer)
        if transfer.done > SIZE // 8:
            raise Interrupted("stop")

    with shards(folder, listener=listener) as source, pytest.raises(Interrupted):
        source.fetch(SHARDS[0])
    assert heard[-1].total == SIZE
    assert heard[-1].message == f"downloading {SHARDS[0]}"
    assert SIZE // 8 < held_bytes(list_repository(NAME).file(SHARDS[0]), folder) < SIZE


def test_a_shard_fetched_ahead_in_vain_has_another_chance(hub: Hub, folder: Path) -> None:
    with shards(folder) as source:
        source.fetch(SHARDS[0])
        source.done_with(SHARDS[0])
        hub.faults.reset = True
        refusal(lambda: source.fetch(SHARDS[2]), NetworkError)
        hub.faults.reset = False
        assert source.fetch(SHARDS[2]).read_bytes() == original(hub, SHARDS[2])


def test_a_repository_without_the_shard_is_refused_before_any_download(
    hub: Hub, folder: Path
) -> None:
    refusal(lambda: shards(folder, order=("absent.safetensors",)), HubError)
    assert hub.bytes_sent == 0
