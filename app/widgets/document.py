"""Markdown of any length, in pieces: drawing and laying out must not grow with what is above.

Textual's widget lays out all of its blocks whenever one changes: with 2,000 short paragraphs that
is a second for each piece of a reply. Here a text is cut between blocks into several such widgets,
and only the last one grows.
"""

import re
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from textual.app import ComposeResult
from textual.await_complete import AwaitComplete
from textual.containers import Vertical
from textual.geometry import Size
from textual.widgets import Markdown
from textual.widgets.markdown import MarkdownBlock

from app.widgets.prose import Block, Prose

BLOCKS = 24
"""Blocks and items of lists in a piece, about."""

_STARTS = {"paragraph_open", "table_open"}
"""What a piece may begin with, and lists: blocks without a margin above. It would be added to the
one below the piece before."""
_DEFINITION = re.compile(r"^[ >]*\[[^\]\n]+\]:", re.MULTILINE)
"""What may define a link for other places of the text."""

_TABLE = Markdown.BLOCKS["table_open"]
_GROWING = (_TABLE, Markdown.BLOCKS["fence"])


class PieceView(Markdown):
    """One piece. Text is drawn by `Prose`, fences, tables and quotes by Textual's widgets."""

    def __init__(self, piece: "Piece", parser: MarkdownIt) -> None:
        # Links come from the model: they are shown, never opened by themselves.
        super().__init__(piece.text, open_links=False)
        self._goes_on = piece.goes_on
        self._parser = parser
        self._blocks: list[Block] = []
        self._runs: list[list[Block]] = []
        """The blocks of each widget."""

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """In lines. The height around it does not matter: that of a growing text is always new,
        and all pieces above would be laid out again."""
        return super().get_content_height(container.with_height(0), viewport, width)

    def update(self, markdown: str) -> AwaitComplete:
        """Show another text."""
        self._markdown, self._blocks, self._runs = "", [], []
        return self.append(markdown)

    def append(self, markdown: str) -> AwaitComplete:
        """Add to the text: its last block is read again, and no other."""
        self._markdown += markdown
        begin = self._blocks[-1].line if self._blocks else 0
        text = "\n".join(self._markdown.split("\n")[begin:])
        self._blocks[-1:] = _read(self._parser.parse(text), begin)
        return AwaitComplete(self._arrange())

    async def end(self, goes_on: bool = False) -> None:
        """Nothing is added any more; ``goes_on``: in the middle of a list."""
        self._goes_on = goes_on
        if self.query(_TABLE):
            # Once more: links do nothing in rows that Textual has appended.
            await self.update(self.source)
        elif goes_on:
            self.query(Prose).last().show(self._runs[-1], goes_on)

    async def _arrange(self) -> None:
        """Show the blocks: widgets that show what they should are left alone."""
        async with self.lock:
            runs = _runs(self._blocks)
            kept = _common(runs, self._runs)
            widgets = list(self.query_children(MarkdownBlock))
            with self.app.batch_update():
                await self.remove_children(widgets[kept + 1 :])
                if kept < min(len(runs), len(widgets)):
                    if await self._becomes(widgets[kept], runs[kept]):
                        kept += 1
                    else:
                        await widgets[kept].remove()
                await self.mount_all([self._widget(run) for run in runs[kept:]])
            self._runs = runs

    async def _becomes(self, widget: MarkdownBlock, run: list[Block]) -> bool:
        """Have a widget show other blocks, if it can."""
        if isinstance(widget, Prose) and run[0].is_prose:
            widget.show(run, self._ends_in_list(run))
            return True
        wanted = self._widget(run)
        if type(wanted) is type(widget) and isinstance(wanted, _GROWING):
            await widget._update_from_block(wanted)
            return True
        return False

    def _widget(self, run: list[Block]) -> MarkdownBlock:
        if run[0].is_prose:
            return Prose(self, run, self._ends_in_list(run))
        (widget,) = self._parse_markdown(run[0].tokens)
        return widget

    def _ends_in_list(self, run: list[Block]) -> bool:
        return self._goes_on and run[-1] is self._blocks[-1]


class Document(Vertical):
    """Shows a text as Markdown; it may grow."""

    DEFAULT_CSS = """
    Document { height: auto; }
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
            await last.end(first.goes_on)
            await self.mount_all([PieceView(part, _PARSER) for part in more])

    async def finish(self, text: str) -> None:
        """Show ``text`` for good, as if it had been shown at once. Of what was written into it
        only the end is drawn again, if anything."""
        if _DEFINITION.search(text) or not text.startswith(self._text):
            self._text = text
            await self.remove_children()
            await self.mount_all(_drawn(text))
            return
        await self.append(text.removeprefix(self._text))
        await self.query_children(PieceView).last().end()


def _drawn(text: str) -> list[PieceView]:
    definitions = _definitions(text)
    parser = _Parser(definitions) if definitions else _PARSER
    return [PieceView(piece, parser) for piece in pieces(text)]


# --- the blocks of a piece ------------------------------------------------------------------------


def _read(tokens: Sequence[Token], line: int) -> list[Block]:
    """The blocks of a text that begins in a line of a piece."""
    blocks, begin = [], 0
    for place, token in enumerate(tokens):
        if token.level == 0 and token.nesting <= 0:  # it ends a block, or is one
            first = tokens[begin].map or (0, 0)
            blocks.append(Block(line + first[0], tokens[begin : place + 1]))
            begin = place + 1
    return blocks


def _runs(blocks: Sequence[Block]) -> list[list[Block]]:
    """The blocks of each widget: texts that follow each other share one."""
    runs: list[list[Block]] = []
    for block in blocks:
        if runs and block.is_prose and runs[-1][-1].is_prose:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def _common(runs: Sequence[list[Block]], others: Sequence[list[Block]]) -> int:
    """How many are the same at the beginning."""
    pairs = zip(runs, others, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


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


_PARSER = _Parser({})


def _definitions(text: str) -> dict[str, Any]:
    """The links that the whole text defines."""
    if not _DEFINITION.search(text):
        return {}
    env: dict[str, Any] = {}
    MarkdownIt("gfm-like", {"html": False}).parse(text, env)
    references: dict[str, Any] = env.get("references", {})
    return references
