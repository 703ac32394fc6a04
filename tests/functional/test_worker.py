"""The worker as a process: lines in, lines out, whatever happens in between."""

import io
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch

import assets
from engine import protocol, worker
from engine.protocol import (
    Cancel,
    Count,
    Counted,
    Detect,
    Devices,
    Event,
    Failed,
    Finished,
    Generate,
    Load,
    Loaded,
    LoadProgress,
    Message,
    MetersUpdate,
    Ready,
    Request,
    SamplingOptions,
    SetPruning,
    Shutdown,
    Token,
    Unload,
    Unloaded,
)
from engine.session import Session
from tests.checkpoints_for_tests import write_tiny_checkpoint

E = TypeVar("E")
PATIENCE = 60.0
"""Seconds; far more than anything here takes, for machines that do something else too."""
SAMPLING = SamplingOptions(temperature=1.0, min_p=0.0, seed=1)
HELLO = (Message("user", "Hello there"),)


class Process:
    """A worker process and the events it has sent."""

    def __init__(self, home: Path, code: str = "from engine.worker import main; main()") -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "MC_CHAT_HOME": str(home)},
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._lines.put(line)

    def send(self, *requests: Request | str) -> None:
        assert self.popen.stdin is not None
        for request in requests:
            line = request if isinstance(request, str) else protocol.encode(request)
            self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def next(self) -> Event:
        """The next line, which has to be an event of the protocol."""
        return protocol.decode_event(self._lines.get(timeout=PATIENCE))

    def until(self, kind: type[E]) -> tuple[E, list[Event]]:
        """The next event of a kind, and those before it: no failure, unless one is waited for."""
        before: list[Event] = []
        while not isinstance(event := self.next(), kind):
            before.append(event)
            assert not isinstance(event, Failed) or event.kind == "ProtocolError"
        return event, before

    def close(self) -> int:
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        return self.popen.wait(timeout=PATIENCE)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One process for all tests: none of them may break it."""
    started = Process(tmp_path_factory.mktemp("home"))
    assert started.next() == Ready()
    yield started
    started.kill()


@pytest.fixture
def loaded(process: Process, tiny: Path) -> Process:
    process.send(Load(str(tiny), "cpu"))
    process.until(Loaded)
    return process


def test_devices_are_told_without_a_model(process: Process) -> None:
    process.send(Detect())
    found, _ = process.until(Devices)
    assert found.devices[-1].kind == "cpu"
    assert 0 < found.devices[-1].free_bytes <= found.devices[-1].total_bytes


def test_loading_tells_how_far_it_is_and_then_the_facts(process: Process, tiny: Path) -> None:
    process.send(Load(str(tiny), "cpu", context=100))
    facts, before = process.until(Loaded)
    fractions = [event.fraction for event in before if isinstance(event, LoadProgress)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert (facts.name, facts.device, facts.context, facts.nominal_bits) == ("tiny", "cpu", 100, 2)
    assert facts.model == str(tiny)
    assert facts.memory.weights > 0
    rows = 2 * 2 * 2 * 100  # k and v, layers, heads, tokens
    assert facts.memory.kv_cache == rows * 16 * 4  # float32
    process.send(Load(str(tiny), "cpu", context=100, kv_bits=8))
    facts, _ = process.until(Loaded)
    assert facts.memory.kv_cache == rows * (16 + 2)  # codes and a scale
    process.send(Generate(1, HELLO, SAMPLING, max_tokens=3))
    assert process.until(Finished)[0].tokens == 3


def test_a_reply_streams_and_adds_up(loaded: Process) -> None:
    loaded.send(Generate(7, HELLO, SAMPLING, max_tokens=20))
    finished, before = loaded.until(Finished)
    assert "".join(event.text for event in before if isinstance(event, Token)) == finished.text
    assert (finished.id, finished.tokens, finished.finish_reason) == (7, 20, "length")
    assert finished.tokens_per_second > 0
    updates = [event.meters for event in before if isinstance(event, MetersUpdate)]
    assert updates[-1] == finished.meters
    meters = finished.meters
    assert meters.context_used == finished.prompt_tokens + 19
    assert 0 < meters.activated_fraction < 1
    assert len(meters.prune_ratio_layers) == 2
    assert meters.memory.free > 0


def test_the_seed_makes_it_repeatable(process: Process, tiny: Path) -> None:
    texts = []
    for _ in range(2):
        process.send(Load(str(tiny), "cpu"), Generate(8, HELLO, SAMPLING, max_tokens=15))
        texts.append(process.until(Finished)[0].text)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("line", ["", "hello", "{}", '{"type":"Generate"}', "[1]", "\x00", "é" * 9])
def test_nonsense_is_answered_and_survived(process: Process, line: str) -> None:
    process.send(line, Detect())
    _, before = process.until(Devices)
    failures = [event for event in before if isinstance(event, Failed)]
    assert len(failures) == (1 if line else 0)
    for failure in failures:
        assert (failure.kind, failure.id) == ("ProtocolError", None)
        assert "\n" not in failure.message


def test_failures_have_a_kind_and_one_line(process: Process, tiny: Path, tmp_path: Path) -> None:
    process.send(Unload())
    process.until(Unloaded)
    (tmp_path / "config.json").write_text("{}")
    for request, kind, said, reply in (
        (Generate(3, HELLO), "UsageError", "no model is loaded", 3),
        (Load(str(tmp_path / "none")), "SourceError", "config.json", None),
        (Load(str(tmp_path)), "SourceError", "not supported", None),
        (Load(str(tiny), "abacus"), "UsageError", "abacus", None),
        (Load(str(tiny), "cpu", context=4096), "UsageError", "trained for 1 to 128", None),
    ):
        process.send(request)
        failure, _ = process.until(Failed)
        assert (failure.kind, failure.id) == (kind, reply)
        assert failure.model == (request.model if isinstance(request, Load) else "")
        assert said in failure.message
        assert "\n" not in failure.message


def test_a_prompt_that_is_too_long_fails_alone(loaded: Process) -> None:
    loaded.send(Generate(4, (Message("user", "word " * 300),)), Generate(5, HELLO, max_tokens=1))
    failure, _ = loaded.until(Failed)
    assert (failure.kind, failure.id) == ("ContextFullError", 4)
    assert "128" in failure.message
    assert loaded.until(Finished)[0].id == 5


def test_cancel_acts_within_200_ms_and_keeps_the_text(process: Process, demo: Path) -> None:
    process.send(Load(str(demo), "cpu"))
    process.until(Loaded)
    # A temperature at which it does not come to an end by itself.
    restless = SamplingOptions(temperature=9.0, min_p=0.0, seed=2)
    seconds = []
    for reply in range(11, 16):
        process.send(Generate(reply, HELLO, restless))
        said = [process.until(Token)[0] for _ in range(3)]
        asked = time.monotonic()
        process.send(Cancel(reply))
        finished, before = process.until(Finished)
        seconds.append(time.monotonic() - asked)
        assert finished.finish_reason == "cancelled"
        said += [event for event in before if isinstance(event, Token)]
        assert finished.text == "".join(token.text for token in said)
    assert min(seconds) < 0.2  # the least: others use this machine too
    process.send(Generate(16, HELLO, max_tokens=2))
    assert process.until(Finished)[0].finish_reason == "length"


@pytest.fixture(scope="module")
def demo() -> Path:
    """The original demo: large enough that a reply takes a while."""
    return assets.DEMO_DIR


def test_a_waiting_reply_can_be_cancelled_and_an_old_cancel_does_no_harm(loaded: Process) -> None:
    loaded.send(
        Cancel(21),
        Generate(20, HELLO, SAMPLING, max_tokens=30),
        Generate(21, HELLO, SAMPLING, max_tokens=30),
        Cancel(21),
    )
    assert loaded.until(Finished)[0].finish_reason == "length"
    assert loaded.until(Finished)[0].finish_reason == "cancelled"
    loaded.send(Cancel(21), Cancel(99), Generate(21, HELLO, SAMPLING, max_tokens=3))
    assert loaded.until(Finished)[0].finish_reason == "length"


def test_pruning_can_be_switched_during_a_reply(loaded: Process) -> None:
    def prune_ratio(*requests: Request) -> float:
        loaded.send(*requests)
        return loaded.until(Finished)[0].meters.prune_ratio

    long = {"sampling": SAMPLING, "max_tokens": 60}
    without = prune_ratio(Generate(30, HELLO, pruning="off", **long))
    switched = prune_ratio(Generate(31, HELLO, pruning="off", **long), SetPruning("odp"))
    throughout = prune_ratio(Generate(32, HELLO, pruning="odp", **long))
    assert without == 0
    assert switched > 0
    assert throughout > 0

    none = prune_ratio(Generate(33, HELLO, pruning_strength=0.0, **long))
    strongest = prune_ratio(Generate(34, HELLO, pruning_strength=2.0, **long))
    weakened = prune_ratio(
        Generate(35, HELLO, pruning_strength=2.0, **long), SetPruning("odp", 0.0)
    )
    assert none == 0
    assert strongest > throughout
    assert weakened < strongest


def test_a_fresh_reply_reads_the_whole_prompt_again(loaded: Process) -> None:
    def slots(fresh: bool) -> int:
        loaded.send(Generate(40, HELLO, SAMPLING, max_tokens=2, pruning="off", fresh=fresh))
        runs = loaded.until(Finished)[0].meters.expert_runs
        return sum(map(sum, runs))

    loaded.send(Generate(39, HELLO, SAMPLING, max_tokens=2, pruning="off"))
    finished, _ = loaded.until(Finished)
    cached, fresh = slots(fresh=False), slots(fresh=True)
    assert cached < fresh == 2 * 2 * (finished.prompt_tokens + 1)  # layers, slots, tokens


def test_tokens_are_counted_as_the_engine_takes_them(loaded: Process) -> None:
    def counted(*messages: Message) -> int | None:
        loaded.send(Count(41, messages))
        count, _ = loaded.until(Counted)
        assert count.id == 41
        return count.tokens

    loaded.send(Generate(42, HELLO, SAMPLING, max_tokens=1))
    prompt, _ = loaded.until(Finished)
    assert counted(*HELLO) == prompt.prompt_tokens
    assert counted() == 0
    assert counted(Message("system", "Hello there")) == counted(*HELLO)
    assert counted(Message("system", "Be brief."), *HELLO) > counted(*HELLO)
    loaded.send(Unload(), Count(43, HELLO))
    assert loaded.until(Counted)[0] == Counted(43, None)


def test_an_impossible_strength_fails_one_reply_only(loaded: Process) -> None:
    loaded.send(Generate(36, HELLO, max_tokens=2, pruning_strength=3.0))
    assert isinstance(event := loaded.next(), Failed)
    assert (event.id, event.kind) == (36, "UsageError")
    loaded.send(Generate(37, HELLO, max_tokens=2))
    assert loaded.until(Finished)[0].id == 37


def test_unloading_gives_the_memory_back(tmp_path: Path, demo: Path) -> None:
    process = Process(tmp_path)
    process.send(Load(str(demo), "cpu"))
    loaded, _ = process.until(Loaded)
    with_model = resident(process)
    process.send(Unload())
    process.until(Unloaded)
    freed = with_model - resident(process)
    process.kill()
    # The cache's pages are nobody's before something is written to them.
    assert freed > 0.8 * loaded.memory.weights


def resident(process: Process) -> int:
    """Bytes of memory that a process occupies by itself, mapped files not counted."""
    status = Path(f"/proc/{process.popen.pid}/status")
    if not status.is_file():
        pytest.skip("reads Linux's /proc")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return 1024 * int(lines["RssAnon"].split()[0])


@pytest.mark.parametrize("ending", ["close", "shutdown", "busy"])
def test_it_ends_with_its_input(tmp_path: Path, tiny: Path, ending: str) -> None:
    process = Process(tmp_path)
    process.until(Ready)
    if ending == "busy":
        process.send(Load(str(tiny), "cpu"), *[Generate(n, HELLO, SAMPLING) for n in range(50)])
        process.until(Token)
    if ending == "shutdown":
        process.send(Shutdown())
        assert process.popen.wait(timeout=PATIENCE) == 0
    else:
        assert process.close() == 0


def test_ctrl_c_in_the_terminal_is_left_to_the_screen(process: Process) -> None:
    process.popen.send_signal(signal.SIGINT)
    process.send(Detect())
    process.until(Devices)


def test_stray_prints_do_not_reach_the_protocol(tmp_path: Path) -> None:
    code = """
import os, sys
from engine import devices, worker
detect = devices.detect
def noisy():
    print("stray"); os.write(1, b"stray bytes")
    sys.__stdout__.write("stray"); sys.__stdout__.flush()
    return detect()
devices.detect = noisy
worker.main()
"""
    process = Process(tmp_path, code)
    process.send(Detect())
    assert process.next() == Ready()
    assert isinstance(process.next(), Devices)
    process.close()
    assert process.popen.stderr is not None
    assert "stray" in process.popen.stderr.read()


def serve(*requests: Request) -> list[Event]:
    """A worker in this process, for what cannot be brought about in another."""
    out = io.StringIO()
    worker.Worker(iter([protocol.encode(request) for request in requests]), out).run()
    return [protocol.decode_event(line) for line in out.getvalue().splitlines()]


def failing(error: Exception) -> Callable[..., Session]:
    def load(*arguments: object) -> Session:
        raise error

    return load


def test_an_unexpected_error_is_told_and_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "load", failing(ZeroDivisionError("division\nby zero")))
    events = serve(Load("x"), Detect())
    failure = next(event for event in events if isinstance(event, Failed))
    assert failure.kind == "WorkerError"
    assert "ZeroDivisionError: division by zero" in failure.message
    assert isinstance(events[-1], Devices)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_running_out_of_memory_names_the_next_smaller_choice(
    error: Exception, tiny: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.session.load_model", failing(error))
    failure = next(event for event in serve(Load(str(tiny), "cpu")) if isinstance(event, Failed))
    assert failure.kind == "DoesNotFitError"
    assert "1.75 bits" in failure.message


def test_what_cannot_fit_is_refused_before_it_is_loaded(
    tiny: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = protocol.Device("Small box", "cpu", "cpu", 10**9, 1000)
    monkeypatch.setattr("engine.devices.choose", lambda name: device)
    monkeypatch.setattr("engine.session.load_model", failing(AssertionError("not reached")))
    failure = next(event for event in serve(Load(str(tiny))) if isinstance(event, Failed))
    assert failure.kind == "DoesNotFitError"
    assert "Small box" in failure.message


def test_the_pages_of_a_mapped_model_are_not_free(
    tiny: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system counts them, since it could drop them: for a person they are taken."""
    box = protocol.Device("Box", "cpu", "cpu", 10**9, 10**8)
    monkeypatch.setattr("engine.devices.refresh", lambda device: box)
    loaded = serve(Load(str(tiny), "cpu"))[-1]
    assert isinstance(loaded, Loaded)
    assert loaded.memory.free == 10**8 - loaded.memory.weights < 10**8


def test_hashes_are_read_once_and_again_when_a_file_has_changed(tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "model"
    write_tiny_checkpoint(folder)

    def load() -> tuple[int, Event]:
        events = serve(Load(str(folder), "cpu"))
        stages = [event.stage for event in events if isinstance(event, LoadProgress)]
        return sum(stage.startswith("verifying") for stage in stages), events[-1]

    assert load()[0] == 3
    assert load()[0] == 0
    os.utime(folder / "layer-00.safetensors", (1, 1))
    assert load()[0] == 3
    # Of the same size and still a safetensors file, but another number in it.
    path = folder / "layer-01.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    _, event = load()
    assert isinstance(event, Failed)
    assert (event.kind, "layer-01" in event.message) == ("CheckpointError", True)


def test_verification_works_where_nothing_can_be_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MC_CHAT_HOME", str(tmp_path / "file"))
    write_tiny_checkpoint(tmp_path / "model")
    for _ in range(2):
        events = serve(Load(str(tmp_path / "model"), "cpu"))
        assert isinstance(events[-1], Loaded)
        assert json.loads(protocol.encode(events[1]))["stage"].startswith("verifying")
