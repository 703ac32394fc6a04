"""From the messages of a chat to the token ids that the model reads.

Mixtral knows two roles, which alternate and begin with the user. Whatever was edited, cut or
cancelled before, `turns` makes such a sequence, by these rules:

- empty messages (a reply cancelled before its first word) are left out;
- system texts go, in order, in front of the first user turn, a blank line between;
- replies before the first user turn are left out;
- neighbours of the same role become one turn, a blank line between.

A sequence that ends with the user asks for a reply. One that ends with a reply asks for the rest of
it: that turn is left open, without the token that ends a reply.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import dropwhile, groupby

from engine.errors import UsageError
from engine.protocol import Message
from engine.tokenizer import Tokenizer

_BLANK_LINE = "\n\n"


def prompt_ids(tokenizer: Tokenizer, messages: Iterable[Message]) -> list[int]:
    """The prompt that asks for the next reply, or for the rest of the last; one BOS first.

    Raises UsageError when there is nothing to answer, CheckpointError for a broken template.
    """
    return tokenizer.encode_turns(
        [{"role": turn.role, "content": turn.content} for turn in turns(messages)]
    )


def count_tokens(tokenizer: Tokenizer, messages: Iterable[Message]) -> int:
    """Tokens that the context holds after these messages, before the next; 0 for none.

    A system text that nothing was said to yet counts as the turn that it will begin. Raises
    CheckpointError for a broken template.
    """
    told = [message for message in messages if message.content.strip()]
    if all(message.role != "user" for message in told):
        told = [replace(message, role="user") for message in told if message.role == "system"]
    return len(prompt_ids(tokenizer, told)) if told else 0


def turns(messages: Iterable[Message]) -> list[Message]:
    """Alternating user and assistant turns, the first by the user.

    Raises UsageError when no user turn is left.
    """
    told = [message for message in messages if message.content.strip()]
    system = [message.content for message in told if message.role == "system"]
    talk = _from_user([message for message in told if message.role != "system"])
    if not talk:
        raise UsageError("there is no message to answer; write something first")
    merged = [_merge(list(group)) for _, group in groupby(talk, key=lambda turn: turn.role)]
    first = _BLANK_LINE.join([*system, merged[0].content])
    return [Message("user", first), *merged[1:]]


def continues(messages: Iterable[Message]) -> bool:
    """Whether these ask for the rest of a reply. Raises UsageError as `turns` does."""
    return turns(messages)[-1].role == "assistant"


def _from_user(talk: list[Message]) -> list[Message]:
    return list(dropwhile(lambda message: message.role != "user", talk))


def _merge(group: list[Message]) -> Message:
    return Message(group[0].role, _BLANK_LINE.join(message.content for message in group))
