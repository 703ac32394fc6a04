"""Long texts cut short for the screen: a file that goes with a message is not read there."""

MOST_LINES = 24
_HEAD = 8
_TAIL = 8
_LONGEST_LINE = 2_000


def folded(text: str) -> str:
    """The beginning and the end of a text, and how much is between; a short one as it is."""
    lines = text.split("\n")
    if len(lines) > MOST_LINES:
        hidden = len(lines) - _HEAD - _TAIL
        lines = [*lines[:_HEAD], f"⋯ {hidden:,} lines ⋯", *lines[-_TAIL:]]
    return "\n".join(_cut(line) for line in lines)


def _cut(line: str) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    return f"{line[:_LONGEST_LINE]} ⋯ {len(line) - _LONGEST_LINE:,} characters ⋯"
