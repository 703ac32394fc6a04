"""Things a user says about themselves and asks for later: the slots, their values and wordings.

Values come from large pools, so that copying from the context is the only way to be right.
"""

import random
from dataclasses import dataclass
from typing import Final

from assets import world
from assets.facts import Split, is_held_out


@dataclass(frozen=True)
class Slot:
    """Something a user can state: "my lucky number". `pool` names where its values come from."""

    name: str
    mine: str
    yours: str
    pool: str


@dataclass(frozen=True)
class Statement:
    """One slot with one value."""

    slot: Slot
    value: str

    @property
    def key(self) -> str:
        """Names the combination that the split is decided by."""
        return f"recall/{self.slot.name}/{self.value}"

    @property
    def answer(self) -> str:
        """The one right reply when the user asks for it."""
        return f"{_capital(self.slot.yours)} is {self.value}."


SLOTS: Final = (
    Slot("name", "my name", "your name", "guest"),
    Slot("sister", "the name of my sister", "the name of your sister", "guest"),
    Slot("friend", "the name of my friend", "the name of your friend", "guest"),
    Slot("neighbour", "my neighbour", "your neighbour", "guest"),
    Slot("lucky", "my lucky number", "your lucky number", "number"),
    Slot("code", "my door code", "your door code", "number"),
    Slot("room", "my room number", "your room number", "number"),
    Slot("bus", "my bus", "your bus", "number"),
    Slot("boat", "the colour of my boat", "the colour of your boat", "colour"),
    Slot("coat", "the colour of my coat", "the colour of your coat", "colour"),
    Slot("fruit", "my favourite fruit", "your favourite fruit", "fruit"),
    Slot("word", "my secret word", "your secret word", "word"),
    Slot("password", "the password", "the password", "word"),
    Slot("town", "my favourite town", "your favourite town", "town"),
    Slot("dog", "the name of my dog", "the name of your dog", "guest"),
    Slot("day", "the day of my trip", "the day of your trip", "day"),
)

_POOLS: Final[dict[str, tuple[str, ...]]] = {
    "guest": world.GUEST_NAMES,
    "number": tuple(str(number) for number in range(10, 10_000)),
    "colour": world.COLOURS,
    "fruit": world.FRUITS,
    "word": world.SECRET_WORDS,
    "town": world.TOWNS,
    "day": world.LISTS["days of the week"],
}

_TELL: Final = (
    "{Mine} is {v}.",
    "Please remember that {mine} is {v}.",
    "Remember: {mine} is {v}.",
    "I want to tell you something: {mine} is {v}.",
    "By the way, {mine} is {v}.",
    "You should know that {mine} is {v}.",
    "Keep in mind that {mine} is {v}.",
    "Note that {mine} is {v}.",
)
_ASK: Final = (
    "What is {mine}?",
    "Do you remember {mine}?",
    "What was {mine}?",
    "Can you tell me {mine}?",
    "What did I say {mine} was?",
    "Do you still know {mine}?",
    "Remind me: what is {mine}?",
    "I forgot {mine}. What is it?",
)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def held_out(statement: Statement) -> bool:
    """Whether slot and value are a combination kept out of training.

    The hash may spare all values of a small pool, so one value per slot is always kept out.
    """
    pool = _POOLS[statement.slot.pool]
    always = pool[SLOTS.index(statement.slot) % len(pool)]
    return statement.value == always or is_held_out(statement.key)


def draw_statement(rng: random.Random, slot: Slot, split: Split) -> Statement:
    """A value for `slot` from the combinations of `split`, uniform over its pool."""
    while True:
        value = rng.choice(_POOLS[slot.pool])
        if slot.pool == "number":  # as many short numbers as long ones
            value = str(rng.randrange(10 ** (digits := rng.randint(1, 3)), 10 ** (digits + 1)))
        statement = Statement(slot, value)
        if held_out(statement) == (split == "heldout"):
            return statement


def tell(rng: random.Random, statements: list[Statement]) -> str:
    """What the user says to make the model remember one statement, or two in one breath."""
    first = statements[0]
    text = rng.choice(_TELL).format(
        Mine=_capital(first.slot.mine), mine=first.slot.mine, v=first.value
    )
    if len(statements) > 1:
        text = f"{text[:-1]} and {statements[1].slot.mine} is {statements[1].value}."
    return text


def acknowledge(statements: list[Statement]) -> str:
    """The one right reply to `tell`: it says back what was stated."""
    parts = [f"{statement.slot.yours} is {statement.value}" for statement in statements]
    return f"I will remember that {' and '.join(parts)}."


def ask(rng: random.Random, slot: Slot) -> str:
    """A question for what `slot` was stated to be."""
    return rng.choice(_ASK).format(mine=slot.mine)


def not_told(slot: Slot) -> str:
    """The one right reply to a question for a slot that was never stated."""
    return f"You have not told me {slot.yours} yet."
