import pytest

from app.history import Figures
from app.reply_figures import added, figures, summary
from engine.protocol import Finished, Meters


def took(tokens: int, speed: float, pruned: float, reason: str = "stop") -> Figures:
    meters = Meters(prune_ratio=pruned, activated_fraction=0.5, time_to_first_token=0.25)
    return figures(Finished(1, "text", tokens, 30, speed, reason, meters))


@pytest.mark.parametrize(
    ("reason", "ending"),
    [("stop", ""), ("cancelled", " · stopped"), ("length", " · cut at the token limit")],
)
def test_the_line_below_a_reply(reason: str, ending: str):
    assert summary(took(1200, 12.34, 0.314, reason)) == (
        "1,200 tokens · 12.3 tokens/s · 31 % pruned" + ending
    )


def test_a_reply_that_was_stopped_before_its_first_word_has_no_figures():
    assert summary(took(0, 0.0, 0.0, "cancelled")) == "stopped"


def test_what_was_left_out_is_said():
    assert summary(took(1, 1, 0), 1).endswith(" · the oldest turn was left out")
    assert summary(took(1, 1, 0), 3).endswith(" · the oldest 3 turns were left out")


def test_a_continued_reply_counts_both_parts():
    first, more = took(100, 10.0, 0.2, "length"), took(300, 30.0, 0.4)
    both = added(first, more)
    assert both.tokens == 400
    assert both.tokens_per_second == pytest.approx(400 / 20)
    assert both.prune_ratio == pytest.approx(0.35)
    assert (both.prompt_tokens, both.time_to_first_token) == (30, 0.25)
    assert both.finish_reason == "stop"
    assert added(None, more) == more


def test_a_part_without_tokens_changes_nothing():
    first = took(100, 10.0, 0.2)
    both = added(first, took(0, 0.0, 0.0))
    assert both == first
    assert added(took(0, 0.0, 0.0), took(0, 0.0, 0.0)).tokens_per_second == 0
