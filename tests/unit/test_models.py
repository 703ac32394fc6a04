from pathlib import Path

import pytest

from app import models, paths
from engine.errors import CheckpointError
from engine.manifest import FORMAT_VERSION, LayerRecord, Manifest, Recipe, Sizes, Source


def a_manifest(name: str) -> Manifest:
    layer = LayerRecord((1, 2, 2, 3), 0.5, 0.1, (0.25,) * 4, (0.25,) * 4, ((0.3, 0.2, 0.1),) * 4)
    return Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        source=Source("demo", "1", "0" * 64),
        recipe=Recipe(2.0, "gptq", "pmq", 128, "demo", 8, 256, 0, 1.0, 1.0, 1.0),
        layers=(layer,),
        sizes=Sizes(1000, 100, 500, 4000, 6000),
        files={},
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MC_CHAT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def install(name: str) -> Path:
    folder = paths.models_dir() / name
    folder.mkdir(parents=True)
    (folder / "mc.json").write_text(a_manifest(name).to_json())
    return folder


def test_nothing_is_installed_on_a_fresh_machine(home: Path):
    assert models.installed() == []
    assert models.damaged() == []
    assert not models.demo_installed()
    assert not home.exists()


def test_installed_models_come_by_name_with_their_manifest(home: Path):
    for name in ("zebra", "demo"):
        install(name)
    (paths.models_dir() / "half-written").mkdir()

    found = models.installed()

    assert [model.name for model in found] == ["demo", "zebra"]
    assert found[0].manifest == a_manifest("demo")
    assert models.demo_installed()
    assert found[0].folder == models.demo_folder()


def test_a_damaged_model_hides_no_other(home: Path):
    install("good")
    (install("bad") / "mc.json").write_text("{")

    assert [model.name for model in models.installed()] == ["good"]
    (bad,) = models.damaged()
    assert bad.name == "bad"
    assert "cannot be read" in bad.problem


def test_resolve_an_installed_name(home: Path):
    folder = install("mine")
    assert models.resolve("mine") == folder


def test_an_installed_name_wins_over_a_folder_unless_written_as_a_path(home: Path):
    installed = install("mine")
    here = Path("mine")
    here.mkdir()
    (here / "config.json").write_text("{}")

    assert models.resolve("mine") == installed
    assert models.resolve("./mine") == here.absolute()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nobody", "no model is installed; run `mc-chat compress demo`"),
        ("demo", "run `mc-chat compress demo`"),
        ("./nowhere", "there is no folder ./nowhere"),
        ("", "there is no model named ''"),
    ],
)
def test_an_unknown_name_says_what_to_do(home: Path, name: str, says: str):
    with pytest.raises(CheckpointError, match=r"^[^\n]+$") as raised:
        models.resolve(name)
    assert says in str(raised.value)


def test_an_unknown_name_lists_what_exists(home: Path):
    install("mine")
    with pytest.raises(CheckpointError, match="installed: mine"):
        models.resolve("nobody")


def test_a_folder_without_a_model_is_refused(home: Path):
    Path("empty").mkdir()
    with pytest.raises(CheckpointError, match=r"neither mc\.json"):
        models.resolve("./empty")
