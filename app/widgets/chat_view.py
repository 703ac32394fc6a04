"""The scrolling column of messages. It follows the end until the user scrolls away.

Only a window of a long chat is mounted. Near its edges more comes and what is far away leaves, and
what one reads stays where it is. Messages are known by their depth: their place in the line.
"""

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.geometry import Size
from textual.widgets import Button, Static

from app.conversation import Conversation
from app.history import MessageRecord
from app.widgets.messages import ModelMessage, Notice, Turn, UserMessage

FIRST = 10
"""Messages mounted when a chat opens; more come by themselves until the screen is full."""

STEP = 6
WINDOW = 40
"""Messages mounted at once: drawing must not grow with the length of a chat."""


LEFT_OUT = "the model is not shown what is above"


class ChatView(VerticalScroll, can_focus=False):
    """Shows part of a conversation. Where one of the messages has the focus, arrows go on."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k,shift+up", "step(-1)", "Message before", show=False),
        Binding("down,j,shift+down", "step(1)", "Message after", show=False),
        Binding("home", "edge(-1)", "First message", show=False),
        Binding("end", "edge(1)", "Last message", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._chat: Conversation | None = None
        self._welcome = Content()
        self._changing = asyncio.Lock()
        self._held: tuple[Turn, int] | None = None
        """A message and where it was in the column: when it moves, so does what is in sight."""

    def on_mount(self) -> None:
        """Stay at the bottom."""
        self.anchor()

    @property
    def turns(self) -> list[Turn]:
        """The messages that are mounted."""
        return [child for child in self.children if isinstance(child, Turn)]

    # --- what changes -------------------------------------------------------------------------

    async def show(
        self, chat: Conversation, welcome: Content, around: int | None = None
    ) -> Turn | None:
        """Show another chat, or this one anew, from its end or ``around`` a depth.

        An empty one shows ``welcome``. Returns the message at that depth.
        """
        async with self._changing:
            self._chat, self._welcome = chat, welcome
            return await self._show(around)

    async def begin(self) -> ModelMessage:
        """Show the line as it is now, and a reply to stream into at its end."""
        async with self._changing:
            chat = self._chat
            assert chat is not None
            assert chat.reply is not None
            wanted = {record.id for record in chat.records}
            await self.query(".welcome").remove()
            await self.remove_children(
                [turn for turn in self.turns if turn.record.id not in wanted]
            )
            last = max((turn.record.depth for turn in self.turns), default=0)
            new = [record for record in chat.records if record.depth > last]
            if len(new) > 1:  # it begins elsewhere than where one looks
                await self._show(None)
            else:
                await self.mount_all(_turns(new))
            reply = ModelMessage(chat.reply.record, streaming=True)
            await self.mount(reply)
            if chat.reply.text:
                reply.write(chat.reply.text)
            await self.remove_children(self.turns[:-WINDOW])
            self._mark()
            self.anchor()
            return reply

    async def notice(self, text: str, choices: Sequence[tuple[str, str]] = ()) -> None:
        """Say what happened."""
        await self.mount(Notice(text, choices))

    async def drop_notices(self) -> None:
        """What they told is over."""
        await self.query(Notice).remove()

    async def _show(self, around: int | None) -> Turn | None:
        self._held = None
        chat = self._chat
        assert chat is not None
        await self.remove_children()
        if not chat.records:
            await self.mount(Static(self._welcome, classes="welcome"))
            return None
        if around is None:
            await self.mount_all(_turns(chat.records[-FIRST:]))
            self._mark()
            self.anchor()
            return None
        while chat.earlier >= around:
            chat.read_earlier()
        first = max(0, around - 1 - chat.earlier - FIRST // 2)
        turns = _turns(chat.records[first : first + 2 * FIRST])
        self.anchor(False)  # only released, it would hold again: an empty view is at its end
        await self.mount_all(turns)
        self._mark()
        wanted = next(turn for turn in turns if turn.record.depth == around)
        self.call_after_refresh(self.scroll_to_widget, wanted, animate=False, immediate=True)
        return wanted

    def _mark(self) -> None:
        """A line above the first message that the model is shown, where others were left out."""
        assert self._chat is not None
        first = self._chat.first_shown()
        for turn in self.turns:
            is_first = turn.record.depth == first > 1
            turn.set_class(is_first, "-first-shown")
            turn.border_title = LEFT_OUT if is_first else ""

    # --- the window ---------------------------------------------------------------------------

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Have more where an edge is near."""
        super().watch_scroll_y(old_value, new_value)
        self._look()

    def watch_virtual_size(self, old: Size, new: Size) -> None:
        """Something came, left or grew: what one reads stays where it is."""
        if self._held and self._held[0].is_attached:
            turn, before = self._held
            now = turn.virtual_region.y
            self._held = (turn, now)
            if now != before and self.max_scroll_y - self.scroll_y > 1:  # else it is at the end
                self.call_next(self._shift, now - before)
        self._look()

    def _shift(self, lines: int) -> None:
        self.scroll_to(y=self.scroll_y + lines, animate=False, immediate=True)

    def _hold(self) -> None:
        """Keep the first message in sight where it is: others grow when they are drawn, above it
        and below."""
        turns = self.turns
        seen = (turn for turn in turns if turn.virtual_region.bottom > self.scroll_y)
        turn = next(seen, turns[-1])
        self._held = (turn, turn.virtual_region.y)

    def _look(self) -> None:
        height = self.container_size.height
        turns = self.turns
        chat = self._chat
        if not turns or chat is None or not height or self._changing.locked():
            return
        if self.scroll_y < height and turns[0].record.depth > 1:
            self.call_later(self._extend_up)
        elif self.max_scroll_y - self.scroll_y < height and self._hidden_below:
            self.call_later(self._extend_down)

    @property
    def _hidden_below(self) -> bool:
        chat, turns = self._chat, self.turns
        return bool(
            chat and turns and chat.records and turns[-1].record.depth < chat.records[-1].depth
        )

    async def _extend_up(self) -> None:
        async with self._changing:
            chat, turns = self._chat, self.turns
            height = self.container_size.height
            if not turns or chat is None or self.scroll_y >= height:
                return
            if turns[0].record.depth == chat.earlier + 1:
                chat.read_earlier()
            place = turns[0].record.depth - 1 - chat.earlier
            new = _turns(chat.records[max(0, place - STEP) : place])
            if not new:
                return
            self._hold()
            await self.mount_all(new, before=turns[0])
            self._mark()
            if chat.reply is None:  # else the last one is being written
                await self._let_go(self.turns[WINDOW:])
        self.call_after_refresh(self._look)

    async def _extend_down(self) -> None:
        async with self._changing:
            chat, turns = self._chat, self.turns
            height = self.container_size.height
            if (
                chat is None
                or not self._hidden_below
                or self.max_scroll_y - self.scroll_y >= height
            ):
                return
            self.release_anchor()
            self._hold()
            place = turns[-1].record.depth - chat.earlier
            await self.mount_all(_turns(chat.records[place : place + STEP]), after=turns[-1])
            self._mark()
            await self._let_go(self.turns[:-WINDOW])
        self.call_after_refresh(self._look)

    async def _let_go(self, far: Sequence[Turn]) -> None:
        """Remove what is far away, unless the focus is there: before a new layout is made,
        everything may seem to be at an edge."""
        if not any(turn.has_focus for turn in far):
            await self.remove_children(far)

    # --- keys ---------------------------------------------------------------------------------

    def focus_last(self) -> None:
        """Go to what the last notice offers, else to the last message."""
        targets = [*self.query(Notice).last().query(Button)][:1] if self.query(Notice) else []
        for target in targets or self.turns[-1:]:
            target.focus()

    def action_step(self, step: int) -> None:
        """To the message before or after; after the last is the prompt."""
        turns = self.turns
        place = next((place for place, turn in enumerate(turns) if turn.has_focus), None)
        if place is None:  # on a notice, below the last message
            place = len(turns)
        if 0 <= place + step < len(turns):
            turns[place + step].focus()
        elif step > 0 and not self._hidden_below:
            self.screen.focus_next()

    async def action_edge(self, edge: int) -> None:
        """To the first or the last message of the chat."""
        async with self._changing:
            chat = self._chat
            if chat is None or not chat.records or chat.reply is not None:
                return
            turn = await self._show(1 if edge < 0 else None)
            if turn is not None:
                self.screen.set_focus(turn)  # at once, so that it is not let go
        if turn is None:
            self.focus_last()


def _turns(records: Sequence[MessageRecord]) -> list[Turn]:
    return [
        UserMessage(record) if record.role == "user" else ModelMessage(record) for record in records
    ]
