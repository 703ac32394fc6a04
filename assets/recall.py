"""Things a user says about themselves and asks for later: the slots, their values and wordings.

Names and numbers come from large pools and are asked for in many slots, so that copying from the
context is the only way to be right: they are held out in part, and scored. Colours, fruits, towns,
days and words are too few for that: a model that never hears "Tuesday" in a slot rightly learns
that it is no answer there. They are taught in full and not scored.
"""

import random
from dataclasses import dataclass
from typing import Final

from assets import world
from assets.facts import Split, in_split


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
    Slot("dog", "the name of my dog", "the name of your dog", "guest"),
    Slot("lucky", "my lucky number", "your lucky number", "number"),
    Slot("code", "my door code", "your door code", "number"),
    Slot("room", "my room number", "your room number", "number"),
    Slot("bus", "my bus", "your bus", "number"),
    Slot("boat", "the colour of my boat", "the colour of your boat", "colour"),
    Slot("coat", "the colour of my coat", "the colour of your coat", "colour"),
    Slot("fruit", "my favourite fruit", "your favourite fruit", "fruit"),
    Slot("town", "my favourite town", "your favourite town", "town"),
    Slot("day", "the day of my trip", "the day of your trip", "day"),
    Slot("word", "my secret word", "your secret word", "word"),
    Slot("password", "the password", "the password", "word"),
)

_POOLS: Final[dict[str, tuple[str, ...]]] = {
    "guest": world.GUEST_NAMES,
    "number": tuple(str(number) for number in range(10, 10_000)),
    "colour": world.COLOURS,
    "fruit": world.FRUITS,
    "town": world.TOWNS,
    "day": world.LISTS["days of the week"],
    "word": world.SECRET_WORDS,
}
_SCORED_POOLS: Final = ("guest", "number")
SCORED_SLOTS: Final = tuple(slot for slot in SLOTS if slot.pool in _SCORED_POOLS)
"""The slots of which a part of the values is held out."""

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


def slots(split: Split) -> tuple[Slot, ...]:
    """The slots that chats of `split` speak of."""
    return SLOTS if split == "train" else SCORED_SLOTS


def draw_statement(rng: random.Random, slot: Slot, split: Split) -> Statement:
    """A value for `slot`, one of `slots(split)`, from the combinations of `split`."""
    while True:
        value = rng.choice(_POOLS[slot.pool])
        if slot.pool == "number":  # as many short numbers as long ones
            value = str(rng.randrange(10 ** (digits := rng.randint(1, 3)), 10 ** (digits + 1)))
        statement = Statement(slot, value)
        if slot not in SCORED_SLOTS or in_split(statement.key, split):
            return statement


def tell(rng: random.Random, statements: list[Statement]) -> str:
    """What the user says to make the model remember one statement, or two in one breath."""
    first = statements[0]
    text = rng.choice(_TELL).format(
        Mine=_capital(first.slot.mine), mine=first.slot.mine, v=first.value
    )
    if len(statements) > 1:
        text = f"{text[:-1]} and {statements[1].slot.mine} is {statements[1].value}."
    if rng.random() < 0.2:
        text = text[0].lower() + text[1:]
    return text[:-1] if rng.random() < 0.2 else text


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
