"""What holds: the file, the environment, the defaults; and what is refused."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.app import App
from textual.binding import Binding
from textual.screen import Screen
from textual.theme import BUILTIN_THEMES

from app import paths, settings
from app.key_names import ACTIONS, keys_problem
from app.screens.chat import ChatScreen
from app.setting_words import EXPLAINED, THEMES
from app.settings import Origin, Preset, Settings, load, read, set_value
from app.settings_template import template
from app.theme import THEMES as OURS
from app.tui import McChatApp
from engine.errors import UsageError
from engine.protocol import SamplingOptions
from engine.sampling import check_options


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def test_without_a_file_the_defaults_hold(tmp_path: Path):
    assert load(tmp_path / "none.toml") == Settings()
    assert load(written(tmp_path, "")) == Settings()


EVERYTHING = """\
device = "cuda:1"
context = 4096
kv_bits = 8
max_tokens = 200
pruning = "off"
system = "Answer briefly."
models_dir = "/mnt/models"
idle_unload_minutes = 15
theme = "nord"
enter_sends = false
show_gauges = false
reduce_motion = true
ascii = true
[sampling]
temperature = 1
top_p = 0.9
seed = 7
[keys]
stop = "ctrl+u, f11"
[presets.coder]
system = "Code only."
temperature = 0.1
"""


def test_every_setting_can_be_written(tmp_path: Path):
    assert load(written(tmp_path, EVERYTHING), {}) == Settings(
        device="cuda:1",
        context=4096,
        kv_bits=8,
        max_tokens=200,
        pruning="off",
        system="Answer briefly.",
        models_dir="/mnt/models",
        idle_unload_minutes=15,
        theme="nord",
        enter_sends=False,
        show_gauges=False,
        reduce_motion=True,
        ascii=True,
        sampling=SamplingOptions(temperature=1.0, top_p=0.9, seed=7),
        keys={"stop": "ctrl+u, f11"},
        presets={"coder": Preset(system="Code only.", temperature=0.1)},
    )


def test_a_preset_changes_what_it_names_and_nothing_else(tmp_path: Path):
    found = load(written(tmp_path, EVERYTHING), {})
    coder = found.preset("coder")
    assert coder.sampling(found.sampling) == SamplingOptions(temperature=0.1, top_p=0.9, seed=7)
    with pytest.raises(UsageError, match="there is no preset 'poet'; there are: coder"):
        found.preset("poet")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("temperature = 1", 1, "'temperature' is no setting; there are: ascii, "),
        ("\n[sampling]\nheat = 1", 3, "'sampling.heat' is no setting; there are: min_p, "),
        ("\nsampling = 3", 2, "'sampling' is a table: write [sampling]"),
        ("# context\ncontext = 'long'", 2, "'context' must be a whole number, not 'long'"),
        ("kv_bits = 4", 1, "'kv_bits' must be one of: 8, 16"),
        ("kv_bits = 8.0", 1, "'kv_bits' must be one of: 8, 16"),
        ("kv_bits = '8'", 1, "'kv_bits' must be one of: 8, 16"),
        ("context = true", 1, "'context' must be a whole number, not True"),
        ("context = 0", 1, "'context' must be 1 or more, not 0"),
        ("system = 3", 1, "'system' must be a text, not 3"),
        ("system = 1979-05-27", 1, "'system' must be a text, not "),
        ('pruning = "maybe"', 1, "'pruning' must be one of: odp, otp, off"),
        ('device = "abacus"', 1, "'device' must be auto, cpu, cuda or cuda:N, not 'abacus'"),
        ('theme = "pink"', 1, "'theme' must be one of: mc-chat, "),
        ("ascii = 1", 1, "'ascii' must be true or false, not 1"),
        ("models_dir = 'here'", 1, "'models_dir' must be an absolute path"),
        ("sampling = { top_p = 2 }", 1, "'sampling.top_p' must be above 0 and at most 1, not 2.0"),
        ("[sampling]\n\ntemperature = nan", 3, "'sampling.temperature' must be 0 or more"),
        ("idle_unload_minutes = -1", 1, "must be 0 or more, not -1"),
        ("[keys]\nfly = 'f9'", 2, "'keys.fly' is no action; there are: stop, "),
        ("[keys]\nstop = 'f99'", 2, "'f99' is no key"),
        ("[keys]\nstop = 'x'", 2, "'x' would be typed; write it with ctrl or alt"),
        ("[keys]\n'stop' = 'f9,f2'", 2, "'keys.stop' is f2, which is the key of 'pruning' too"),
        ("[keys]\nstop = 9", 2, "'keys.stop' must be a text, not 9"),
        ("presets = 3", 1, "'presets' is a table: write [presets]"),
        ("[presets]\ncoder = 3", 2, "'presets.coder' is a table: write [presets.coder]"),
        ("[presets.'a b']\nsystem = 3", 2, "'presets.\"a b\".system' must be a text, not 3"),
        ("[presets.a]\ndevice = 'cpu'", 2, "'presets.a.device' is no setting; there are: "),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, line: int, says: str):
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as raised:
        load(path, {})
    message = str(raised.value)
    assert message.startswith(f"{path}, line {line}: ")
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"context = ", "line 1, the last"),
        (b"a = 1\nb = = 2", "line 2, column 5"),
        (b"a = 1\na = 2", "line 2"),
        (b"\xff\xfe", "cannot be read"),
        (b"#" * 2_000_000, "2000000 bytes"),
    ],
)
def test_what_is_no_toml_is_refused(tmp_path: Path, content: bytes, says: str):
    path = tmp_path / "settings.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=says) as raised:
        load(path, {})
    assert str(raised.value).startswith(str(path))


# --- the environment ------------------------------------------------------------------------------


def test_a_variable_goes_before_the_file_and_says_so(tmp_path: Path):
    path = written(tmp_path, EVERYTHING)
    environment = {
        "MC_CHAT_DEVICE": "cpu",
        "MC_CHAT_CONTEXT": "512",
        "MC_CHAT_ASCII": "false",
        "MC_CHAT_SAMPLING__TEMPERATURE": "0.5",
        "MC_CHAT_PRESETS__CODER__SYSTEM": "12",
        "MC_CHAT_KEYS__STOP": "f11",
        "MC_CHAT_MODELS": "~/models",
        "MC_CHAT_HOME": "/somewhere",
        "OTHER": "x",
    }
    found = read(path, environment)
    holds = found.settings
    assert (holds.device, holds.context, holds.ascii, holds.models_dir) == (
        *("cpu", 512, False),
        "~/models",
    )
    assert holds.sampling == SamplingOptions(temperature=0.5, top_p=0.9, seed=7)
    assert holds.presets["coder"] == Preset(system="12", temperature=0.1)
    assert holds.keys == {"stop": "f11"}
    assert found.origins[("sampling", "temperature")] == Origin("MC_CHAT_SAMPLING__TEMPERATURE")
    assert str(found.origins[("models_dir",)]) == "MC_CHAT_MODELS"
    assert str(found.origins[("sampling", "seed")]) == "line 17"
    assert ("presets", "coder", "top_k") not in found.origins


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("MC_CHAT_CONTEXT", "long", "'context' must be a whole number, not 'long'"),
        ("MC_CHAT_KV_BITS", "9", "'kv_bits' must be one of: 8, 16"),
        ("MC_CHAT_CONTEXT", "", "'context' must be a whole number, not ''"),
        ("MC_CHAT_CONTEXT", "1\nascii = true", "must be a whole number"),
        ("MC_CHAT_SAMPLING__TOP_P", "3", "must be above 0 and at most 1"),
        ("MC_CHAT_ASCII", "yes", "must be true or false"),
        ("MC_CHAT_COLOUR", "red", "'colour' is no setting"),
        ("MC_CHAT_SAMPLING", "hot", "'sampling' is a table"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, variable: str, value: str, says: str):
    with pytest.raises(UsageError) as raised:
        load(tmp_path / "none", {variable: value})
    assert str(raised.value).startswith(f"{variable}: ")
    assert says in str(raised.value)


def test_a_mistake_in_the_file_is_told_though_a_variable_goes_before_it(tmp_path: Path):
    path = written(tmp_path, "context = 'long'")
    with pytest.raises(UsageError, match="line 1"):
        load(path, {"MC_CHAT_CONTEXT": "512"})


# --- the file that the program writes -------------------------------------------------------------


def test_the_template_changes_nothing_and_names_everything():
    text = template()
    assert settings._found(Path("f"), text, ()).settings == Settings()
    uncommented = "\n".join(
        line.removeprefix("# ") if " = " in line or line.startswith("# [") else line
        for line in text.splitlines()
    )
    examples = settings._found(Path("f"), uncommented, ()).settings
    assert examples == Settings(
        context=8192,
        max_tokens=1024,
        sampling=SamplingOptions(seed=1),
        keys=ACTIONS,
        presets={"coder": examples.presets["coder"]},
    )
    given = {key[-1] for key in tomllib_leaves(uncommented)}
    assert set(EXPLAINED) | set(ACTIONS) == given
    assert max(map(len, text.splitlines())) <= 100


def tomllib_leaves(text: str) -> list[tuple[str, ...]]:
    from app.toml_lines import leaves

    return list(leaves(tomllib.loads(text)))


def test_a_value_is_changed_where_the_template_explains_it(tmp_path: Path):
    path = tmp_path / "deep" / "settings.toml"
    settings.write(path, template())
    set_value(path, ("sampling", "top_k"), 40)
    set_value(path, ("device",), "cpu")
    assert load(path, {}) == Settings(device="cpu", sampling=SamplingOptions(top_k=40))
    lines = path.read_text().splitlines()
    assert lines[lines.index("# top_k = 0") + 1] == "top_k = 40"
    assert [line for line in lines if line not in {"top_k = 40", 'device = "cpu"'}] == (
        template().splitlines()
    )
    set_value(path, ("device",), None)
    assert load(path, {}).device == "auto"
    assert [entry.name for entry in path.parent.iterdir()] == ["settings.toml"]


def test_a_value_that_is_not_allowed_is_not_written(tmp_path: Path):
    path = written(tmp_path, "# mine\n")
    for key, value in ((("context",), 0), (("colour",), "red"), (("sampling",), 3)):
        with pytest.raises(UsageError, match=repr(key[0])):
            set_value(path, key, value)
    assert path.read_text() == "# mine\n"
    broken = written(tmp_path, "context = 'long'\n")
    with pytest.raises(UsageError, match="line 1"):
        set_value(broken, ("ascii",), True)


def test_a_link_to_the_file_stays_a_link(tmp_path: Path):
    target = written(tmp_path, "ascii = true\n")
    link = tmp_path / "link.toml"
    link.symlink_to(target)
    set_value(link, ("ascii",), False)
    assert link.is_symlink()
    assert target.read_text() == "ascii = false\n"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be"):
        set_value(tmp_path / "file" / "settings.toml", ("ascii",), True)


# --- what is said twice agrees --------------------------------------------------------------------

sampling = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(-1, 3),
        "top_k": st.integers(-2, 5),
        "top_p": st.floats(-0.5, 1.5) | st.sampled_from([0.0, 1.0]),
        "min_p": st.floats(-0.5, 1.5) | st.sampled_from([0.0, 1.0]),
        "repetition_penalty": st.floats(-1, 2) | st.just(0.0),
    },
)


@given(sampling)
def test_the_engine_and_the_settings_allow_the_same(options: dict[str, float]):
    allowed = all(EXPLAINED[name].holds(value) for name, value in options.items())
    try:
        check_options(SamplingOptions(**options))
    except UsageError:
        assert not allowed
    else:
        assert allowed


def test_themes_offered_are_those_there_are():
    assert sorted(THEMES) == sorted([*BUILTIN_THEMES, *(theme.name for theme in OURS)])


@pytest.mark.parametrize(("action", "keys"), ACTIONS.items())
def test_keys_are_those_of_the_screen(action: str, keys: str):
    bindings = [binding for owner in (McChatApp, ChatScreen) for binding in bindings_of(owner)]
    assert (action, keys) in [(binding.id, binding.key) for binding in bindings]


def bindings_of(owner: type[App[None]] | type[Screen[None]]) -> list[Binding]:
    return [binding for binding in owner.BINDINGS if isinstance(binding, Binding)]


@pytest.mark.parametrize(
    "key", ["f9", "ctrl+t", "alt+slash", "ctrl+shift+up", "alt+ä", "alt+minus"]
)
def test_keys_may_be(key: str):
    assert keys_problem("stop", key) == ""


@pytest.mark.parametrize("key", ["", ",", "f0", "ctrl+", "ctrl+ctrl", "a", "shift+a", "no_such"])
def test_keys_may_not_be(key: str):
    assert keys_problem("stop", key) != ""


# --- models on another disk -----------------------------------------------------------------------


def test_models_can_be_on_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MC_CHAT_HOME", str(tmp_path / "home"))
    assert paths.models_dir() == tmp_path / "home" / "models"
    settings.write(paths.settings_file(), f'models_dir = "{tmp_path}/disk"\n')
    assert paths.models_dir() == tmp_path / "disk"
    assert paths.history_db().parent == tmp_path / "home"
    monkeypatch.setenv("MC_CHAT_MODELS", "~/models")
    assert paths.models_dir() == Path.home() / "models"


def test_a_home_is_shown_without_its_owner(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/karin")
    assert paths.shown("/home/karin/models") == "~/models"
    assert paths.shown("/home/karina/models") == "/home/karina/models"
    assert paths.shown("/home/karin") == "~"
    monkeypatch.setenv("HOME", "/")
    assert paths.shown("/models") == "/models"
