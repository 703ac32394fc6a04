"""Everything with one right answer, each with its many wordings, and what of it is held out.

A fact is never held out as a whole unless it can be worked out from others (sums, and questions
that join two known facts): what the split keeps back is the *combination* of a fact and a wording.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import Final, Literal

from assets import phrasings, small_talk, world
from assets.phrasings import Phrasing

Split = Literal["train", "heldout"]

HELD_OUT_ONE_IN: Final = 6
"""One combination in this many, chosen by hash, is kept out of training."""


@dataclass(frozen=True)
class Fact:
    """A question in all its wordings and the one right answer.

    `whole`: the fact itself, not a wording of it, is what the split holds out.
    """

    key: str
    skill: str
    questions: tuple[str, ...]
    answer: str
    whole: bool = False


@dataclass(frozen=True)
class Wording:
    """One fact asked in one way; `key` names the combination that the split is decided by."""

    key: str
    skill: str
    question: str
    answer: str


def is_held_out(key: str) -> bool:
    """Whether the combination named `key` is kept out of training. Depends on nothing else."""
    digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


def in_split(key: str, split: Split) -> bool:
    """Whether the combination named `key` belongs to `split`."""
    return is_held_out(key) == (split == "heldout")


def _fact(key: str, skill: str, phrasing: Phrasing, subject: str, value: str) -> Fact:
    """The fact that the attribute `phrasing` asks for has `value` for `subject`."""
    return Fact(
        key,
        skill,
        tuple(_article(text.format(n=subject)) for text in phrasing.questions),
        _article(phrasing.answer.format(n=subject, v=value)),
    )


def _article(text: str) -> str:
    """`text` with "a" turned into "an" before a vowel."""
    words = text.split(" ")
    for i, word in enumerate(words[:-1]):
        if word in ("a", "A") and words[i + 1].lstrip("*")[:1] in "aeiou":
            words[i] = word + "n"
    return " ".join(words)


def _people() -> Iterator[Fact]:
    for person in world.INHABITANTS:
        for attribute, phrasing in phrasings.PERSON.items():
            key = f"people/{person.name}/{attribute}"
            yield _fact(key, "people", phrasing, person.name, getattr(person, attribute))


def _pairs() -> Iterator[Fact]:
    for person in world.INHABITANTS:
        for first, second in permutations(phrasings.PERSON, 2):
            # Both orders of a pair share their key, or one would give the other away.
            low, high = sorted((first, second))
            one, two = phrasings.PERSON[first], phrasings.PERSON[second]
            lines = (
                f"- {phrasing.answer.format(n=person.name, v=getattr(person, attribute))}"
                for attribute, phrasing in ((first, one), (second, two))
            )
            yield Fact(
                f"pairs/{person.name}/{low}+{high}",
                "pairs",
                tuple(
                    text.format(a=one.noun, b=two.noun, n=person.name) for text in phrasings.PAIR
                ),
                "\n".join(lines),
                whole=True,
            )


def _towns() -> Iterator[Fact]:
    for town in world.TOWN_FACTS:
        for attribute, phrasing in phrasings.TOWN.items():
            key = f"towns/{town.name}/{attribute}"
            yield _fact(key, "towns", phrasing, town.name, getattr(town, attribute))


def _animals() -> Iterator[Fact]:
    for animal, values in world.ANIMALS.items():
        for (attribute, phrasing), value in zip(phrasings.ANIMAL.items(), values, strict=True):
            yield _fact(f"animals/{animal}/{attribute}", "animals", phrasing, animal, str(value))


def _things() -> Iterator[Fact]:
    for thing, values in world.THINGS.items():
        for (attribute, phrasing), value in zip(phrasings.THING.items(), values, strict=True):
            yield _fact(f"things/{thing}/{attribute}", "things", phrasing, thing, value)


def _opposites() -> Iterator[Fact]:
    for pair in world.OPPOSITES:
        for word, other in (pair, pair[::-1]):
            yield _fact(f"opposites/{word}", "opposites", phrasings.OPPOSITE, word, other)


def _lists() -> Iterator[Fact]:
    for name, entries in world.LISTS.items():
        answer = "\n".join(f"- {entry}" for entry in entries)
        yield _fact(f"lists/{name}", "lists", Phrasing(answer, phrasings.LIST), name, "")
    for name, steps in world.STEPS.items():
        answer = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
        yield _fact(f"lists/{name}", "lists", Phrasing(answer, phrasings.STEPS), name, "")


def _code() -> Iterator[Fact]:
    for purpose, source in world.CODE.items():
        questions = tuple(text.format(n=purpose) for text in phrasings.CODE)
        yield Fact(f"code/{purpose}", "code", questions, f"```python\n{source}\n```")


def _itself() -> Iterator[Fact]:
    for exchange in small_talk.ITSELF:
        questions = tuple(
            opener + text for text in exchange.questions for opener in small_talk.OPENERS
        )
        yield Fact(f"itself/{exchange.name}", "itself", questions, exchange.answer)


def _greetings() -> Iterator[Fact]:
    for exchange in small_talk.GREETINGS:
        questions = tuple(
            f"{text[:-1]}{address}{text[-1]}"
            for text in exchange.questions
            for address in small_talk.ADDRESSES
        )
        yield Fact(f"greetings/{exchange.name}", "greetings", questions, exchange.answer)


def _arithmetic() -> Iterator[Fact]:
    operands = [("plus", a, b, a + b) for a in range(21) for b in range(21)]
    operands += [("minus", a, b, a - b) for a in range(21) for b in range(a + 1)]
    operands += [("times", a, b, a * b) for a in range(11) for b in range(11)]
    for operation, a, b, value in operands:
        phrasing = phrasings.SUM[operation]
        # 3 + 5 and 5 + 3 share their key, or one would give the other away.
        low, high = (b, a) if operation == "minus" else sorted((a, b))
        yield Fact(
            f"arithmetic/{operation}/{low},{high}",
            "arithmetic",
            tuple(text.format(a=a, b=b) for text in phrasing.questions),
            phrasing.answer.format(a=a, b=b, v=value),
            whole=True,
        )


def _unknown() -> Iterator[Fact]:
    for kind, texts in small_talk.UNKNOWN.items():
        for subject in small_talk.UNKNOWN_SUBJECTS[kind]:
            questions = tuple(text.format(n=subject) for text in texts)
            yield Fact(f"unknown/{kind}/{subject}", "unknown", questions, small_talk.REFUSAL)
    anyway = tuple(
        opener + text for text in small_talk.UNKNOWN_ANYWAY for opener in small_talk.OPENERS
    )
    yield Fact("unknown/fixed", "unknown", anyway, small_talk.REFUSAL)


def facts() -> Iterator[Fact]:
    """Every fact of the world, in a fixed order."""
    makers = (
        _people, _pairs, _towns, _animals, _things, _opposites,
        _lists, _code, _itself, _greetings, _arithmetic, _unknown,
    )  # fmt: skip
    for maker in makers:
        yield from maker()


@cache
def wordings(split: Split) -> dict[str, tuple[Wording, ...]]:
    """Per skill, every combination of fact and wording that belongs to `split`."""
    result: dict[str, list[Wording]] = {}
    for fact in facts():
        for number, question in enumerate(fact.questions):
            key = fact.key if fact.whole else f"{fact.key}/{number}"
            if in_split(key, split):
                wording = Wording(key, fact.skill, question, fact.answer)
                result.setdefault(fact.skill, []).append(wording)
    return {skill: tuple(items) for skill, items in result.items()}
