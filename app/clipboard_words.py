"""What goes to the clipboard of a message, and how that is told."""

from markdown_it import MarkdownIt


def code_blocks(text: str) -> list[str]:
    """The code blocks of a Markdown text, without their fences."""
    tokens = MarkdownIt("gfm-like", {"html": False}).parse(text)
    return [token.content for token in tokens if token.type in ("fence", "code_block")]


def copied_words(text: str, what: str = "") -> str:
    """How much was copied."""
    lines = len(text.splitlines())
    count = f"{lines:,} line{'s' if lines != 1 else ''}"
    return f"Copied {what}, {count}." if what else f"Copied, {count}."
