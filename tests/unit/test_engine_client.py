"""The engine's process: events, requests, death, the log, and a clean end."""

import asyncio
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from app import paths
from app.child import Exit, module_command
from app.engine_client import LOG_NAME, EngineClient, WorkerDied, WorkerEvent
from engine.protocol import Cancel, Detect, Devices, Finished, Generate, Message, Ready, Token
from tests.fakes.fake_worker import ANSWER
from tests.ui import FAKES

FAKE = [sys.executable, str(FAKES / "fake_worker.py")]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_CHAT_HOME", str(tmp_path))


class Listener(list):
    """Collects events; `until` waits for one that satisfies a test."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    def __call__(self, event: object) -> None:
        self.append(event)
        self._news.set()

    async def until(self, test: Callable[[list[WorkerEvent]], object]) -> None:
        async with asyncio.timeout(20):
            while not test(self):
                self._news.clear()
                await self._news.wait()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def generate(id: int, words: str) -> Generate:
    return Generate(id, (Message("user", words),))


def has(kind: type) -> Callable[[list[WorkerEvent]], object]:
    return lambda events: any(isinstance(event, kind) for event in events)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_requests_sent_before_the_start_are_answered():
    heard = Listener()
    client = EngineClient(heard, FAKE)
    client.send(Detect())
    await client.start()
    await heard.until(has(Devices))
    assert isinstance(heard[0], Ready)
    await client.stop()


async def test_it_takes_no_processor_time_from_the_screens_session():
    heard = Listener()
    client = EngineClient(heard, FAKE)
    await client.start()
    await heard.until(has(Ready))
    assert os.getsid(client._process._process.pid) != os.getsid(0)
    await client.stop()


async def test_a_reply_comes_in_order_and_whole():
    heard = Listener()
    client = EngineClient(heard, FAKE)
    await client.start()
    client.send(generate(1, "go"))
    await heard.until(has(Finished))
    assert "".join(event.text for event in heard if isinstance(event, Token)) == ANSWER
    await client.stop()


async def test_a_very_long_message_gets_through():
    heard = Listener()
    client = EngineClient(heard, FAKE)
    await client.start()
    client.send(generate(1, "long " * 400_000))
    await heard.until(has(Finished))
    await client.stop()


async def test_a_death_is_told_with_code_and_last_words():
    heard = Listener()
    client = EngineClient(heard, FAKE)
    await client.start()
    client.send(generate(1, "crash"))
    await heard.until(has(WorkerDied))
    died = heard[-1]
    assert died == WorkerDied(
        7, "CUDA error: device-side assert", "exit code 7: CUDA error: device-side assert"
    )
    assert not client.running
    client.send(Cancel(1))
    assert b"device-side assert" in (paths.log_dir() / LOG_NAME).read_bytes()


async def test_after_a_death_it_can_be_started_again():
    heard = Listener()
    client = EngineClient(heard, FAKE)
    await client.start()
    client.send(generate(1, "crash"))
    await heard.until(has(WorkerDied))
    heard.clear()
    await client.restart()
    client.send(generate(2, "go"))
    await heard.until(has(Finished))
    await client.stop()


async def test_a_restart_asked_for_is_no_death():
    heard = Listener()
    client = EngineClient(heard, FAKE)
    await client.start()
    await heard.until(has(Ready))
    await client.restart()
    await heard.until(lambda events: len(events) == 2)
    assert [type(event) for event in heard] == [Ready, Ready]
    await client.stop()


async def test_a_program_that_is_not_there_is_a_death():
    heard = Listener()
    await EngineClient(heard, ["/no/such/program"]).start()
    assert isinstance(heard[0], WorkerDied)
    assert "could not be started" in heard[0].reason


async def test_a_log_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "logs").write_text("a file where the folder should be")
    heard = Listener()
    await EngineClient(heard, FAKE).start()
    assert "could not be started" in heard[0].reason
    assert "logs" in heard[0].reason


async def test_a_line_without_end_ends_the_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("app.line_process.LINE_LIMIT", 1000)
    heard = Listener()
    client = EngineClient(heard, python("print('x' * 5000, flush=True); input()"))
    await client.start()
    await heard.until(has(WorkerDied))
    assert "more than 1000 bytes" in heard[-1].reason


async def test_stray_output_goes_to_the_log_and_harms_nothing():
    heard = Listener()
    code = """
        from engine import protocol
        print("hello from a library")
        print(protocol.encode(protocol.Ready()), flush=True)
        input()
        """
    client = EngineClient(heard, python(code))
    await client.start()
    await heard.until(has(Ready))
    assert len(heard) == 1
    assert b"hello from a library" in (paths.log_dir() / LOG_NAME).read_bytes()
    await client.stop()


@pytest.mark.parametrize(
    "stubborn", ["", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"]
)
async def test_a_process_that_does_not_listen_is_ended(
    stubborn: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("app.line_process.POLITE_SECONDS", 0.2)
    heard = Listener()
    code = f"""
        import os, time
        from engine import protocol
        {stubborn}
        print(protocol.encode(protocol.Ready()), flush=True)
        time.sleep(60)
        """
    client = EngineClient(heard, python(code))
    await client.start()
    await heard.until(has(Ready))
    process = client._process._process
    await client.stop()
    assert process.returncode is not None
    assert is_gone(process.pid)
    assert not has(WorkerDied)(heard)


def test_how_it_ended_in_words():
    assert Exit(1, "boom").reason == "exit code 1: boom"
    assert Exit(-11, "").reason == "signal SIGSEGV"
    assert "killed" in Exit(-9, "").reason


async def test_a_folder_of_the_same_name_does_not_shadow_our_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    process = await asyncio.create_subprocess_exec(
        *module_command("engine.protocol"),
        env={**os.environ, "PYTHONPATH": str(FAKES.parents[1])},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert b"shadowed" not in errors
    assert process.returncode == 0
