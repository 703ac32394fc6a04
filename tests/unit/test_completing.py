"""Tab after an @ and after a /: names of files, as a shell would complete them, and commands."""

from pathlib import Path

import pytest

from app import paths
from app.completing import Completion, complete, complete_argument, complete_command
from tests.fakes import fake_job


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("notes.txt", "notes.md", "two words.txt", ".hidden", "folder/inner.py", "z\nz"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("text")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("before", "text", "names"),
    [
        ("see @no", "@notes.", ("notes.md", "notes.txt")),
        ("@notes.t", "@notes.txt ", ("notes.txt",)),
        ("@fo", "@folder/", ("folder/",)),
        ("@folder/", "@folder/inner.py ", ("inner.py",)),
        ("@two", '@"two words.txt" ', ("two words.txt",)),
        ('@"two w', '@"two words.txt" ', ("two words.txt",)),
        ("@", "@", ("folder/", "notes.md", "notes.txt", "two words.txt")),
        ("@.", "@.hidden ", (".hidden",)),
        ("@nothing", "@nothing", ()),
        ("@nowhere/at/all", "@nowhere/at/all", ()),
    ],
)
def test_a_name_becomes_as_long_as_is_certain(
    before: str, text: str, names: tuple[str, ...]
) -> None:
    completion = complete(before)
    assert completion is not None
    assert (completion.text, completion.names) == (text, names)
    assert before.endswith(completion.typed)


@pytest.mark.parametrize("before", ["", "no", "ada@no", "@notes.txt ", '@"notes.txt" ', "a @b c"])
def test_where_no_name_is_begun_there_is_nothing_to_complete(before: str) -> None:
    assert complete(before) is None


def test_a_whole_path_and_the_users_home(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    completion = complete(f"@{here}/folder/in")
    assert completion is not None
    assert completion.text == f"@{here}/folder/inner.py "
    monkeypatch.setenv("HOME", str(here))
    completion = complete("@~/folder/")
    assert completion is not None
    assert completion.text == "@~/folder/inner.py "


@pytest.mark.parametrize(
    ("line", "text", "names"),
    [
        ("/exp", "/export ", ("/export",)),
        ("/sto", "/stop", ("/stop",)),
        ("/mod", "/model", ("/models", "/model")),
        ("/HEL", "/help", ("/help",)),
        ("/s", "/s", ("/stop", "/system", "/stronger", "/sleep")),
    ],
)
def test_a_command_is_completed_as_far_as_it_is_settled(
    line: str, text: str, names: tuple[str, ...]
) -> None:
    assert complete_command(line) == Completion(line, text, names)


@pytest.mark.parametrize(
    "line", ["", "stop", " /stop", "/usr/bin", "/system x", "/stop\nit", "/nwe"]
)
def test_what_begins_no_command_is_left_alone(line: str) -> None:
    assert complete_command(line) is None


@pytest.mark.parametrize(
    ("line", "typed", "text", "names"),
    [
        ("/pruning o", "o", "o", ("on", "odp", "otp", "off")),
        ("/pruning od", "od", "odp", ("odp",)),
        ("/theme nor", "nor", "nord", ("nord",)),
        ("/Theme mc-l", "mc-l", "mc-light", ("mc-light",)),
        ("/model de", "de", "demo", ("demo", "demo-2bit")),
        ("/model x", "x", "x", ()),
    ],
)
def test_what_stands_behind_a_command_is_completed(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    typed: str,
    text: str,
    names: tuple[str, ...],
) -> None:
    monkeypatch.setenv(paths.HOME_VARIABLE, str(here))
    for name in ("demo", "demo-2bit"):
        fake_job.write_model(paths.models_dir() / name)
    assert complete_argument(line) == Completion(typed, text, names)


@pytest.mark.parametrize("line", ["/pruning", "/system Be", "/new x", "theme n", "/nwe x"])
def test_what_may_be_anything_is_not_completed(line: str) -> None:
    assert complete_argument(line) is None
