"""Paragraphs, headings and lists of a Markdown text, drawn as lines of text by one widget.

Textual has a widget for every block, and four for every item of a list. Each one costs about a
millisecond when it comes and is looked at again in every layout of the screen, in sight or not. In
this widget a block costs what its lines cost, and only those in sight are drawn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from markdown_it.token import Token
from textual import events
from textual.content import Content
from textual.geometry import Offset
from textual.selection import Selection
from textual.strip import Strip
from textual.style import Style
from textual.visual import Visual
from textual.widgets import Markdown
from textual.widgets.markdown import MarkdownBlock

BULLETS = Markdown.BULLETS
_HEADINGS = {f"h{level}": (2 if level < 3 else 1) for level in range(1, 7)}
"""The blank lines above each."""
_PLAIN = {"heading_open", "heading_close", "inline", "list_item_open", "list_item_close"} | {
    f"{name}_{end}"
    for name in ("paragraph", "bullet_list", "ordered_list")
    for end in ("open", "close")
}


@dataclass(frozen=True, eq=False)
class Block:
    """One block of the top level: its first line in the piece, and its tokens."""

    line: int
    tokens: Sequence[Token]

    @property
    def is_prose(self) -> bool:
        """Whether it is drawn as text."""
        return all(token.type in _PLAIN for token in self.tokens)

    @property
    def is_list(self) -> bool:
        """Whether it has items."""
        return self.tokens[0].type in {"bullet_list_open", "ordered_list_open"}

    @property
    def margins(self) -> tuple[int, int]:
        """Blank lines above and below."""
        return _HEADINGS.get(self.tokens[0].tag, 0), 1


@dataclass(frozen=True)
class Row:
    """A text that is wrapped: what stands before its first line, and as many blanks before the
    others; ``style`` is a component class, ``centred`` as a whole."""

    content: Content
    before: str = ""
    style: str = ""
    centred: bool = False


@dataclass(frozen=True)
class Line:
    """A line as it is drawn. To be copied, it stands after ``joint``, without the first ``blanks``
    characters where it goes on with the line before."""

    content: Content = field(default_factory=Content)
    blanks: int = 0
    joint: str = "\n"


class Prose(MarkdownBlock):
    """A run of such blocks."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"bullet", *_HEADINGS}
    DEFAULT_CSS = "Prose:light > .bullet { color: $text-secondary; }\n" + "\n".join(
        f"Prose > .{name} {{ {rules} }}"
        for name, rules in (
            ("bullet", "color: $text-primary;"),
            *(
                (
                    name,
                    f"color: $markdown-{name}-color; background: $markdown-{name}-background;"
                    f" text-style: $markdown-{name}-text-style;",
                )
                for name in _HEADINGS
            ),
        )
    )

    def __init__(self, markdown: Markdown, blocks: Sequence[Block], goes_on: bool) -> None:
        """``goes_on``: a list at the end has its next items in another widget."""
        super().__init__(markdown, blocks[0].tokens[0])
        self._parts: Sequence[Block] = ()
        self._wrapped: dict[Block, list[Line]] = {}
        self._lines: list[Line] = []
        self._width = 0
        self.show(blocks, goes_on)

    def show(self, blocks: Sequence[Block], goes_on: bool) -> None:
        """Show these blocks; those that were shown before are not wrapped again."""
        self._parts = blocks
        below = 0 if goes_on and blocks[-1].is_list else blocks[-1].margins[1]
        self.styles.margin = (blocks[0].margins[0], 0, below, 0)
        self._lay_out()
        self.refresh(layout=True)

    def get_content_height(self, container: object, viewport: object, width: int) -> int:
        """In lines."""
        if width != self._width:
            self._width = width
            self._wrapped.clear()
            self._lay_out()
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        style, width = self.visual_style, self.size.width
        if y >= len(self._lines):
            return Strip.blank(width, style.rich_style)
        line = self._lines[y].content
        selection = self.text_selection
        if selection is not None and (span := selection.get_span(y)) is not None:
            marked = Style.from_styles(self.screen.get_component_styles("screen--selection"))
            line = line.stylize(marked, span[0], None if span[1] == -1 else span[1])
        (strip,) = Visual.to_strips(
            self, line, width, 1, style, apply_selection=False, pad=True
        ) or [Strip.blank(width, style.rich_style)]
        return strip.apply_offsets(0, y)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """What is marked, without the line breaks that only the width has made."""
        copied = ""
        for y, line in enumerate(self._lines):
            if (span := selection.get_span(y)) is not None:
                start, end = span
                text = line.content.plain[: None if end == -1 else end]
                is_joined = line.joint != "\n"
                text = text[max(start, line.blanks) if is_joined else start :]
                copied += f"{line.joint}{text}" if copied else text
        return copied, "\n"

    def on_click(self, event: events.Click) -> None:
        """A double click marks the paragraph, or the item."""
        if event.chain == 2 and event.y < len(self._lines):
            event.prevent_default()
            first = last = event.y
            while self._lines[first].joint != "\n":
                first -= 1
            while last + 1 < len(self._lines) and self._lines[last + 1].joint != "\n":
                last += 1
            end = Offset(len(self._lines[last].content.plain), last)
            self.screen.selections = {self: Selection(Offset(0, first), end)}

    # --- where the lines are ------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Wrap what is not wrapped yet; without a width there is nothing to be done."""
        if not self._width:
            return
        wrapped = {block: self._wrapped.get(block) or self._wrap(block) for block in self._parts}
        self._wrapped = wrapped
        self._lines = []
        below = 0
        for block, lines in wrapped.items():
            if self._lines:
                self._lines += [Line()] * max(below, block.margins[0])
            self._lines += lines
            below = block.margins[1]

    def _wrap(self, block: Block) -> list[Line]:
        return [line for row in self._rows(block) for line in self._wrap_row(row)]

    def _wrap_row(self, row: Row) -> Iterator[Line]:
        blanks = len(row.before)
        width = max(1, self._width - Content(row.before).cell_length)
        pieces = row.content.wrap(width)
        if row.style:
            pieces = [piece.stylize_before(row.style) for piece in pieces]
        margin = (width - max(piece.cell_length for piece in pieces)) // 2 if row.centred else 0
        plain, place = row.content.plain, 0
        for number, piece in enumerate(pieces):
            begin = max(place, plain.find(piece.plain, place))
            gap, place = plain[place:begin], begin + len(piece.plain)
            if number == 0:
                before = Content.styled(row.before, ".bullet") if row.before else Content()
                yield Line(Content.assemble(" " * margin, before, piece))
            else:
                joint = "\n" if "\n" in gap else " " if gap else ""
                yield Line(Content(" " * (margin + blanks)) + piece, margin + blanks, joint)

    # --- what is in a block -------------------------------------------------------------------

    def _rows(self, block: Block) -> Iterator[Row]:
        """The texts of a block, with the signs of the lists that they are in."""
        lists: list[_List] = []
        heading = ""
        for place, token in enumerate(block.tokens):
            match token.type:
                case "bullet_list_open" | "ordered_list_open":
                    lists.append(_List(block.tokens[place:]))
                case "bullet_list_close" | "ordered_list_close":
                    lists.pop()
                case "list_item_open":
                    lists[-1].next_item(sum(not around.is_numbered for around in lists))
                case "list_item_close" if lists[-1].sign.strip():  # nothing stands beside it
                    yield Row(Content(), _signs(lists))
                case "heading_open":
                    heading = token.tag
                case "inline":
                    style = f".{heading}" if heading else ""
                    content = self._token_to_content(token)
                    yield Row(content, _signs(lists), style, centred=heading == "h1")


class _List:
    """A list while its items are read: the sign of the one that is, blanks once it is drawn."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        """``tokens`` from its beginning on."""
        self.is_numbered = tokens[0].type == "ordered_list_open"
        self.sign = ""
        end = next(place for place, token in enumerate(tokens) if _closes(token, tokens[0]))
        items = [token for token in tokens[:end] if _is_item_of(token, tokens[0])]
        self._number = int(items[0].info) - 1 if self.is_numbered else 0
        self._width = len(f"{self._number + len(items)}. ") + 1

    def next_item(self, depth: int) -> None:
        """Another one begins; ``depth``: so many lists without numbers are around it."""
        self._number += 1
        if self.is_numbered:
            self.sign = f"{self._number}. ".rjust(self._width)
        else:
            self.sign = BULLETS[(depth - 1) % len(BULLETS)]


def _closes(token: Token, opening: Token) -> bool:
    return token.level == opening.level and token.nesting < 0


def _is_item_of(token: Token, opening: Token) -> bool:
    return token.type == "list_item_open" and token.level == opening.level + 1


def _signs(lists: Sequence[_List]) -> str:
    """What stands before the next text; each sign once."""
    signs = "".join(around.sign for around in lists)
    for around in lists:
        around.sign = " " * len(around.sign)
    return signs
