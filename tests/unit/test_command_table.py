import pytest

from app.command_table import COMMANDS, action_of, begun
from app.key_names import ACTIONS
from app.key_words import key_words, keys_words
from app.pruning_words import (
    pruning_of,
    pruning_words,
    stepped,
    switched,
    ways_lines,
    ways_words,
)
from engine.errors import UsageError
from engine.manifest import OtpRecord
from engine.protocol import ODP_OR_NOT, PruningMode, SetPruning


def test_names_are_words_and_given_once():
    names = [command.name for command in COMMANDS]
    assert len(set(names)) == len(names)
    assert all(name.isalpha() and name.islower() for name in names)


def test_every_action_with_a_key_is_a_command():
    assert {command.key for command in COMMANDS} - {""} == set(ACTIONS)


def test_a_slash_command_is_an_action():
    assert action_of("/new") == "screen.new_chat"
    assert action_of(" /Quit ".strip()) == "app.quit"
    assert action_of("/pruning 0.5") == "screen.prune_as('0.5')"
    assert action_of("/theme it's (1)") == """app.use_theme("it's (1)")"""


def test_what_a_line_can_become():
    assert begun("/") == list(COMMANDS)
    assert [command.name for command in begun("/sy")] == ["system"]
    assert [command.name for command in begun("/theme no")] == ["theme"]
    assert begun("/new one") == begun("new") == begun("/system x\ny") == begun("/tmp/x is") == []


@pytest.mark.parametrize(
    ("text", "words"), [("/nwe", "there is no /nwe; there are: /"), ("/new one", "stands alone")]
)
def test_what_is_no_command_is_told(text: str, words: str):
    with pytest.raises(UsageError, match=words):
        action_of(text)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("escape", "Esc"),
        ("f12", "F12"),
        ("ctrl+n", "Ctrl+N"),
        ("alt+question_mark", "Alt+?"),
        ("ctrl+left_square_bracket", "Ctrl+["),
        ("pagedown", "PgDn"),
        ("tab", "Tab"),
        ("alt+space", "Alt+Space"),
        ("ctrl+delete", "Ctrl+Delete"),
    ],
)
def test_keys_in_words(key: str, words: str):
    assert key_words(key) == words


def test_several_keys_in_words():
    assert keys_words("f1, question_mark") == "F1  ?"


def test_pruning_in_words_and_back():
    assert pruning_words(SetPruning("off", 1.5)) == "no pruning"
    assert pruning_words(SetPruning("odp")) == "ODP on"
    assert pruning_words(SetPruning("odp", 0.75)) == "ODP ×0.75"
    assert pruning_of("off", SetPruning("odp", 1.5)) == SetPruning("off", 1.5)
    assert pruning_of("on", SetPruning("off", 1.5)) == SetPruning("odp", 1.5)
    assert pruning_of("0.5", SetPruning("off")) == SetPruning("odp", 0.5)
    assert pruning_words(SetPruning("otp", 0.75)) == "OTP ×0.75"
    assert pruning_of("otp", SetPruning("odp", 0.5)) == SetPruning("otp", 0.5)
    assert pruning_of("on", SetPruning("otp", 1.5)) == SetPruning("otp", 1.5)
    assert pruning_of("0.5", SetPruning("otp")) == SetPruning("otp", 0.5)
    for wrong in ("2.1", "-1", "nan", "strong"):
        with pytest.raises(UsageError, match=f"from 0 to 2, not {wrong}"):
            pruning_of(wrong, SetPruning("odp"))


def test_steps_stay_within_the_limits():
    for strength, steps, found in ((1.0, 1, 1.25), (2.0, 1, 2.0), (0.0, -1, 0.0), (0.25, -1, 0.0)):
        assert stepped(SetPruning("otp", strength), steps) == SetPruning("otp", found)
    assert stepped(SetPruning("off"), 1) == SetPruning("odp", 1.25)


def test_the_modes_that_a_model_knows_take_turns():
    now = SetPruning("odp", 1.5)
    turns = [now := switched(now, ("odp", "otp", "off")) for _ in range(3)]
    assert [turn.mode for turn in turns] == ["otp", "off", "odp"]
    assert {turn.strength for turn in turns} == {1.5}
    assert switched(SetPruning("otp"), ODP_OR_NOT).mode == "odp"


@pytest.mark.parametrize(
    ("wanted", "short", "learned"),
    [
        ("odp", "ODP", "ODP, OTP 40 %"),
        ("otp", "ODP", "OTP 40 %, ODP"),
        ("off", "no pruning, ODP", "no pruning, ODP, OTP 40 %"),
    ],
)
def test_the_ways_of_a_build_begin_with_its_default(
    wanted: PruningMode, short: str, learned: str
) -> None:
    otp = OtpRecord(0.01, 0.4, "notes.txt", 8, 256)
    assert ways_words(wanted, None) == short
    assert ways_words(wanted, otp) == learned


def test_the_ways_of_a_build_in_sentences():
    (told,) = ways_lines("mine", "otp", None)
    assert told.startswith("Prunes by ODP where nothing else is asked for.")
    assert "`mc-chat prune mine`" in told
    begins, learned = ways_lines("mine", "off", OtpRecord(0.01, 0.4, "notes.txt", 8, 256))
    assert begins.startswith("Prunes nothing")
    assert "40 % of the expert slots" in learned
    assert learned.endswith("on 8 x 256 tokens of notes.txt.")
