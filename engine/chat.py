"""From the messages of a chat to the token ids that the model reads.

Mixtral knows two roles, which alternate and begin and end with the user. Whatever was edited, cut
or cancelled before, `turns` makes such a sequence, by these rules:

- empty messages (a reply cancelled before its first word) are left out;
- system texts go, in order, in front of the first user turn, a blank line between;
- replies before the first user turn, and after the last, are left out;
- neighbours of the same role become one turn, a blank line between.
"""

from collections.abc import Iterable
from itertools import groupby

from engine.errors import UsageError
from engine.protocol import Message
from engine.tokenizer import Tokenizer

_BLANK_LINE = "\n\n"


def prompt_ids(tokenizer: Tokenizer, messages: Iterable[Message]) -> list[int]:
    """The prompt that asks for the next reply, one BOS first.

    Raises UsageError when there is nothing to answer, CheckpointError for a broken template.
    """
    return tokenizer.encode_turns(
        [{"role": turn.role, "content": turn.content} for turn in turns(messages)]
    )


def turns(messages: Iterable[Message]) -> list[Message]:
    """Alternating user and assistant turns, the first and the last by the user.

    Raises UsageError when no user turn is left.
    """
    told = [message for message in messages if message.content.strip()]
    system = [message.content for message in told if message.role == "system"]
    talk = _between_users([message for message in told if message.role != "system"])
    if not talk:
        raise UsageError("there is no message to answer; write something first")
    merged = [_merge(list(group)) for _, group in groupby(talk, key=lambda turn: turn.role)]
    first = _BLANK_LINE.join([*system, merged[0].content])
    return [Message("user", first), *merged[1:]]


def _between_users(talk: list[Message]) -> list[Message]:
    users = [index for index, message in enumerate(talk) if message.role == "user"]
    return talk[users[0] : users[-1] + 1] if users else []


def _merge(group: list[Message]) -> Message:
    return Message(group[0].role, _BLANK_LINE.join(message.content for message in group))
