"""What a reply took: kept as figures, shown as the line below it."""

from app.history import Figures
from app.units import share, speed
from engine.protocol import Finished


def figures(finished: Finished) -> Figures:
    """What is kept of the engine's last word on a reply."""
    return Figures(
        tokens=finished.tokens,
        prompt_tokens=finished.prompt_tokens,
        tokens_per_second=finished.tokens_per_second,
        time_to_first_token=finished.meters.time_to_first_token,
        prune_ratio=finished.meters.prune_ratio,
        activated_fraction=finished.meters.activated_fraction,
        finish_reason=finished.finish_reason,
    )


def added(before: Figures | None, more: Figures) -> Figures:
    """The figures of a reply that was continued: sums, and means over the tokens."""
    if before is None:
        return more
    tokens = before.tokens + more.tokens
    weight = more.tokens / tokens if tokens else 1.0

    def mean(old: float, new: float) -> float:
        return (1 - weight) * old + weight * new

    return Figures(
        tokens=tokens,
        prompt_tokens=before.prompt_tokens,
        tokens_per_second=_joint_speed(before, more),
        time_to_first_token=before.time_to_first_token,
        prune_ratio=mean(before.prune_ratio, more.prune_ratio),
        activated_fraction=mean(before.activated_fraction, more.activated_fraction),
        finish_reason=more.finish_reason,
    )


def _joint_speed(before: Figures, more: Figures) -> float:
    """All tokens by all time."""
    timed = [part for part in (before, more) if part.tokens_per_second > 0]
    seconds = sum(part.tokens / part.tokens_per_second for part in timed)
    return sum(part.tokens for part in timed) / seconds if seconds else 0.0


def summary(took: Figures, left_out: int = 0) -> str:
    """The line below a reply."""
    words = []
    if took.tokens:
        words = [
            f"{took.tokens:,} token{'s' if took.tokens != 1 else ''}",
            f"{speed(took.tokens_per_second)} tokens/s",
            f"{share(took.prune_ratio)} pruned",
        ]
    words += ending_words(took)
    if left_out:
        turns = "turn was" if left_out == 1 else f"{left_out} turns were"
        words.append(f"the oldest {turns} left out")
    return " · ".join(words)


def ending_words(took: Figures) -> list[str]:
    """How it ended, where that was not by itself."""
    endings = {
        "cancelled": "stopped",
        "length": "cut at the token limit",
        "context": "context full",
    }
    ending = endings.get(took.finish_reason)
    return [ending] if ending else []
