"""The commands as users and scripts meet them: output, JSON keys, exit codes, failures."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app import jobs, loading, paths
from app.quality_words import NOT_MEASURED
from engine import integrity
from engine.manifest import OtpRecord, read_manifest
from engine.protocol import Device, Generate, Message, SamplingOptions
from engine.quality import Agreement, Quality
from engine.session import Session
from tests.checkpoints_for_tests import EXPERT_BITS, write_tiny_checkpoint
from tests.commands_for_tests import Command, failed
from tests.hub_for_tests import connect, running_hub
from tests.ui import FAKES
from tests.unit.models_for_tests import save_tiny_mixtral
from tests.unit.tokenizers_for_tests import be_another, speak_as_the_demo

REPOSITORY = Path(__file__).resolve().parents[2]
LONG = "word " * 300


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny original that speaks as the demo does."""
    folder = tmp_path_factory.mktemp("source") / "demo"
    save_tiny_mixtral(
        folder,
        vocab_size=2048,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=1,
        num_local_experts=8,
        initializer_range=0.06,
    )
    speak_as_the_demo(folder)
    return folder


@pytest.fixture(scope="module")
def original(demo: Path) -> Path:
    folder = demo.with_name("original")
    shutil.copytree(demo, folder)
    be_another(folder)
    return folder


# --- what works -----------------------------------------------------------------------------------


def test_run_prints_the_answer_and_nothing_else(mc_chat: Command, tiny: Path) -> None:
    words = ("run", "tiny", "Hello", "--max-tokens", "8", "--seed", "1")
    first, again = mc_chat(*words), mc_chat(*words)
    assert first.code == 0
    assert first.out == again.out
    assert len(first.out) > 2
    assert first.err == "loading tiny\n"


def test_run_json_has_the_keys_that_scripts_rely_on(mc_chat: Command, tiny: Path) -> None:
    found = mc_chat("run", tiny, "Hello", "--max-tokens", "5", "--temperature", "0", "--json").json
    assert {"text", "tokens", "prompt_tokens", "tokens_per_second", "finish_reason"} < set(found)
    assert {
        "activated_params",
        "activated_bytes",
        "activated_fraction",
        "prune_ratio",
        "memory",
    } < set(found["meters"])
    assert {"weights", "kv_cache", "workspace", "free", "total"} <= set(found["meters"]["memory"])
    assert (found["tokens"], found["finish_reason"]) == (5, "length")
    assert 0 < found["meters"]["activated_fraction"] < 1


def test_piped_text_and_the_system_prompt_reach_the_model(mc_chat: Command, tiny: Path) -> None:
    def prompt_tokens(*words: str, stdin: str = "") -> int:
        result = mc_chat("run", "tiny", *words, "--max-tokens", "1", "--json", stdin=stdin)
        return int(result.json["prompt_tokens"])

    alone = prompt_tokens("Hello")
    assert prompt_tokens(stdin="Hello") == alone
    assert prompt_tokens("Hello", stdin="some context") > alone
    assert prompt_tokens("Hello", "--system", "Be brief.") > alone


def test_the_model_reads_files_then_what_is_piped_in_then_the_prompt(
    mc_chat: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spy_on_questions(monkeypatch)
    (tmp_path / "notes.txt").write_text("Buy milk.")
    words = ("--file", tmp_path / "notes.txt", "-f", tmp_path / "notes.txt", "--max-tokens", "1")
    assert mc_chat("run", "tiny", "Explain.", *words, stdin="+ a line\n").code == 0
    file = "notes.txt:\n```\nBuy milk.\n```"
    assert asked[0].messages[-1].content == f"{file}\n\n{file}\n\n+ a line\n\nExplain."


def spy_on_questions(monkeypatch: pytest.MonkeyPatch) -> list[Generate]:
    """What the engine is asked."""
    asked: list[Generate] = []
    start_reply = Session.start

    def start(session: Session, question: Generate, **how: Any) -> Any:
        asked.append(question)
        return start_reply(session, question, **how)

    monkeypatch.setattr(Session, "start", start)
    return asked


def test_how_to_draw_comes_from_the_options_then_the_preset_then_the_settings(
    mc_chat: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spy_on_questions(monkeypatch)
    paths.settings_file().write_text(
        "system = 'Be kind.'\nmax_tokens = 2\npruning = 'off'\n"
        "[sampling]\ntemperature = 0.5\ntop_k = 9\nseed = 1\n"
        "[presets.coder]\nsystem = 'Code.'\ntop_k = 8\nmin_p = 0\n"
    )
    mc_chat("run", "tiny", "Hello")
    sampling = SamplingOptions(temperature=0.5, top_k=9, seed=1)
    assert asked[0] == Generate(
        id=0,
        messages=(Message("system", "Be kind."), Message("user", "Hello")),
        sampling=sampling,
        max_tokens=2,
        pruning="off",
    )
    options = ("--top-k", "7", "--top-p", "0.9", "--repetition-penalty", "1.1", "--stop", "\n\n")
    more = ("--stop", "END", "--pruning", "odp", "--system", "", "--max-tokens", "1")
    assert mc_chat("run", "tiny", "Hello", "--preset", "coder").code == 0
    assert asked[1].messages[0] == Message("system", "Code.")
    assert asked[1].sampling == replace(sampling, top_k=8, min_p=0.0)
    assert mc_chat("run", "tiny", "Hello", "--preset", "coder", *options, *more).code == 0
    assert asked[2] == Generate(
        id=0,
        messages=(Message("user", "Hello"),),
        sampling=replace(sampling, top_k=7, min_p=0.0, top_p=0.9, repetition_penalty=1.1),
        max_tokens=1,
        stop=("\n\n", "END"),
    )


def test_an_answer_that_is_empty_or_cut_is_never_silent(
    mc_chat: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = mc_chat("run", "tiny", "Hello", "--temperature", "0", "--context", "20")
    assert cut.code == 0
    assert "mc-chat: the reply is cut: the context of 20 tokens is full" in cut.err
    monkeypatch.setattr("engine.stream.Detokenizer.push", lambda self, token: " ")
    empty = mc_chat("run", "tiny", "Hello", "--max-tokens", "2")
    assert (empty.code, empty.out.strip()) == (0, "")
    assert "mc-chat: the model ended its reply without a word" in empty.err


def test_pruning_can_be_switched_off(mc_chat: Command, tiny: Path) -> None:
    words = ("run", "tiny", "Hello there", "--max-tokens", "8", "--seed", "1", "--json")
    assert mc_chat(*words, "--pruning", "off").json["meters"]["prune_ratio"] == 0
    assert mc_chat(*words).json["meters"]["prune_ratio"] > 0


def test_what_a_model_says_cannot_steer_the_terminal(
    mc_chat: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "\x1b]0;title\x07red\x1b[31m\x9b2J\rdone"
    monkeypatch.setattr("engine.stream.Detokenizer.push", lambda self, token: hostile)
    words = ("run", "tiny", "Hello", "--max-tokens", "1")
    assert mc_chat(*words).out == "]0;titlered[31m2Jdone\n"
    as_json = mc_chat(*words, "--json")
    assert as_json.json["text"].startswith(hostile)
    assert all(character == "\n" or " " <= character <= "~" for character in as_json.out)


def test_info_names_the_three_sizes_and_every_width(mc_chat: Command, tiny: Path) -> None:
    found = mc_chat("info", "tiny", "--json").json
    assert found["name"] == "tiny"
    assert found["nominal_bits"] == 2.0
    assert found["expert_bits"] == [list(layer) for layer in EXPERT_BITS]
    assert found["odp_thresholds"] == [0.6, 0.6]
    assert {"bits_per_expert_weight", "bits_per_weight", "bytes", "recipe"} < set(found)
    text = mc_chat("info", "tiny").out
    assert "3 2 2 1" in text
    assert "router" not in text
    assert "0.600" in text


def test_info_says_how_far_a_model_is_from_its_original(mc_chat: Command, tiny: Path) -> None:
    assert mc_chat("info", "tiny", "--json").json["quality"] is None
    assert NOT_MEASURED in mc_chat("info", "tiny").out
    agreement = Agreement("notes.txt", False, 126, 0.8725, 6.0, 5.0)
    quality = Quality((0.02, 0.055), agreement)
    (tiny / "mc.json").write_text(replace(read_manifest(tiny), quality=quality).to_json())
    found = mc_chat("info", "tiny", "--json").json["quality"]
    assert found["stream_errors"] == [0.02, 0.055]
    assert found["agreement"] == vars(agreement) | {"perplexity_ratio": 1.2}
    text = mc_chat("info", "tiny").out
    assert "87.2 % of the time" in text
    assert "Perplexity 1.200 times the original's: 6.000 against 5.000." in text
    assert "On 126 tokens of notes.txt: the calibration text, to which" in text
    assert [line.split()[-2:] for line in text.splitlines()[-2:]] == [["2.0", "%"], ["5.5", "%"]]


def test_info_says_how_a_model_prunes_and_what_it_has_learned(
    mc_chat: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mc_chat("info", "tiny", "--json").json["pruning"] == {
        "default": "odp",
        "modes": ["odp", "off"],
        "otp": None,
    }
    assert "`mc-chat prune tiny`" in mc_chat("info", "tiny").out
    otp = OtpRecord(0.01, 0.375, "notes.txt", 8, 256)
    (tiny / "mc.json").write_text(replace(read_manifest(tiny), otp=otp).to_json())
    monkeypatch.setenv("MC_CHAT_PRUNING", "otp")
    found = mc_chat("info", "tiny", "--json").json["pruning"]
    assert found == {"default": "otp", "modes": ["odp", "otp", "off"], "otp": vars(otp)}
    assert "Prunes by OTP where nothing else is asked for." in mc_chat("info", "tiny").out
    assert "OTP skips 38 % of the expert slots" in mc_chat("info", "tiny").out


def test_models_lists_whole_and_damaged_ones(mc_chat: Command, home: Path) -> None:
    assert "mc-chat compress demo" in mc_chat("models").out
    write_tiny_checkpoint(paths.models_dir() / "good")
    write_tiny_checkpoint(paths.models_dir() / "bad")
    (paths.models_dir() / "bad" / "mc.json").write_text("{")
    found = mc_chat("models", "--json").json
    assert [model["name"] for model in found["models"]] == ["good"]
    assert [model["name"] for model in found["damaged"]] == ["bad"]
    text = mc_chat("models").out
    assert "good" in text
    assert "bad: " in text


def test_verify_reads_every_file(mc_chat: Command, tiny: Path) -> None:
    assert mc_chat("verify", "tiny", "--json").json == {"name": "tiny", "files": 3, "whole": True}
    assert "whole" in mc_chat("verify", "tiny").out


def test_rm_deletes_installed_models_only(mc_chat: Command, tiny: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    write_tiny_checkpoint(elsewhere)
    for name in (str(elsewhere), "../../elsewhere", ".", "", "nothing"):
        failed(mc_chat("rm", name), 2, "no installed model")
    assert elsewhere.is_dir()
    assert mc_chat("rm", "tiny", "--json").json["freed_bytes"] > 500_000
    assert not tiny.exists()


def test_plan_needs_no_network_and_has_the_promised_keys(mc_chat: Command) -> None:
    found = mc_chat("plan", "--vram", "24GiB", "--context", "8192", "--json").json
    assert found["recommended"] in found["choices"]
    for choice in found["choices"]:
        assert set(choice) == {
            "nominal_bits",
            "weights_bytes",
            "kv_bytes",
            "workspace_bytes",
            "total_bytes",
            "fits",
            "tight",
            "paper_score",
        }
    assert found["choices"][-1]["fits"] is True
    making = found["making"]
    assert making["download_bytes"] > 90e9
    assert making["downloads"] == (2 if making["missing_disk_bytes"] else 1)
    tight = mc_chat("plan", "--vram", "8GB", "--json").json
    assert tight["recommended"] is None
    assert tight["making"] is None


def test_plan_prints_a_table_with_the_recommended_row(mc_chat: Command, original: Path) -> None:
    result = mc_chat("plan", "--vram", "24GiB")
    recommended = next(line for line in result.out.splitlines() if line.startswith(">"))
    assert recommended.split()[1] == "3.25"
    assert "5.91" in result.out
    assert "GB of disk while it works" in result.out
    assert mc_chat("plan", "demo").out.startswith("demo on ")
    assert mc_chat("plan", original, "--vram", "1GB").code == 0


def test_plan_downloads_at_most_a_config(
    mc_chat: Command, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "hub" / "some" / "where"
    folder.mkdir(parents=True)
    shutil.copy(original / "config.json", folder)
    with running_hub(tmp_path / "hub") as hub:
        connect(hub, monkeypatch, tmp_path)
        assert mc_chat("plan", "some/where", "--vram", "1GB").code == 0
        assert [request.path.rsplit("/", 1)[1] for request in hub.requests] == ["config.json"]
        failed(mc_chat("plan", "no/where", "--vram", "1GB"), 1, "no/where")


def test_plan_picks_a_device_and_says_what_else_would_do(mc_chat: Command) -> None:
    found = mc_chat("plan", "demo", "--device", "cpu", "--json").json
    assert found["device"]["kind"] == "cpu"
    failed(mc_chat("plan", "--device", "cuda:7"), 2, "'cuda:7'")
    on_cpu = mc_chat("plan", "--device", "cpu", "--vram", "16GB", "--json").json
    assert on_cpu["device"]["free_bytes"] == 16 * 10**9
    # A cache in float32: the device is still a CPU.
    assert on_cpu["choices"][0]["kv_bytes"] == 2 * 2**30
    rounded = ("plan", "--device", "cpu", "--vram", "16GB", "--kv-bits", "8", "--json")
    assert mc_chat(*rounded).json["choices"][0]["kv_bytes"] == 2**29 * 130 // 128
    failed(mc_chat("plan", "--kv-bits", "4"), 2, "--kv-bits")
    little = mc_chat("plan", "--vram", "12.8GB")
    assert "tokens would fit; the CPU would need 12.6 GB" in little.out
    assert "--force" in little.out


def test_what_does_not_fit_can_be_forced(
    mc_chat: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Device("Small box", "cpu", "cpu", 10**9, 1000)
    monkeypatch.setattr("engine.devices.choose", lambda name: box)
    failed(mc_chat("run", "tiny", "Hello"), 1, "try it anyway with --force")
    assert mc_chat("run", "tiny", "Hello", "--max-tokens", "2", "--force").code == 0


def test_bench_and_eval_report_what_they_measured(mc_chat: Command, tiny: Path) -> None:
    speed = mc_chat("bench", "tiny", "--prompt", "20", "--tokens", "5", "--json").json
    for key in (
        "decode_tokens_per_second",
        "prefill_tokens_per_second",
        "bytes_per_token",
        "bandwidth_fraction",
        "copy_fraction",
        "peak_bytes",
    ):
        assert speed[key] > 0
    assert 0 <= speed["prune_ratio"] <= 0.5
    text = tiny.parent / "text.txt"
    text.write_text("Some words to be surprised by. " * 40)
    found = mc_chat("eval", "tiny", "--text", text, "--window", "32", "--json").json
    assert {"perplexity", "tokens", "prune_ratio", "tasks"} < set(found)
    assert found["perplexity"] > 1


def test_doctor_reports_without_a_model(mc_chat: Command, home: Path) -> None:
    found = mc_chat("doctor", "--json").json
    assert {"devices", "libraries", "kernels", "paths", "models"} < set(found)
    assert found["paths"]["models"].startswith(str(home))
    assert found["libraries"]["torch"]
    assert found["sqlite"]["search_index"] is True
    assert "cpu: " in mc_chat("doctor").out


def test_doctor_tells_what_is_set_and_nothing_private(
    mc_chat: Command, tiny: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home.parent))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("MC_CHAT_CONTEXT", "64")
    paths.settings_file().write_text("\nsystem = 'My secret'\n[presets.own]\nsystem = 'Secret'\n")
    (home / "logs").mkdir()
    (home / "logs" / "engine.log").write_text("what the secret was")
    mc_chat("chat", "--plain", "tiny", "--max-tokens", "1", stdin="A secret question\n")
    result = mc_chat("doctor")
    for line in (
        "system = (9 characters) (line 2)",
        "presets.own.system = (6 characters) (line 4)",
        "context = 64 (MC_CHAT_CONTEXT)",
        "installed: tiny",
        "models: ~/home/models",
        "log: engine.log, 19 B",
        "TERM=dumb",
    ):
        assert line in result.out.splitlines()
    for text in (result.out, mc_chat("doctor", "--json").out):
        assert "ecret" not in text
        assert str(home.parent) not in text


def test_doctor_helps_where_the_settings_have_a_mistake(mc_chat: Command, home: Path) -> None:
    home.mkdir()
    paths.settings_file().write_text("context = 0\n")
    result = mc_chat("doctor")
    assert result.code == 0
    assert "line 1: 'context' must be 1 or more" in result.out


@pytest.mark.usefixtures("every_step")
def test_compress_makes_a_model_that_runs(mc_chat: Command, original: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text((REPOSITORY / "engine" / "layout.py").read_text())
    words = ("compress", original, "--bits", "2", "--text", text, "--samples", "4")
    result = mc_chat(*words, "--window", "64", "--json")
    assert (result.code, result.json["name"]) == (0, "original-2bit")
    assert result.json["nominal_bits"] == 2.0
    assert result.json["bytes"] > 0
    assert "layer 1 of 1" in result.err
    assert mc_chat("run", "original-2bit", "Hello", "--max-tokens", "3").code == 0
    assert mc_chat("info", "original-2bit", "--json").json["recipe"]["samples"] == 4
    failed(mc_chat(*words), 2, "exists already")


def test_compress_packs_router_and_head_where_asked(
    mc_chat: Command, original: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text((REPOSITORY / "engine" / "layout.py").read_text())
    words = ("compress", original, "--bits", "2", "--text", text, "--samples", "4")
    assert mc_chat(*words, "--window", "64", "--router-bits", "4", "--head-bits", "8").code == 0
    assert "\nrouter at 4 bits, head at 8 bits\n" in mc_chat("info", "original-2bit").out
    recipe = mc_chat("info", "original-2bit", "--json").json["recipe"]
    assert (recipe["router_bits"], recipe["head_bits"]) == (4, 8)
    assert mc_chat("run", "original-2bit", "Hello", "--max-tokens", "3").code == 0


@pytest.mark.usefixtures("every_step")
def test_the_demo_compresses_itself_when_it_is_first_asked(
    mc_chat: Command, demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "DEMO_DIR", demo)
    first = mc_chat("run", "demo", "Hello", "--max-tokens", "3", "--json")
    assert (first.code, first.json["tokens"]) == (0, 3)
    assert "layer 1 of 1, quantize" in first.err
    assert "quantize" not in mc_chat("run", "demo", "Hello", "--max-tokens", "3").err


# --- what does not --------------------------------------------------------------------------------


def test_a_missing_model_is_named(mc_chat: Command) -> None:
    failed(mc_chat("run", "nothing", "Hello"), 1, "'nothing'")
    failed(mc_chat("info", "./nothing"), 1, "./nothing")


@pytest.mark.parametrize("command", [("run", "Hello"), ("info",), ("verify",), ("bench",)])
def test_a_folder_that_is_no_checkpoint_is_refused(
    mc_chat: Command, tmp_path: Path, command: tuple[str, ...]
) -> None:
    failed(mc_chat(command[0], tmp_path, *command[1:]), 1, "no model folder")
    (tmp_path / "config.json").write_text("{}")
    result = mc_chat(command[0], tmp_path, *command[1:])
    assert result.code == 1
    assert result.err.count("mc-chat: ") == 1


def test_a_truncated_file_is_named(mc_chat: Command, tiny: Path) -> None:
    path = tiny / "layer-01.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    failed(mc_chat("run", "tiny", "Hello"), 1, "layer-01.safetensors")
    failed(mc_chat("verify", "tiny"), 1, "layer-01.safetensors")


def test_an_altered_file_is_named(mc_chat: Command, tiny: Path) -> None:
    path = tiny / "dense.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)
    failed(mc_chat("run", "tiny", "Hello"), 1, "dense.safetensors was altered")
    failed(mc_chat("verify", "tiny"), 1, "dense.safetensors was altered")


def test_a_prompt_longer_than_the_context_is_refused_with_numbers(
    mc_chat: Command, tiny: Path
) -> None:
    failed(mc_chat("run", "tiny", LONG), 1, "holds 128")
    failed(mc_chat("run", "tiny", "Hello", "--context", "9999"), 2, "1 to 128")


def test_impossible_bits_are_refused_and_nothing_is_written(mc_chat: Command, home: Path) -> None:
    failed(mc_chat("compress", "demo", "--bits=nan"), 2, "bits")
    assert not paths.models_dir().exists() or not any(paths.models_dir().iterdir())


def break_jobs(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """The next compressions meet a fault of `faulty_job`."""
    command = [sys.executable, str(FAKES / "faulty_job.py"), fault]
    monkeypatch.setattr(jobs, "JOB_COMMAND", command)


def test_a_full_disk_is_told_before_the_work(
    mc_chat: Command, original: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_jobs(monkeypatch, "full-before")
    failed(mc_chat("compress", original, "--bits", "2", "--text", __file__), 1, "are free")
    assert not any(home.rglob("*.safetensors"))


def test_a_disk_that_fills_up_on_the_way_leaves_nothing_half_written(
    mc_chat: Command, original: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("compress", original, "--bits", "2", "--text", __file__, "--samples", "2")
    with monkeypatch.context() as patch:
        break_jobs(patch, "full-on-the-way")
        failed(mc_chat(*words, "--window", "32"), 1, "no space left")
    assert mc_chat("models", "--json").json == {"models": [], "damaged": []}
    again = mc_chat(*words, "--window", "32")
    assert again.code == 0
    assert "quantize" not in again.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("frobnicate",), "frobnicate"),
        (("run",), "MODEL"),
        (("run", "tiny"), "no prompt"),
        (("run", "tiny", "Hello", "--max-tokens", "0"), "--max-tokens"),
        (("run", "tiny", "Hello", "--temperature", "-1"), "temperature"),
        (("run", "tiny", "Hello", "--pruning", "always"), "always"),
        (("run", "tiny", "Hello", "--device", "abacus"), "abacus"),
        (("run", "tiny", "Hello", "--top-p", "2"), "'2' is not above 0 and at most 1"),
        (("run", "tiny", "Hello", "--top-k", "1.5"), "--top-k"),
        (("run", "tiny", "Hello", "--temperature", "nan"), "--temperature"),
        (("run", "tiny", "Hello", "--preset", "poet"), "no preset 'poet'"),
        (("run", "tiny", "Hello", "--stop", ""), "--stop"),
        (("run", "tiny", "Hello", "--file", "/no/such"), "/no/such cannot be read: No such file"),
        (("run", "tiny", "Hello", "--file", "/bin/sh"), "/bin/sh is no text in UTF-8"),
        (("plan", "--vram", "much"), "'much' is not a size"),
        (("plan", "--vram", "24iB"), "'24iB' is not a size"),
        (("plan", "--vram", "24GB", "--context", "99999"), "99999"),
        (("compress", "demo", "--bits", "2", "--vram", "1GB"), "--vram"),
        (("compress", "demo", "--allocator", "dice"), "dice"),
        (("compress", "demo", "--group-size", "100"), "100"),
        (("compress", "demo", "--router-bits", "8"), "--router-bits"),
        (("compress", "demo", "--head-bits", "2"), "--head-bits"),
        (("bench", "tiny", "--tokens", "none"), "--tokens"),
        ((), "needs a terminal"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    mc_chat: Command, tiny: Path, words: tuple[str, ...], said: str
) -> None:
    failed(mc_chat(*words), 2, said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", "/no/such/folder"), "/no/such/folder"),
        (("compress", "/no/such/folder"), "/no/such/folder"),
        (("compress", "demo", "--vram", "1kB"), "nothing fits"),
        (("bench", "tiny", "--prompt", "500"), "do not fit"),
    ],
)
def test_other_failures_are_one_line_and_exit_code_1(
    mc_chat: Command, tiny: Path, words: tuple[str, ...], said: str
) -> None:
    failed(mc_chat(*words), 1, said)


def test_an_unexpected_error_is_one_line_and_its_traceback_is_in_the_log(
    mc_chat: Command, tiny: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*unused: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(integrity, "verify_hashes", broken)
    words = ("run", "tiny", "My secret", "--system=Secret", "--json")
    monkeypatch.setattr("sys.argv", ["/home/me/mc-chat", *words])
    result = mc_chat(*words)
    failed(result, 1, "unexpected ZeroDivisionError: division by zero")
    log = home / "logs" / "mc-chat.log"
    assert str(log) in result.err
    told = log.read_text()
    assert "Traceback" in told
    assert " mc-chat run --system --json\n" in told
    assert "ecret" not in told


def test_an_interrupt_is_code_130(
    mc_chat: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*unused: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.session.Session.load", interrupted)
    failed(mc_chat("run", "tiny", "Hello"), 130, "interrupted")


def test_an_interrupted_compression_says_how_to_go_on(
    mc_chat: Command, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("compress", original, "--bits", "2", "--text", __file__, "--samples", "2")
    with monkeypatch.context() as patch:
        break_jobs(patch, "stopped")
        failed(mc_chat(*words, "--window", "32"), 130, "run the same command again")
    assert mc_chat(*words, "--window", "32").code == 0


def test_an_interrupted_answer_keeps_its_text(
    mc_chat: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = iter(["Well, "])

    def push(self: object, token: int) -> str:
        try:
            return next(pieces)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr("engine.stream.Detokenizer.push", push)
    result = mc_chat("run", "tiny", "Hello")
    assert (result.code, result.out) == (130, "Well, \n")


# --- as processes ---------------------------------------------------------------------------------


def start(home: Path, *words: str | Path, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli", *map(str, words)],
        env={**os.environ, "MC_CHAT_HOME": str(home)},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def test_a_reader_that_leaves_early_is_no_error(home: Path, tiny: Path) -> None:
    process = start(home, "run", "tiny", "Hello", "--seed", "1", stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == "loading tiny\n"


def test_what_is_piped_in_must_be_text(home: Path, tiny: Path) -> None:
    for content, said in ((b"\xff\xfe", "is no text in UTF-8"), (b"x" * 2**21, "has more than")):
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", "run", "tiny", "Hello"],
            env={**os.environ, "MC_CHAT_HOME": str(home)},
            cwd=REPOSITORY,
            input=content,
            capture_output=True,
        )
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.decode().startswith(f"mc-chat: what is piped in {said}")


def test_a_terminal_that_lacks_letters_gets_question_marks(home: Path, tiny: Path) -> None:
    (paths.models_dir() / "tiny").rename(paths.models_dir() / "größe")
    environment = {**os.environ, "MC_CHAT_HOME": str(home), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "models"],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
    )
    assert done.returncode == 0
    assert b"gr??e" in done.stdout


def test_ctrl_c_while_a_model_loads_or_talks(home: Path, tiny: Path) -> None:
    words = ("run", "tiny", "Hello", "--temperature", "9", "--context", "128")
    process = start(home, *words, stdin=subprocess.DEVNULL)
    assert process.stderr is not None
    assert process.stderr.readline() == "loading tiny\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert process.stderr.read() == "mc-chat: interrupted\n"


def test_windows_is_told_where_it_runs() -> None:
    code = "import os, pathlib, platform; os.name = 'nt'; import app.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "mc-chat: it runs on Linux and macOS; on Windows install it inside WSL\n"
    )


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("run", "--help")])
def test_help_comes_without_anything_heavy(words: tuple[str, ...]) -> None:
    code = f"""
import sys
from app import cli
try:
    cli.main({words!r})
except SystemExit as end:
    assert end.code == 0
heavy = {{"torch", "transformers", "numba", "textual", "rich", "pulp", "hqq"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mc-chat" in done.stdout


@pytest.mark.parametrize("command", ["models", "run"])
def test_plain_commands_never_import_the_screens_library(
    home: Path, tiny: Path, command: str
) -> None:
    words = {"models": ["models"], "run": ["run", "tiny", "Hello", "--max-tokens", "1"]}[command]
    code = f"""
import sys
from app import cli
assert cli.main({words!r}) == 0
assert not {{"textual", "rich"}} & set(sys.modules)
"""
    environment = {**os.environ, "MC_CHAT_HOME": str(home)}
    subprocess.run(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.DEVNULL, check=True
    )
