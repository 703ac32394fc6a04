"""`mc-chat prune`, and --pruning otp afterwards."""

from pathlib import Path

import pytest

from tests.commands_for_tests import Command, failed

LEARN = ("prune", "tiny", "--samples", "8", "--window", "64")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("Some words to be surprised by, and others. " * 150)
    return path


def test_what_it_learned_is_used_from_then_on(mc_chat: Command, tiny: Path, text: Path) -> None:
    asked = ("eval", "tiny", "--text", text, "--window", "32", "--pruning", "otp", "--json")
    failed(mc_chat(*asked), 2, "run `mc-chat prune` on it")
    found = mc_chat(*LEARN, "--text", text, "--skip", "0.3", "--json").json
    assert found["name"] == "tiny"
    assert found["otp"]["skipped"] == pytest.approx(0.3, abs=0.01)
    assert 0.1 < mc_chat(*asked).json["prune_ratio"] < 0.5
    assert mc_chat("verify", "tiny").code == 0
    said = ("run", "tiny", "Hello", "--max-tokens", "4", "--pruning", "otp", "--json")
    assert mc_chat(*said).json["meters"]["prune_ratio"] > 0
    fewer = mc_chat(*LEARN, "--text", text, "--fewer", "0.02").out
    assert fewer.startswith("tiny skips ")
    assert "text.txt" in fewer


def test_what_cannot_be_learned_is_refused(mc_chat: Command, tiny: Path, text: Path) -> None:
    failed(mc_chat(*LEARN, "--text", text, "--skip", "0.5"), 2, "cannot be skipped")
    failed(mc_chat(*LEARN, "--text", "no.txt"), 1, "no text file")
    assert not (tiny / "otp.safetensors").exists()
    with_both = mc_chat(*LEARN, "--skip", "0.1", "--fewer", "0.1")
    failed(with_both, 2, "not allowed with")
