import pytest

from app import paths


def test_home_variable_moves_everything_and_creates_nothing(
    tmp_path, monkeypatch: pytest.MonkeyPatch
):
    home = tmp_path / "home"
    monkeypatch.setenv("MC_CHAT_HOME", str(home))

    places = [
        paths.data_dir(),
        paths.models_dir(),
        paths.history_db(),
        paths.log_dir(),
        paths.settings_file(),
    ]

    assert all(home == place or home in place.parents for place in places)
    assert len(set(places)) == len(places)
    assert not home.exists()


def test_without_it_the_platform_decides(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MC_CHAT_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    assert "mc-chat" in paths.data_dir().parts
    assert "mc-chat" in paths.settings_file().parts


def test_a_relative_home_is_made_absolute(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MC_CHAT_HOME", "here")
    assert paths.data_dir() == tmp_path / "here"
