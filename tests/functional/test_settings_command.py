"""`mc-chat settings` as users and scripts meet it."""

from pathlib import Path

import pytest

from app import paths, tui
from app.settings_template import template
from tests.checkpoints_for_tests import write_tiny_checkpoint
from tests.commands_for_tests import Command, failed


def test_what_holds_is_shown_with_its_origin(
    mc_chat: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "settings init` writes it" in mc_chat("settings").out
    assert mc_chat("settings", "init").out == f"wrote {paths.settings_file()}\n"
    failed(mc_chat("settings", "init"), 2, "is there already")
    monkeypatch.setenv("MC_CHAT_ASCII", "true")
    assert mc_chat("settings", "set", "sampling.top_k", "40").code == 0
    assert mc_chat("settings", "set", 'presets."a b".system', "Be \x1b[1mbold").code == 0
    found = mc_chat("settings", "--json").json
    assert found["path"] == str(paths.settings_file())
    assert found["settings"]["ascii"] == {"value": True, "from": "MC_CHAT_ASCII"}
    assert found["settings"]["device"] == {"value": "auto", "from": "default"}
    top_k = found["settings"]["sampling.top_k"]
    line = int(top_k.pop("from").removeprefix("line "))
    assert top_k == {"value": 40}
    assert paths.settings_file().read_text().splitlines()[line - 1] == "top_k = 40"
    text = mc_chat("settings").out
    (row,) = [row.split() for row in text.splitlines() if row.startswith("sampling.top_k")]
    assert row == ["sampling.top_k", "40", "line", str(line)]
    assert "\x1b" not in text
    back = mc_chat("settings", "unset", "sampling.top_k", "--json").json
    assert back == {"key": "sampling.top_k", "value": 0, "from": "default"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("set", "context", "long"), "must be a whole number"),
        (("set", "colour", "red"), "is no setting"),
        (("set", "a b", "red"), "no key of a setting"),
        (("set", "context"), "VALUE"),
        (("frobnicate",), "frobnicate"),
    ],
)
def test_what_is_not_allowed_is_one_line(
    mc_chat: Command, words: tuple[str, ...], said: str
) -> None:
    failed(mc_chat("settings", *words), 2, said)
    assert not paths.settings_file().exists()


def test_a_mistake_in_the_file_is_told_by_every_command_that_reads_it(mc_chat: Command) -> None:
    paths.settings_file().parent.mkdir(parents=True)
    paths.settings_file().write_text("[sampling]\nheat = 3\n")
    for words in (("settings",), ("models",), ("run", "tiny", "Hello")):
        failed(mc_chat(*words), 2, f"{paths.settings_file()}, line 2: 'sampling.heat'")


def test_models_are_where_the_settings_say(mc_chat: Command, tmp_path: Path) -> None:
    mc_chat("settings", "set", "models_dir", str(tmp_path / "disk"))
    write_tiny_checkpoint(tmp_path / "disk" / "tiny")
    found = mc_chat("models", "--json").json["models"]
    assert [model["folder"] for model in found] == [str(tmp_path / "disk" / "tiny")]


def test_the_first_start_of_the_screen_writes_the_file(
    mc_chat: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tui, "run", lambda model=None: None)
    monkeypatch.setattr("app.opening.is_terminal", lambda: True)
    monkeypatch.setattr("app.opening.is_drawn_here", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert mc_chat().code == 0
    assert paths.settings_file().read_text() == template()
    paths.settings_file().write_text("ascii = true\n")
    assert mc_chat().code == 0
    assert paths.settings_file().read_text() == "ascii = true\n"
