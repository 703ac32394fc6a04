"""`mc-chat eval` as users and scripts meet it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import assets
from app import paths
from compress.evaluation import needle
from tests.checkpoints_for_tests import write_tiny_checkpoint
from tests.commands_for_tests import Command, failed
from tests.unit.models_for_tests import save_tiny_mixtral
from tests.unit.tokenizers_for_tests import speak_as_the_demo


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("Some words to be surprised by, and others. " * 150)
    return path


@pytest.fixture
def other(tiny: Path) -> str:
    """Another model with the same tokenizer, installed."""
    write_tiny_checkpoint(paths.models_dir() / "other", seed=1)
    return "other"


def test_a_comparison_has_stable_keys(
    mc_chat: Command, tiny: Path, other: str, text: Path, home: Path
) -> None:
    words = ("eval", "tiny", "--text", text, "--window", "32", "--json")
    plain = mc_chat(*words).json
    assert plain["against"] is plain["token_by_token"] is plain["recall_grid"] is None
    result = mc_chat(*words, "--against", other, "--pruning", "odp", "--token-by-token")
    found = result.json
    assert set(plain) == set(found)
    against = found["against"]
    assert against["perplexity"] == found["perplexity"]
    assert against["prune_ratio"] == found["prune_ratio"] > 0
    assert found["token_by_token"]["perplexity"] > 1
    assert found["token_by_token"]["tokens"] == found["tokens"] == against["tokens"]
    for estimate in ("ratio", "log_ratio", "top1_agreement"):
        assert set(against[estimate]) == {"value", "low", "high"}
    assert set(against["kl"]) == {"mean", "median", "percentile_99"}
    assert against["kl"]["mean"]["low"] > 0
    assert list((home / "cache").glob("*.tmp")) == []


def test_a_report_for_people(mc_chat: Command, tiny: Path, other: str, text: Path) -> None:
    words = ("eval", "tiny", "--text", text, "--window", "32", "--against", other)
    lines = mc_chat(*words, "--token-by-token").out.splitlines()
    assert lines[0].startswith("perplexity ")
    assert lines[1] == "0 % of the expert slots skipped"
    assert "token by token" in lines[2]
    assert lines[3].startswith("against the original, ")
    table = dict(line.strip().split("  ", 1) for line in lines[4:])
    low, high = table["perplexity, times original"].strip().split("(")[1].rstrip(")").split(" to ")
    assert float(low) < float(high)
    assert "KL divergence, mean" in table
    itself = mc_chat(*words[:-1], "tiny").out
    assert "perplexity, times original  1.0000  (1.0000 to 1.0000)" in itself
    assert "same most likely token      100.00%  (100.00% to 100.00%)" in itself


def test_the_demos_original_is_named_demo(mc_chat: Command, tiny: Path) -> None:
    """And no build of it, installed or not: what it was made from."""
    asked: list[Any] = []

    def evaluate(folder: Path, scope: Any, *rest: object) -> Any:
        asked.append(scope.against)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compress.evaluation.evaluate", evaluate)
        mc_chat("eval", "tiny", "--against", "demo")
        mc_chat("eval", "tiny", "--against", "tiny")
    assert asked == [assets.DEMO_DIR, tiny]


@pytest.fixture
def long_model(tmp_path: Path) -> Path:
    """A tiny original with the demo's language and a context that has a far away."""
    folder = tmp_path / "long"
    save_tiny_mixtral(
        folder, vocab_size=2048, num_hidden_layers=1, max_position_embeddings=1024, eos_token_id=2
    )
    speak_as_the_demo(folder)
    return folder


def test_the_needles_grid_is_drawn(
    mc_chat: Command, long_model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needle, "ITEMS", 1)
    monkeypatch.setattr(needle, "_LENGTHS", (0.25, 0.5))
    picture = tmp_path / "needle.svg"
    words = ("eval", long_model, "--text", text, "--picture", picture)
    grid = mc_chat(*words, "--json").json["recall_grid"]
    assert grid["lengths"] == [240, 480]
    assert grid["depths"] == [0, 0.25, 0.5, 0.75, 1]
    assert [len(row) for row in grid["shares"]] == [5, 5]
    assert picture.read_text().startswith("<svg ")
    lines = mc_chat(*words).out.splitlines()
    assert lines[-2].split() == ["240", *(f"{share:.0%}" for share in grid["shares"][0])]


def test_mistakes_are_told_before_anything_is_loaded(
    mc_chat: Command, tiny: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*unused: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr("compress.evaluation.report.load_model", loaded)
    words = ("eval", "tiny", "--text", text, "--window", "32")
    failed(mc_chat(*words, "--picture", "needle.png"), 2, "needle.svg")
    failed(mc_chat(*words, "--tasks", "needle"), 2, "1024")
    failed(mc_chat(*words, "--tasks", "haystack"), 2, "harness:NAME")
    failed(mc_chat(*words, "--against", "nobody"), 1, "no model named")
    failed(mc_chat(*words, "--device", "cuda:9"), 2, "cuda:9")
    monkeypatch.setattr("compress.evaluation.report.find_spec", lambda name: None)
    failed(mc_chat(*words, "--tasks", "harness:arc_easy"), 2, "pip install 'mc-chat[eval]'")


def test_a_full_disk_is_one_line(
    mc_chat: Command, tiny: Path, other: str, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "compress.evaluation.scratch.shutil.disk_usage"
    monkeypatch.setattr(path, lambda folder: SimpleNamespace(free=1000))
    words = ("eval", "tiny", "--text", text, "--window", "32", "--against", other)
    failed(mc_chat(*words), 1, "make room")
