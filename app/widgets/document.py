"""Markdown of any length, in pieces: drawing and laying out must not grow with what is above.

Textual's widget lays out all of its blocks whenever one changes: with 2,000 short paragraphs that
is a second for each piece of a reply. Here a text is cut between blocks into several such widgets,
and only the last one grows.
"""

import re
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.geometry import Size
from textual.widgets import Markdown

BLOCKS = 24
"""Blocks and items of lists in a piece, about."""

_STARTS = {"paragraph_open", "table_open"}
"""What a piece may begin with, and lists: blocks without a margin above. It would be added to the
one below the piece before."""
_DEFINITION = re.compile(r"^[ >]*\[[^\]\n]+\]:", re.MULTILINE)
"""What may define a link for other places of the text."""


class PieceView(Markdown):
    """One piece."""

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """In lines. The height around it does not matter: that of a growing text is always new,
        and all pieces above would be laid out again."""
        return super().get_content_height(container.with_height(0), viewport, width)


class Document(Vertical):
    """Shows a text as Markdown; it may grow."""

    DEFAULT_CSS = """
    Document { height: auto; }
    Document > PieceView.-goes-on > MarkdownList:last-child { margin: 0; }
    """

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self._text = text

    @property
    def source(self) -> str:
        """All of the text."""
        return self._text

    def compose(self) -> ComposeResult:
        """A widget for each piece."""
        yield from _drawn(self._text)

    async def append(self, text: str) -> None:
        """Add to the text. Links that are defined in another piece are shown by `finish`."""
        self._text += text
        last = self.query_children(PieceView).last()
        first, *more = pieces(last.source + text)
        if first.text.startswith(last.source):
            await last.append(first.text.removeprefix(last.source))
        else:
            await last.update(first.text)
        if more:
            await _settle(last)
            last.set_class(first.goes_on, "-goes-on")
        for part in more:
            await self.mount(view := _view(Piece("", part.goes_on), {}))
            # What is given at first cannot grow: Textual would begin to read in its last line.
            await view.append(part.text)

    async def finish(self, text: str) -> None:
        """Show ``text`` for good, as if it had been shown at once. Of what was written into it
        only the end is drawn again, if anything."""
        if _DEFINITION.search(text) or not text.startswith(self._text):
            self._text = text
            await self.remove_children()
            await self.mount_all(_drawn(text))
            return
        await self.append(text.removeprefix(self._text))
        await _settle(self.query_children(PieceView).last())


async def _settle(piece: PieceView) -> None:
    """Draw tables once more: links do nothing in rows that Textual has appended."""
    if piece.query("MarkdownTable"):
        await piece.update(piece.source)


def _drawn(text: str) -> list[PieceView]:
    definitions = _definitions(text)
    return [_view(piece, definitions) for piece in pieces(text)]


def _view(piece: "Piece", definitions: dict[str, Any]) -> PieceView:
    return PieceView(
        piece.text,
        parser_factory=lambda: _Parser(definitions),
        # Links come from the model: they are shown, never opened by themselves.
        open_links=False,
        classes="-goes-on" if piece.goes_on else "",
    )


# --- where a text is cut --------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Part of a text; ``goes_on``: in the middle of a list."""

    text: str
    goes_on: bool = False


def pieces(text: str) -> list[Piece]:
    """Cut a text between blocks, or items of a list, so that each part says the same alone."""
    if text.count("\n") <= BLOCKS:
        return [Piece(text)]
    lines = text.split("\n")
    parts, begin, blocks = [], 0, 0
    for block in _blocks(_SKELETON.parse(text)):
        # The last line is not whole yet: what is a paragraph now may become anything.
        if blocks >= BLOCKS and block.may_begin and block.line < len(lines) - 1:
            parts.append(Piece("\n".join([*lines[begin : block.line], ""]), block.is_item))
            begin, blocks = block.line, 0
        blocks += 1
    return [*parts, Piece("\n".join(lines[begin:]))]


@dataclass(frozen=True)
class _Block:
    line: int
    may_begin: bool
    is_item: bool = False
    """But not the first."""


def _blocks(tokens: Sequence[Token]) -> Iterator[_Block]:
    """The blocks at the top, with the items of a list in place of the list."""
    first, number = False, 0
    for token in tokens:
        if token.map is None:
            continue
        if token.level == 0 and token.type in {"bullet_list_open", "ordered_list_open"}:
            first = True
        elif token.level == 0:
            yield _Block(token.map[0], token.type in _STARTS)
        elif token.level == 1 and token.type == "list_item_open":
            number = int(token.info or 0) if first else number + 1
            # A list may count by itself, whatever its items say: the next piece could not.
            counts = not token.info or int(token.info) == number
            yield _Block(token.map[0], first or counts, not first)
            first = False


_SKELETON = MarkdownIt("gfm-like", {"html": False})
"""Finds blocks, and looks into none."""
_SKELETON.core.ruler.enableOnly(["normalize", "block"])


class _Parser(MarkdownIt):
    """HTML in a model's text is shown as text. Links may be defined in another piece."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        super().__init__("gfm-like", {"html": False})
        self._definitions = definitions

    def parse(self, src: str, env: MutableMapping[str, Any] | None = None) -> list[Token]:
        """The tokens of a piece."""
        return super().parse(src, {"references": dict(self._definitions), **(env or {})})


def _definitions(text: str) -> dict[str, Any]:
    """The links that the whole text defines."""
    if not _DEFINITION.search(text):
        return {}
    env: dict[str, Any] = {}
    MarkdownIt("gfm-like", {"html": False}).parse(text, env)
    references: dict[str, Any] = env.get("references", {})
    return references
