"""`mc-chat chats`: listing, searching, exporting, importing, deleting."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app import paths
from app.history import History
from tests.chats_for_tests import say_all
from tests.commands_for_tests import Command, Result, failed

Chats = Callable[..., Result]


@pytest.fixture
def chats(mc_chat: Command) -> Chats:
    """Run `mc-chat chats`."""

    def run(*words: str | Path | int) -> Result:
        return mc_chat("chats", *map(str, words))

    return run


@pytest.fixture
def ducks(home: Path) -> int:
    """The older of two chats; the last one is about geese."""
    history = History(paths.history_db())
    ids = [history.new_chat("demo", title) for title in ("Ducks", "Geese \x1b[2J")]
    say_all(history, ids[0], "Do ducks swim?", "They do.")
    say_all(history, ids[1], "And geese?")
    history.close()
    return ids[0]


def test_without_chats_it_says_so(chats: Chats) -> None:
    assert chats().out == "there is no chat yet: `mc-chat` begins one\n"
    assert chats("--json").json == {"chats": []}
    failed(chats("export", "last"), 2, "no chat yet")


def test_the_list_the_last_used_first(chats: Chats, ducks: int) -> None:
    geese, older = chats().out.splitlines()
    assert "Geese [2J  (demo, 1 message)" in geese
    assert "today" in geese
    assert older.split()[0] == str(ducks)
    assert "Ducks  (demo, 2 messages)" in older
    first, second = chats("--json").json["chats"]
    assert (first["title"], second["id"], second["messages"]) == ("Geese [2J", ducks, 2)
    assert set(second) == {
        "id", "title", "model", "created", "updated", "messages", "system", "preset",
    }  # fmt: skip


def test_searching(chats: Chats, ducks: int) -> None:
    title, text = chats("--search", "swim").out.splitlines()
    assert "Ducks" in title
    assert text.strip() == "Do ducks swim?"
    (found,) = chats("--search", "swim", "--json").json["chats"]
    assert (found["id"], found["found"]) == (ducks, "Do ducks swim?")
    assert found["message"] is not None
    assert chats("--search", "nobody").out == "no chat has these words\n"
    assert chats("--search", '"', "--json").json == {"chats": []}


def test_markdown_on_standard_output_and_in_a_file(
    chats: Chats, ducks: int, tmp_path: Path
) -> None:
    text = chats("export", ducks).out
    assert text.startswith("# Ducks\n")
    assert "## Reply\n\nThey do.\n" in text
    assert chats("export", "last").out.startswith("# Geese \\[2J\n")
    file = tmp_path / "ducks.md"
    assert chats("export", ducks, "--out", file).out == f"chat {ducks} is in {file}\n"
    assert file.read_text() == text
    failed(chats("export", ducks, "--out", file), 1, "is there already")


def test_json_goes_out_and_comes_back(chats: Chats, ducks: int, tmp_path: Path) -> None:
    file = tmp_path / "ducks.json"
    result = chats("export", ducks, "--format", "json", "--out", file, "--json").json
    assert result == {"id": ducks, "file": str(file)}
    assert chats("export", ducks, "--format", "json").out == file.read_text()
    assert chats("export", ducks, "--json").out == file.read_text()
    assert chats("--json", "export", ducks).out == file.read_text()
    imported = chats("import", file, "--json").json
    assert (imported["title"], imported["messages"]) == ("Ducks", 2)
    assert imported["id"] != ducks
    assert "Ducks, 2 messages" in chats("import", file).out
    failed(chats("import", tmp_path / "missing.json"), 1, "cannot be read")


def test_deleting_and_bringing_back(chats: Chats, ducks: int) -> None:
    assert f"chats restore {ducks}" in chats("rm", ducks).out
    assert len(chats("--json").json["chats"]) == 1
    assert chats("restore", ducks, "--json").json["title"] == "Ducks"
    assert len(chats("--json").json["chats"]) == 2
    failed(chats("rm", 99), 1, "there is no chat 99")


@pytest.mark.parametrize("word", ["x", "-1", "1.5", ""])
def test_what_is_no_number_is_bad_usage(chats: Chats, word: str) -> None:
    assert chats("rm", word).code == 2
    assert chats("export", word).code == 2


def test_a_damaged_history_is_one_line(chats: Chats, home: Path) -> None:
    home.mkdir()
    paths.history_db().write_bytes(b"no database " * 100)
    failed(chats(), 1, "is damaged")
