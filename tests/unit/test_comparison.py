"""Two replies one after the other: what is asked of the engine, whatever it answers."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from app.compare_words import agreement_words, figure_words, state_words, task_words, variant_words
from app.comparison import (
    Build,
    Comparison,
    Subject,
    Variant,
    on_next_build,
    other_than,
    prunings_of,
)
from app.engine_client import WorkerDied
from app.history import Figures, MadeWith, MessageRecord
from engine.protocol import (
    Cancel,
    Event,
    Failed,
    Finished,
    Generate,
    Load,
    Loaded,
    LoadProgress,
    Memory,
    Message,
    Meters,
    MetersUpdate,
    Request,
    SamplingOptions,
    SetPruning,
    Token,
)

HOME, OTHER = Path("/models/home"), Path("/models/other")
ASKED = (Message("user", "Why?"),)
TOOK = Figures(5, 3, 40.0, 0.1, 0.3, 0.25, "stop")
ON = Variant("home", HOME, SetPruning("odp"))


def facts(folder: Path) -> Loaded:
    return Loaded(folder.name, "gpu", 8192, 47, 2.5, 3.0, Memory(), model=str(folder))


class Desk:
    """A comparison, and what it has asked of the engine."""

    def __init__(self, other: Variant, sampling: SamplingOptions | None = None) -> None:
        made = MadeWith("home", 2.5, sampling=sampling or SamplingOptions(seed=7), max_tokens=50)
        there = MessageRecord(
            2, "assistant", "because of b", "done", "", 0.0, 1, 2, 1, 1, made, TOOK
        )
        self.asked: list[Request] = []
        self.comparison = Comparison(
            Subject(ASKED, there, made, ON, seed=99),
            other,
            HOME,
            self.asked.append,
            lambda folder: Load(str(folder)),
            itertools.count(10),
            facts(HOME),
        )

    def tell(self, *events: Event | WorkerDied) -> None:
        for event in events:
            self.comparison.hear(event)

    def answer(self, id: int, text: str, reason: str = "stop") -> None:
        meters = Meters(activated_params=12, activated_fraction=0.26)
        self.tell(
            Token(id, text[:3]),
            MetersUpdate(id, meters),
            Token(id, text[3:]),
            Token(999, "not ours"),
        )
        self.tell(Finished(id, text, 4, 3, 50.0, reason, meters))  # type: ignore[arg-type]

    def new(self) -> list[Request]:
        """What was asked since the last look."""
        asked = list(self.asked)
        self.asked.clear()
        return asked


OFF = replace(ON, pruning=SetPruning("off"))
ELSEWHERE = Variant("other", OTHER, SetPruning("odp", 0.5))


def test_the_same_model_pruned_otherwise_is_asked_the_same() -> None:
    desk = Desk(OFF)
    assert not desk.comparison.both_anew
    desk.comparison.begin()
    (request,) = desk.new()
    assert request == Generate(
        10, ASKED, SamplingOptions(seed=7), 50, pruning="off", pruning_strength=1.0, fresh=True
    )
    assert desk.comparison.right.state == "writing"
    desk.answer(10, "because of c")
    right = desk.comparison.right
    assert (right.text, right.state, right.activated_params) == ("because of c", "done", 12)
    assert right.made is not None
    assert (right.made.model, right.made.pruning, right.made.device) == ("home", "off", "gpu")
    found = desk.comparison.agreement()
    assert found is not None
    assert (found.same, found.words) == (2, ("b", "c"))
    assert not desk.comparison.busy
    assert desk.new() == []


def test_what_was_drawn_without_a_seed_is_made_anew_too_from_one_seed() -> None:
    desk = Desk(OFF, SamplingOptions(temperature=0.7))
    assert desk.comparison.both_anew
    desk.comparison.begin()
    (first,) = desk.new()
    desk.answer(10, "left")
    (second,) = desk.new()
    desk.answer(11, "right")
    assert isinstance(first, Generate)
    assert isinstance(second, Generate)
    assert first.sampling == second.sampling == SamplingOptions(temperature=0.7, seed=99)
    assert (first.pruning, second.pruning) == ("odp", "off")
    assert (desk.comparison.left.text, desk.comparison.right.text) == ("left", "right")
    desk.comparison.begin()  # the left one is as it would be again
    assert len(desk.new()) == 1


def test_another_model_takes_the_engine_and_gives_it_back() -> None:
    desk = Desk(ELSEWHERE)
    assert desk.comparison.swaps
    desk.comparison.begin()
    assert desk.new() == [Load(str(OTHER))]
    desk.tell(LoadProgress(0.5, "loading"))
    assert "50%" in state_words(desk.comparison.right)
    desk.tell(facts(OTHER))
    (request,) = desk.new()
    assert isinstance(request, Generate)
    assert request.pruning_strength == 0.5
    desk.answer(10, "because of b")
    assert desk.new() == [Load(str(HOME))]
    assert desk.comparison.coming_back
    assert not desk.comparison.busy
    desk.tell(facts(OTHER), LoadProgress(0.5, "loading"), facts(HOME))
    assert not desk.comparison.coming_back
    assert agreement_words(desk.comparison.agreement()).startswith("Both say the same")


def test_a_model_that_does_not_load_is_told_and_the_chats_comes_back() -> None:
    desk = Desk(ELSEWHERE)
    desk.comparison.begin()
    desk.tell(Failed("DoesNotFitError", "too large", model=str(OTHER)))
    assert state_words(desk.comparison.right) == "✕ too large"
    assert desk.new() == [Load(str(OTHER)), Load(str(HOME))]
    desk.tell(facts(HOME))
    assert not desk.comparison.coming_back
    assert not desk.comparison.problem


def test_a_chats_model_that_does_not_come_back_is_a_problem() -> None:
    desk = Desk(ELSEWHERE)
    desk.comparison.begin()
    desk.tell(Failed("X", "gone", model=str(OTHER)), Failed("X", "gone too", model=str(HOME)))
    assert desk.comparison.problem == "gone too"
    desk.comparison.stop()
    assert desk.new() == [Load(str(OTHER)), Load(str(HOME))]


def test_stopping_a_reply_keeps_what_is_written() -> None:
    desk = Desk(OFF, SamplingOptions(temperature=0.7))
    desk.comparison.begin()
    desk.tell(Token(10, "half"))
    desk.comparison.stop()
    assert desk.new()[-1] == Cancel(10)
    desk.answer(10, "", "cancelled")
    assert (desk.comparison.left.state, desk.comparison.left.text) == ("stopped", "half")
    assert desk.comparison.right.state == "empty"
    assert not desk.comparison.busy
    assert desk.new() == []


@pytest.mark.parametrize("writing", [False, True])
def test_leaving_at_any_time_brings_the_chats_model_back(writing: bool) -> None:
    desk = Desk(ELSEWHERE)
    desk.comparison.begin()
    if writing:
        desk.tell(facts(OTHER))
    desk.comparison.stop()
    desk.comparison.stop()
    assert [each for each in desk.new() if isinstance(each, Load)] == [
        Load(str(OTHER)),
        Load(str(HOME)),
    ]
    desk.tell(facts(OTHER))
    assert desk.new() == []


def test_a_reply_that_fails_says_why() -> None:
    desk = Desk(OFF)
    desk.comparison.begin()
    desk.tell(Failed("ContextFullError", "somebody else's", 3), Failed("X", "no room", 10))
    assert state_words(desk.comparison.right) == "✕ no room"
    assert not desk.comparison.busy
    assert desk.comparison.agreement() is None


def test_an_engine_that_dies_ends_it() -> None:
    desk = Desk(ELSEWHERE)
    desk.comparison.begin()
    desk.tell(facts(OTHER), Token(10, "ha"), WorkerDied(7, "", "exit code 7"))
    assert desk.comparison.right.state == "failed"
    assert "exit code 7" in desk.comparison.problem
    assert not desk.comparison.busy
    desk.new()
    desk.comparison.stop()
    assert desk.new() == []


def test_a_model_that_is_gone_cannot_make_its_reply_anew() -> None:
    desk = Desk(OFF)
    desk.comparison.subject = replace(desk.comparison.subject, variant=replace(ON, folder=None))
    assert not desk.comparison.set_both_anew(True)
    assert desk.comparison.left.state == "there"


def test_what_it_is_compared_with_at_first() -> None:
    assert other_than(ON, "home", HOME) == OFF
    assert other_than(OFF, "home", HOME) == ON
    assert other_than(ELSEWHERE, "home", HOME) == replace(ELSEWHERE, name="home", folder=HOME)


def test_the_builds_come_in_turn_and_none_is_asked_for_what_it_has_not_learned() -> None:
    builds = [
        Build("home", HOME),
        Build("other", OTHER, 2.0, ("odp", "otp", "off")),
        Build("third", Path("/models/third")),
    ]
    assert prunings_of(ON, builds) == ("odp", "off")
    now = on_next_build(OFF, builds)
    assert now == Variant("other", OTHER, SetPruning("off"))
    assert prunings_of(now, builds) == ("odp", "otp", "off")
    learned = replace(now, pruning=SetPruning("otp", 1.25))
    third = on_next_build(learned, builds)
    assert (third.name, third.pruning) == ("third", SetPruning("odp", 1.25))
    assert on_next_build(third, builds).name == "home"
    gone = replace(OFF, name="gone", folder=None)
    assert on_next_build(gone, builds) == OFF


def test_words() -> None:
    assert variant_words(ELSEWHERE, 2.0) == "other · 2.00 bits · ODP ×0.5"
    assert variant_words(OFF, None) == "home · no pruning"
    drawn = Desk(ELSEWHERE, SamplingOptions(temperature=0.7)).comparison
    assert "seed 99. The reply that is there was drawn without a seed." in task_words(drawn)
    assert "takes the engine's place" in task_words(drawn)
    greedy = task_words(Desk(OFF, SamplingOptions(temperature=0.0)).comparison)
    assert greedy == "Enter asks for B: the same prompt, greedy."
    left = Desk(OFF).comparison.left
    assert figure_words(left) == "5 tokens · 40.0 tokens/s · 30 % pruned · 12 (25 %) active"
    assert figure_words(replace(left, activated_params=0)).endswith(" · 25 % active")
    assert "12 (26 %) active" in figure_words(
        replace(left, activated_params=12, figures=replace(TOOK, activated_fraction=0.26))
    )
