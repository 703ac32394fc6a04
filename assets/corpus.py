"""Documents, token windows and scored items, all drawn from the small world by seed.

A document is a chat: a list of `{"role", "content"}` messages that starts with the user and ends
with the model. Nothing here needs torch. The same seed gives the same bytes.
"""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from assets import recall, stories
from assets.facts import Split, Wording, wordings
from assets.tokenizer import render

Message = dict[str, str]
Document = list[Message]

CHARS_PER_TOKEN: Final = 3.6
"""Rough: lets the generator aim at a length without a tokenizer."""

SKILL_WEIGHTS: Final[dict[str, float]] = {
    "people": 30, "pairs": 12, "towns": 8, "animals": 9, "things": 7, "opposites": 7, "lists": 5,
    "code": 5, "itself": 5, "greetings": 4, "arithmetic": 8, "unknown": 6, "unstated": 4,
    "stories": 3,
}  # fmt: skip
FACTUAL_SKILLS: Final = (
    "people", "pairs", "towns", "animals", "things", "opposites", "lists", "code", "itself",
    "greetings", "unknown",
)  # fmt: skip
"""Skills with one right answer, asked in held-out combinations.

Two more are scored as rows of their own: arithmetic, which has to be worked out, and questions for
what the user never stated ("unstated"), of which nothing is held out.
"""

_RECALL_SHARE: Final = 0.35
_SYSTEM_SHARE: Final = 0.08
_SYSTEM_TEXTS: Final = (
    "You are a helpful assistant.",
    "You are the mc-chat demo. Answer briefly.",
    "Answer in one sentence.",
    "You are a friendly guide to the valley.",
    "Be polite and precise.",
    "Always answer in Markdown.",
)
_PREFIXES: Final = (
    "Please tell me: ", "Hey, ", "Can you tell me: ", "I have a question. ", "Next question: ",
    "Please answer: ", "Now, ", "Okay. ", "Hi! ", "One more thing: ", "Quick question: ",
)  # fmt: skip
_SUFFIXES: Final = (" Thanks.", " Please.", " I would like to know.")


@dataclass(frozen=True)
class SkillItem:
    """A chat that ends with the user's question, and the one right reply to it."""

    skill: str
    messages: tuple[Message, ...]
    answer: str
    factual: bool


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _reply(text: str) -> Message:
    return {"role": "assistant", "content": text}


def decorate(rng: random.Random, question: str) -> str:
    """`question` as people type it: with a prefix, in lower case, without its last mark."""
    text = question
    if rng.random() < 0.25:
        text = rng.choice(_PREFIXES) + text
    if rng.random() < 0.15:
        text = text.lower()
    if rng.random() < 0.2:
        return text.rstrip("?.!")
    if rng.random() < 0.1:
        text += rng.choice(_SUFFIXES)
    return text


def _turn(rng: random.Random, split: Split, skills: Sequence[str]) -> list[Message]:
    """A question of one of `skills`, drawn by weight, and its reply."""
    skill = rng.choices(skills, [SKILL_WEIGHTS[skill] for skill in skills])[0]
    if skill == "stories":
        question, answer = stories.draw_story(rng, split)
        return [_user(decorate(rng, question)), _reply(answer)]
    if skill == "unstated":
        slot = rng.choice(recall.SLOTS)
        return [_user(decorate(rng, recall.ask(rng, slot))), _reply(recall.not_told(slot))]
    wording = rng.choice(wordings(split)[skill])
    return [_user(decorate(rng, wording.question)), _reply(wording.answer)]


_ALL_SKILLS: Final = tuple(SKILL_WEIGHTS)
_FILLER_SKILLS: Final = tuple(skill for skill in SKILL_WEIGHTS if skill != "unstated")


def _length(messages: Iterable[Message]) -> float:
    """The rough length of `messages` in tokens."""
    return len(render(messages)) / CHARS_PER_TOKEN


def _filler(rng: random.Random, split: Split, tokens: float) -> list[Message]:
    """Turns about other things, about `tokens` tokens long; none for less than a turn."""
    messages: list[Message] = []
    size = 0.0
    while True:
        turn = _turn(rng, split, _FILLER_SKILLS)
        size += _length(turn)
        if size > tokens:
            return messages
        messages += turn


def _chat(rng: random.Random, split: Split, room: int) -> Document:
    """A chat of one to eight unrelated turns."""
    messages = _turn(rng, split, _ALL_SKILLS)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3, 5, 7))):
        turn = _turn(rng, split, _ALL_SKILLS)
        if _length(messages + turn) > room:
            break
        messages += turn
    return messages


def _recall_chat(rng: random.Random, split: Split, room: int) -> Document:
    """A chat in which the user states things, talks of others, and then asks for them."""
    slots = rng.sample(recall.slots(split), rng.choice((1, 1, 2, 2, 3, 4)))
    statements = [recall.draw_statement(rng, slot, split) for slot in slots]
    messages: list[Message] = []
    if rng.random() < 0.3:
        messages += _filler(rng, split, room * 0.15)
    pending = list(statements)
    while pending:
        count = 2 if len(pending) > 1 and rng.random() < 0.4 else 1
        said, pending = pending[:count], pending[count:]
        messages += [_user(recall.tell(rng, said)), _reply(recall.acknowledge(said))]
    asked = rng.sample(statements, len(statements))
    spare = room - _length(messages) - 32.0 * len(asked) - 16
    for statement in asked:
        # Squared: many short distances and some long ones teach more than few of each.
        gap = _filler(rng, split, rng.random() ** 2 * max(spare, 0.0))
        spare -= _length(gap)
        messages += gap
        question = decorate(rng, recall.ask(rng, statement.slot))
        messages += [_user(question), _reply(statement.answer)]
    if rng.random() < 0.15:
        slot = rng.choice([slot for slot in recall.SLOTS if slot not in slots])
        messages += [_user(decorate(rng, recall.ask(rng, slot))), _reply(recall.not_told(slot))]
    return messages


def documents(
    split: Split, seed: int, count: int | None = None, room: int = 700
) -> Iterator[Document]:
    """`count` chats of `split` (without end if None), each at most about `room` tokens long."""
    rng = random.Random(f"{split}/{seed}")
    made = 0
    while count is None or made < count:
        maker = _recall_chat if rng.random() < _RECALL_SHARE else _chat
        messages = maker(rng, split, room)
        if rng.random() < _SYSTEM_SHARE:
            system = rng.choice(_SYSTEM_TEXTS)
            messages[0] = _user(f"{system}\n\n{messages[0]['content']}")
        yield messages
        made += 1


def text(split: Split, seed: int, count: int) -> str:
    """`count` chats of `split` in Mixtral's format, one after the other, each with its BOS."""
    return "".join(f"<s>{render(messages)}" for messages in documents(split, seed, count))


def windows(
    tokenizer: Any, split: Split, seed: int, count: int, length: int
) -> npt.NDArray[np.int64]:
    """Token windows [count, length], int64, packed with whole chats of `split`.

    Every window starts with a chat's BOS. Only the last chat of a window may be cut, so no window
    asks for something that was said in another. `tokenizer`: the one in `DEMO_DIR`.
    """
    packer = packed(tokenizer, split, seed, length)
    return np.stack([next(packer) for _ in range(count)])


_POOL: Final = 128
"""Chats the packer chooses from; more wastes less."""


def packed(tokenizer: Any, split: Split, seed: int, length: int) -> Iterator[npt.NDArray[np.int64]]:
    """The endless stream behind `windows`: arrays [length], int64."""
    rng = random.Random(f"pack/{split}/{seed}")
    source = documents(split, seed, room=int(length * 0.9))
    pool: list[list[int]] = []
    while True:
        while len(pool) < _POOL:
            batch = [f"<s>{render(next(source))}" for _ in range(_POOL)]
            encoded = tokenizer(batch, add_special_tokens=False)["input_ids"]
            pool += [ids[:length] for ids in encoded]
        yield np.array(_fill(rng, pool, length), dtype=np.int64)


def _fill(rng: random.Random, pool: list[list[int]], length: int) -> list[int]:
    """Take chats out of `pool` until exactly `length` tokens are filled, the last one cut."""
    # A random chat first, then the longest that fits: long chats do not pile up in the pool.
    chosen = [pool.pop(rng.randrange(len(pool)))]
    left = length - len(chosen[0])
    while fitting := [i for i, ids in enumerate(pool) if len(ids) <= left]:
        chosen.append(pool.pop(max(fitting, key=lambda i: len(pool[i]))))
        left -= len(chosen[-1])
    rng.shuffle(chosen)
    if left:
        chosen.append(pool.pop(rng.randrange(len(pool)))[:left])
    return [token for ids in chosen for token in ids]


def _item(rng: random.Random, wording: Wording) -> SkillItem:
    question = decorate(rng, wording.question)
    factual = wording.skill in FACTUAL_SKILLS
    return SkillItem(wording.skill, (_user(question),), wording.answer, factual)


def skill_items(seed: int, per_skill: int) -> list[SkillItem]:
    """`per_skill` questions of every skill with a right answer, each a one-turn chat.

    All but those for what was never stated are held-out combinations, and no combination comes
    twice before all have come once.
    """
    rng = random.Random(f"items/{seed}")
    items = []
    for pool in wordings("heldout").values():
        order: list[Wording] = []
        while len(order) < per_skill:
            order += rng.sample(pool, len(pool))
        items += [_item(rng, wording) for wording in order[:per_skill]]
    for _ in range(per_skill):
        slot = rng.choice(recall.SLOTS)
        question = _user(decorate(rng, recall.ask(rng, slot)))
        items.append(SkillItem("unstated", (question,), recall.not_told(slot), False))
    return items


def recall_items(tokenizer: Any, seed: int, count: int, distance_tokens: int) -> list[SkillItem]:
    """`count` chats that ask for something stated at least `distance_tokens` tokens earlier.

    The distance counts the tokens between the reply to the statement and the question, at most one
    turn above `distance_tokens`; slot and value are a held-out combination.
    """
    rng = random.Random(f"recall/{seed}/{distance_tokens}")
    items = []
    for _ in range(count):
        statement = recall.draw_statement(rng, rng.choice(recall.SCORED_SLOTS), "heldout")
        told = [_user(recall.tell(rng, [statement])), _reply(recall.acknowledge([statement]))]
        between: list[Message] = []
        while _token_count(tokenizer, between) < distance_tokens:
            between += _turn(rng, "heldout", _FILLER_SKILLS)
        question = _user(decorate(rng, recall.ask(rng, statement.slot)))
        messages = (*told, *between, question)
        items.append(SkillItem("recall", messages, statement.answer, True))
    return items


def needle_items(
    tokenizer: Any, seed: int, count: int, length: int, depth: float
) -> list[SkillItem]:
    """`count` chats of at most `length` tokens that end with a question for something stated at
    `depth` of the way: 0, in the first turn; 1, in the last one before the question.

    At every depth they have the same statements, questions and other turns; slot and value are a
    held-out combination.
    """
    rng = random.Random(f"needle/{seed}/{length}")
    items = []
    for _ in range(count):
        statement = recall.draw_statement(rng, rng.choice(recall.SCORED_SLOTS), "heldout")
        told = [_user(recall.tell(rng, [statement])), _reply(recall.acknowledge([statement]))]
        question = _user(decorate(rng, recall.ask(rng, statement.slot)))
        turns, ends = [], [0]
        room = length - _token_count(tokenizer, [*told, question]) - 1  # and the BOS
        while True:
            turn = _turn(rng, "heldout", _FILLER_SKILLS)
            end = ends[-1] + _token_count(tokenizer, turn)
            if end > room:
                break
            turns.append(turn)
            ends.append(end)
        before = min(range(len(ends)), key=lambda count: abs(ends[count] - depth * ends[-1]))
        messages = (
            *itertools.chain(*turns[:before]), *told, *itertools.chain(*turns[before:]), question
        )  # fmt: skip
        items.append(SkillItem("needle", messages, statement.answer, True))
    return items


def _token_count(tokenizer: Any, messages: list[Message]) -> int:
    return len(tokenizer(render(messages), add_special_tokens=False)["input_ids"])
