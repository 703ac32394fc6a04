"""How far a compressed model is from its original, in words."""

from engine.quality import Agreement

NOT_MEASURED = "Nothing was compared with the original when this model was made."
FITTED = "the calibration text, to which the codes were fitted: other text comes out worse"
HELD_OUT = "text that nothing was fitted to"


def percent(share: float | None) -> str:
    """An error as it stands in a column."""
    return "–" if share is None else f"{100 * share:.1f} %"


def agreement_words(found: Agreement) -> list[str]:
    """A line each: what is predicted, how well, and on what that was measured."""
    return [
        f"Its likeliest next token is the original's {100 * found.same_token:.1f} % of the time.",
        f"Perplexity {found.perplexity_ratio:.3f} times the original's: {found.perplexity:.3f} "
        f"against {found.original_perplexity:.3f}.",
        f"On {found.tokens:,} tokens of {found.text}: {HELD_OUT if found.held_out else FITTED}.",
    ]
