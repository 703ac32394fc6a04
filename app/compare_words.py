"""A comparison of two replies in words: what is asked, what came of it. Knows no screen."""

from app.agreement import Agreement
from app.comparison import Comparison, Take, Variant
from app.pruning_words import pruning_words
from app.reply_figures import ending_words
from app.units import quantity, share, speed

LONGEST_WORD = 24


def variant_words(variant: Variant, bits: float | None) -> str:
    """demo · 2.50 bits · ODP on. ``bits`` None: not known."""
    words = [variant.name, *([] if bits is None else [f"{bits:.2f} bits"])]
    return " · ".join([*words, pruning_words(variant.pruning)])


def state_words(take: Take) -> str:
    """Which of the two kinds of reply it is, and how far."""
    kinds = {
        "empty": "not asked yet",
        "there": "the reply that is there",
        "waiting": "comes next",
        "loading": f"loading its model: {take.note}" if take.note else "loading its model",
        "writing": take.note or "writing",
        "done": "made now",
        "stopped": "stopped",
        "failed": f"✕ {take.note}",
    }
    return kinds[take.state]


def figure_words(take: Take) -> str:
    """What it took: speed, pruning, active parameters."""
    took = take.figures
    if took is None:
        return ""
    active = share(took.activated_fraction)
    if take.activated_params:
        active = f"{quantity(take.activated_params)} ({active})"
    words = [
        f"{took.tokens:,} tokens",
        f"{speed(took.tokens_per_second)} tokens/s",
        f"{share(took.prune_ratio)} pruned",
        f"{active} active",
    ]
    return " · ".join([*words, *ending_words(took)])


def task_words(comparison: Comparison) -> str:
    """What Enter asks for."""
    made = comparison.subject.made_anew().sampling
    drawn = "greedy" if made.temperature == 0 else f"temperature {made.temperature:g}"
    seed = "" if made.temperature == 0 or made.seed is None else f", seed {made.seed}"
    if comparison.both_anew:
        words = f"Enter asks for both: the same prompt, {drawn}{seed}."
        if not comparison.subject.repeatable:
            words += " The reply that is there was drawn without a seed."
    else:
        words = f"Enter asks for B: the same prompt, {drawn}{seed}."
    if comparison.swaps:
        words += " Another model takes the engine's place, and the chat's comes back."
    return words


def agreement_words(found: Agreement) -> str:
    """Where the two differ first, and how much they agree."""
    if found.whole:
        return f"Both say the same: all {found.same:,} words agree."
    left, right = (_quoted(word) for word in found.words)
    if not found.words[0] or not found.words[1]:
        ended, other = ("A", right) if not found.words[0] else ("B", left)
        where = f"The first {found.same:,} words agree, then {ended} ends and {other} follows."
    elif found.same:
        where = f"The first {found.same:,} words agree, then A has {left} and B has {right}."
    else:
        where = f"They differ from the first word on: A has {left} and B has {right}."
    return f"{where} {share(found.share)} of the words agree in their order."


def _quoted(word: str) -> str:
    return f"“{word if len(word) <= LONGEST_WORD else word[: LONGEST_WORD - 1] + '…'}”"
