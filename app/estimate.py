"""How many tokens a text may be, before the engine has counted: always said as an estimate."""

CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly; other languages and code have fewer."""

WORTH_TELLING = 100
"""Tokens; a shorter message is hardly of account."""


def estimate(text: str) -> int:
    """Tokens, rounded to two digits: more would look exact."""
    tokens = -(-len(text) // CHARACTERS_PER_TOKEN)
    return int(float(f"{tokens:.1e}"))


def estimate_words(text: str, free: int | None) -> str:
    """For the prompt's edge; empty for what is of no account.

    ``free`` tokens of the context, None: not known.
    """
    tokens = estimate(text)
    if tokens < WORTH_TELLING:
        return ""
    words = f"about {tokens:,} tokens"
    if free is not None and tokens > free:
        return f"{words}, but {free:,} fit"
    return words
