"""Completed command lines: what could stand there, and that the shells hear it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app import paths
from app.cli import parser
from app.completion import candidates
from tests.commands_for_tests import Command, failed

REPOSITORY = Path(__file__).resolve().parents[2]


def words(*line: str) -> list[str]:
    return [found.word for found in candidates(parser(), list(line))]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (("c",), ["chat", "chats", "compress", "completion"]),
        (("--v",), ["--version"]),
        (("run", ""), ["tiny", "demo"]),
        (("run", "t"), ["tiny"]),
        (("run", "tiny", "--pr"), ["--preset", "--pruning"]),
        (("run", "--pruning", ""), ["odp", "otp", "off"]),
        (("run", "--json", "--top-k", "5", "ti"), ["tiny"]),
        (("run", "tiny", "--preset", ""), ["coder", "poet"]),
        (("run", "tiny", "--device", "c"), ["cpu", "cuda"]),
        (("run", "tiny", "--file", ""), []),
        (("compress", ""), ["demo"]),
        (("compress", "demo", "--quantizer", "g"), ["gptq"]),
        (("settings", "se"), ["set"]),
        (("settings", "set", "sampling.top"), ["sampling.top_k", "sampling.top_p"]),
        (("eval", "--tasks", "recall", "tiny", "--pr"), ["--pruning"]),
        (("completion", ""), ["bash", "zsh", "fish"]),
        (("fly", ""), []),
        (("run", "no-model", "a prompt", ""), []),
    ],
)
def test_what_could_stand_there(tiny: Path, line: tuple[str, ...], expected: list[str]) -> None:
    paths.settings_file().write_text("[presets.coder]\nsystem = 'Code.'\n[presets.poet]\n")
    assert words(*line) == expected


def test_mistakes_in_the_settings_complete_nothing(home: Path) -> None:
    home.mkdir()
    paths.settings_file().write_text("context = 0\n")
    assert words("run", "") == []
    assert words("run", "--pruning", "of") == ["off"]


def test_a_damaged_model_can_be_named(tiny: Path) -> None:
    (tiny / "mc.json").write_text("{")
    assert words("rm", "t") == ["tiny"]


def test_each_shell_gets_words_as_it_reads_them(mc_chat: Command, tiny: Path) -> None:
    tiny.rename(tiny.with_name("owner:\x1bname"))
    assert mc_chat("completion", "bash", "--", "run", "o").out == "owner:name\n"
    assert mc_chat("completion", "zsh", "--", "run", "o").out == "owner\\:name:2.00 bits\n"
    assert mc_chat("completion", "fish", "--", "run", "o").out == "owner:name\t2.00 bits\n"
    failed(mc_chat("completion", "tcsh"), 2, "tcsh")


# --- the shells themselves ------------------------------------------------------------------------

_TRIES = {
    "bash": """
source ./script
COMP_WORDS=(mc-chat run {words}); COMP_CWORD=2
_mc_chat
printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "zsh": """
compdef() {{ }}; _describe() {{ print -l -- ${{(P)2}}; }}; _files() {{ print files; }}
source ./script
words=(mc-chat run {words}); CURRENT=3
_mc_chat
""",
    "fish": "source ./script; complete -C 'mc-chat run {words}'",
}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """An `mc-chat` that fails when anything heavy was imported."""
    program = tmp_path / "bin" / "mc-chat"
    program.parent.mkdir()
    light = "assert not {'torch', 'textual', 'rich', 'transformers', 'numba'} & set(sys.modules)"
    code = f"import sys; sys.path[:0] = ['{REPOSITORY}']; from app.cli import main; main(); {light}"
    program.write_text(f'#!/bin/sh\nexec \'{sys.executable}\' -c "{code}" "$@"\n')
    program.chmod(0o755)
    return program


def test_it_imports_nothing_heavy(tiny: Path, program: Path) -> None:
    words = ("completion", "bash", "--", "run", "")
    done = subprocess.run([program, *words], capture_output=True, text=True, check=True)
    assert done.stdout == "tiny\ndemo\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes(
    mc_chat: Command, tiny: Path, tmp_path: Path, program: Path, shell: str
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    (tmp_path / "script").write_text(mc_chat("completion", shell).out)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"

    def completed(partial: str) -> list[str]:
        done = subprocess.run(
            [shell, "-c", _TRIES[shell].format(words=partial)],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert completed("ti")[0].startswith("tiny")
    # No model is named so: files.
    assert completed("scr") == {"bash": [], "zsh": ["files"], "fish": ["script"]}[shell]
