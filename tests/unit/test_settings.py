from pathlib import Path

import pytest

from app.settings import Settings, load
from engine.errors import UsageError
from engine.protocol import SamplingOptions


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def test_without_a_file_the_defaults_hold(tmp_path: Path):
    assert load(tmp_path / "none.toml") == Settings()
    assert load(written(tmp_path, "")) == Settings()


def test_every_setting_can_be_written(tmp_path: Path):
    text = """
    device = "cuda:1"
    context = 4096
    max_tokens = 200
    pruning = "off"
    system = "Answer briefly."
    [sampling]
    temperature = 1
    top_p = 0.9
    seed = 7
    """
    assert load(written(tmp_path, text)) == Settings(
        device="cuda:1",
        context=4096,
        max_tokens=200,
        pruning="off",
        system="Answer briefly.",
        sampling=SamplingOptions(temperature=1.0, top_p=0.9, seed=7),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("temperature = 1", "there is no setting 'temperature'"),
        ("[sampling]\nheat = 1", "there is no setting 'sampling.heat'"),
        ("sampling = 3", "'sampling' is a table: write [sampling]"),
        ('context = "long"', "'context' must be int, not 'long'"),
        ("context = true", "'context' must be int, not True"),
        ("system = 3", "'system' must be str, not 3"),
        ('pruning = "maybe"', "'pruning' is one of: odp, off"),
        ("context = ", "cannot be read"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path: Path, text: str, says: str):
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as raised:
        load(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert says in message
    assert "\n" not in message
