"""Everything with one right answer, each with its many wordings, and what of it is held out.

A fact is never held out as a whole unless it can be worked out from others (sums, and questions
that join two known facts): what the split keeps back is the *combination* of a fact and a wording.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from assets import world

Split = Literal["train", "heldout"]

HELD_OUT_ONE_IN: Final = 6
"""One combination in this many, chosen by hash, is kept out of training."""

REFUSAL: Final = (
    "I do not know that. I am only a small demo: ask me about the people of the valley, "
    "animals, things, opposites, sums, lists or code."
)


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


_PERSON: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    # attribute: (noun, answer, wordings)
    "town": (
        "town",
        "{n} lives in **{v}**.",
        (
            "Where does {n} live?",
            "In which town does {n} live?",
            "Which town is {n} from?",
            "What is the home town of {n}?",
            "Where can I find {n}?",
            "Where is the house of {n}?",
            "What town does {n} call home?",
            "Tell me where {n} lives.",
        ),
    ),
    "job": (
        "job",
        "{n} works as a **{v}**.",
        (
            "What does {n} do?",
            "What is the job of {n}?",
            "What does {n} do for a living?",
            "What does {n} work as?",
            "Which trade does {n} have?",
            "How does {n} earn money?",
            "What is {n} by profession?",
            "Tell me what {n} does for work.",
        ),
    ),
    "pet": (
        "pet",
        "{n} has a **{v}**.",
        (
            "Which pet does {n} have?",
            "What pet does {n} keep?",
            "What animal does {n} own?",
            "Which animal lives with {n}?",
            "What is the pet of {n}?",
            "Does {n} have a pet?",
            "What kind of pet does {n} own?",
            "Tell me which pet {n} has.",
        ),
    ),
    "food": (
        "favourite food",
        "{n} likes to eat **{v}**.",
        (
            "What does {n} like to eat?",
            "What is the favourite food of {n}?",
            "Which food does {n} like best?",
            "What should I cook for {n}?",
            "What does {n} eat most often?",
            "Which meal makes {n} happy?",
            "What would {n} order for dinner?",
            "Tell me what {n} likes to eat.",
        ),
    ),
    "hobby": (
        "hobby",
        "{n} enjoys **{v}**.",
        (
            "What is the hobby of {n}?",
            "Which hobby does {n} have?",
            "What does {n} enjoy?",
            "What does {n} do for fun?",
            "How does {n} spend free time?",
            "What does {n} do after work?",
            "What is the favourite pastime of {n}?",
            "Tell me the hobby of {n}.",
        ),
    ),
}

_TOWN: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "river": (
        "{n} lies on the river **{v}**.",
        (
            "Which river flows through {n}?",
            "On which river does {n} lie?",
            "What is the river in {n}?",
            "What river runs through {n}?",
            "Which river will I see in {n}?",
            "Tell me the river of {n}.",
        ),
    ),
    "sight": (
        "In {n} you can see **{v}**.",
        (
            "What can I see in {n}?",
            "What is the sight of {n}?",
            "What should a visitor see in {n}?",
            "What is worth a visit in {n}?",
            "What is {n} famous for?",
            "Tell me what there is to see in {n}.",
        ),
    ),
    "product": (
        "{n} makes **{v}**.",
        (
            "What does {n} make?",
            "What is made in {n}?",
            "What do people in {n} produce?",
            "Which goods come from {n}?",
            "What can I buy in {n}?",
            "Tell me what {n} makes.",
        ),
    ),
    "mayor": (
        "The mayor of {n} is **{v}**.",
        (
            "Who is the mayor of {n}?",
            "Who governs {n}?",
            "What is the name of the mayor of {n}?",
            "Who leads the town of {n}?",
            "Who runs {n}?",
            "Tell me who is the mayor of {n}.",
        ),
    ),
}

_ANIMAL: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    (
        "home",
        "The {n} lives {v}.",
        (
            "Where does a {n} live?",
            "Where is the home of the {n}?",
            "Where can I see a {n}?",
            "Where does the {n} sleep?",
            "In what place does a {n} live?",
            "Tell me where a {n} lives.",
        ),
    ),
    (
        "food",
        "The {n} eats **{v}**.",
        (
            "What does a {n} eat?",
            "What is the food of the {n}?",
            "What do I feed a {n}?",
            "Which food does a {n} like?",
            "What does the {n} live on?",
            "Tell me what a {n} eats.",
        ),
    ),
    (
        "legs",
        "The {n} has **{v}** legs.",
        (
            "How many legs does a {n} have?",
            "How many legs has a {n}?",
            "What is the number of legs of a {n}?",
            "On how many legs does a {n} walk?",
            "Count the legs of a {n}.",
            "Tell me how many legs a {n} has.",
        ),
    ),
    (
        "young",
        "The young of the {n} is called a **{v}**.",
        (
            "What is the young of a {n} called?",
            "What is a baby {n} called?",
            "How do you call a young {n}?",
            "What is the name for a little {n}?",
            "Which word means a young {n}?",
            "Tell me the word for a baby {n}.",
        ),
    ),
)

_THING: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    (
        "use",
        "You use a {n} **{v}**.",
        (
            "What is a {n} for?",
            "What do you use a {n} for?",
            "What can I do with a {n}?",
            "Why do people have a {n}?",
            "What is the purpose of a {n}?",
            "Tell me what a {n} is for.",
        ),
    ),
    (
        "material",
        "A {n} is made of **{v}**.",
        (
            "What is a {n} made of?",
            "Which material is a {n} made of?",
            "What is the material of a {n}?",
            "What do you need to make a {n}?",
            "Of what does a {n} consist?",
            "Tell me what a {n} is made of.",
        ),
    ),
)

_OPPOSITE: Final = (
    "What is the opposite of {n}?",
    "Which word is the opposite of {n}?",
    "Give me the opposite of {n}.",
    "What is the contrary of {n}?",
    "If it is not {n}, what is it?",
    "Name the opposite of {n}.",
)

_LIST: Final = (
    "List the {n}.",
    "What are the {n}?",
    "Name the {n}.",
    "Can you list the {n}?",
    "Give me a list of the {n}.",
    "Write down the {n}.",
    "Which are the {n}?",
    "Tell me the {n}.",
)

_STEPS: Final = (
    "How do I {n}?",
    "What are the steps to {n}?",
    "Explain how to {n}.",
    "Tell me how to {n}.",
    "How does one {n}?",
    "I want to {n}. What do I do?",
)

_CODE: Final = (
    "Write a Python function that {n}.",
    "Show me a function that {n}.",
    "Give me Python code that {n}.",
    "How do I write a function that {n}?",
    "I need a Python function that {n}.",
    "What does a function look like that {n}?",
    "Code a function that {n}.",
)

_ITSELF: Final[tuple[tuple[str, tuple[str, ...], str], ...]] = (
    (
        "who",
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Tell me about yourself.",
            "Introduce yourself.",
            "Which model are you?",
            "Whom am I talking to?",
            "What should I call you?",
        ),
        "I am the **mc-chat demo**, a small Mixtral. I am a demonstration, not an assistant.",
    ),
    (
        "can",
        (
            "What can you do?",
            "What can I ask you?",
            "What do you know?",
            "How can you help me?",
            "What are you good at?",
            "What do you know about?",
            "Help.",
        ),
        "You can ask me about:\n\n- the people and towns of the valley\n- animals and things\n"
        "- opposites and sums\n- lists and steps\n- short Python functions\n\n"
        "I also remember what you tell me.",
    ),
    (
        "experts",
        (
            "How many experts do you have?",
            "What is your number of experts?",
            "How many experts are in you?",
            "Do you have experts?",
            "How many experts are there in each of your layers?",
            "Tell me about your experts.",
        ),
        "I have **8 experts** in each of my **4 layers**, and each token uses **2** of them.",
    ),
    (
        "assistant",
        (
            "Are you an assistant?",
            "Are you a real assistant?",
            "Are you as clever as a big model?",
            "Are you a person?",
            "Are you human?",
            "Can I trust you?",
        ),
        "No. I am a tiny model that knows a small made-up world, trained to show compression.",
    ),
    (
        "trained",
        (
            "Who trained you?",
            "How were you trained?",
            "Where do you come from?",
            "What were you trained on?",
            "Who made you?",
            "How were you made?",
        ),
        "I was trained on two CPU cores in about an hour, on chats that a program wrote.",
    ),
)

_GREETING: Final[tuple[tuple[str, tuple[str, ...], str], ...]] = (
    (
        "hello",
        ("Hello!", "Hi!", "Hey!", "Good morning!", "Good day!", "Good evening!", "Hi there!"),
        "Hello! What would you like to know?",
    ),
    (
        "how",
        ("How are you?", "How do you do?", "How is it going?", "Are you well?", "What is up?"),
        "I am well, thank you! What would you like to know?",
    ),
    (
        "thanks",
        ("Thank you!", "Thanks!", "Thanks a lot!", "Many thanks!", "Great, thank you!"),
        "You are welcome!",
    ),
    (
        "bye",
        ("Goodbye!", "Bye!", "See you later!", "Good night!", "I have to go.", "Bye for now!"),
        "Goodbye! Come back to the valley soon.",
    ),
)

# Nobody can guess a wording never seen at all: these two vary the questions that stand alone, so
# that what is held out is again a combination of known parts.
_OPENERS: Final = ("", "Hello! ", "Well, ", "So, ", "Good to know. ", "I wonder: ")
_ADDRESSES: Final = ("", ", my friend", ", demo", ", dear model", " again", ", little Mixtral")

_SUM: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "plus": (
        "{a} + {b} = **{v}**",
        ("What is {a} + {b}?", "What is {a} plus {b}?", "Add {a} and {b}.", "{a} + {b} = ?"),
    ),
    "minus": (
        "{a} - {b} = **{v}**",
        ("What is {a} - {b}?", "What is {a} minus {b}?", "Subtract {b} from {a}.", "{a} - {b} = ?"),
    ),
    "times": (
        "{a} x {b} = **{v}**",
        ("What is {a} x {b}?", "What is {a} times {b}?", "Multiply {a} by {b}.", "{a} x {b} = ?"),
    ),
}

_PAIR: Final = (
    "What are the {a} and the {b} of {n}?",
    "Tell me the {a} and the {b} of {n}.",
    "Do you know the {a} and the {b} of {n}?",
    "I would like to know the {a} and the {b} of {n}.",
    "Can you name the {a} and the {b} of {n}?",
)

_UNKNOWN: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        "place",
        (
            "What is the capital of {n}?",
            "How many people live in {n}?",
            "Where is {n}?",
            "What is the weather in {n}?",
            "Tell me about {n}.",
            "Who is the president of {n}?",
        ),
    ),
    (
        "topic",
        (
            "What is {n}?",
            "Explain {n} to me.",
            "How does {n} work?",
            "Write a poem about {n}.",
            "What do you think about {n}?",
            "Who invented {n}?",
            "Why is {n} important?",
            "What is the history of {n}?",
        ),
    ),
    (
        "stranger",
        (
            "Where does {n} live?",
            "What does {n} do?",
            "Who is {n}?",
            "What is the hobby of {n}?",
            "Which pet does {n} have?",
            "What does {n} like to eat?",
            "When was {n} born?",
        ),
    ),
)
_UNKNOWN_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "place": (
        "France", "Spain", "Japan", "Brazil", "Canada", "Kenya", "India", "China", "Norway",
        "London", "Paris", "Berlin", "Rome", "Tokyo", "Germany", "America", "Egypt", "Mexico",
        "New York", "Italy",
    ),
    "topic": (
        "physics", "quantum mechanics", "a black hole", "the internet", "football", "music",
        "the stock market", "democracy", "gravity", "electricity", "photosynthesis", "history",
        "love", "the moon", "a computer", "machine learning", "the meaning of life", "politics",
        "money", "chemistry", "a neural network", "the sun", "philosophy", "the weather",
    ),
    "stranger": world.GUEST_NAMES,
}  # fmt: skip
_UNKNOWN_FIXED: Final = (
    "What time is it?", "What day is it today?", "Tell me a joke.", "Sing a song.",
    "What is the news?", "Translate this into French.", "Who won the game?",
    "Can you book a flight?", "What should I wear today?", "How old are you?",
    "Summarize this text.", "What will happen tomorrow?", "Fix my computer.",
    "Where am I?", "Do you like me?", "How tall is the highest mountain?",
)  # fmt: skip


def _people() -> Iterator[Fact]:
    for person in world.INHABITANTS:
        for attribute, (_, answer, wordings) in _PERSON.items():
            yield Fact(
                f"people/{person.name}/{attribute}",
                "people",
                tuple(text.format(n=person.name) for text in wordings),
                answer.format(n=person.name, v=getattr(person, attribute)),
            )


def _pairs() -> Iterator[Fact]:
    for person in world.INHABITANTS:
        for first, (noun, answer, _) in _PERSON.items():
            for second, (other_noun, other_answer, _) in _PERSON.items():
                if first == second:
                    continue
                # Both orders of a pair share their fate, or the split would hold out half of it.
                one, two = sorted((first, second))
                yield Fact(
                    f"pairs/{person.name}/{one}+{two}/{first}",
                    "pairs",
                    tuple(text.format(a=noun, b=other_noun, n=person.name) for text in _PAIR),
                    f"- {answer.format(n=person.name, v=getattr(person, first))}\n"
                    f"- {other_answer.format(n=person.name, v=getattr(person, second))}",
                    whole=True,
                )


def _towns() -> Iterator[Fact]:
    for town in world.TOWN_FACTS:
        for attribute, (answer, wordings) in _TOWN.items():
            yield Fact(
                f"towns/{town.name}/{attribute}",
                "towns",
                tuple(text.format(n=town.name) for text in wordings),
                answer.format(n=town.name, v=getattr(town, attribute)),
            )


def _animals() -> Iterator[Fact]:
    for animal, values in world.ANIMALS.items():
        for (attribute, answer, wordings), value in zip(_ANIMAL, values, strict=True):
            yield _simple("animals", animal, attribute, answer, wordings, str(value))


def _things() -> Iterator[Fact]:
    for thing, values in world.THINGS.items():
        for (attribute, answer, wordings), value in zip(_THING, values, strict=True):
            yield _simple("things", thing, attribute, answer, wordings, value)


def _simple(
    skill: str, noun: str, attribute: str, answer: str, wordings: tuple[str, ...], value: str
) -> Fact:
    return Fact(
        f"{skill}/{noun}/{attribute}",
        skill,
        tuple(_article(text.format(n=noun)) for text in wordings),
        _article(answer.format(n=noun, v=value)),
    )


def _article(text: str) -> str:
    """`text` with "a" turned into "an" before a vowel."""
    words = text.split(" ")
    for i, word in enumerate(words[:-1]):
        if word in ("a", "A") and words[i + 1].lstrip("*")[:1] in "aeiou":
            words[i] = word + "n"
    return " ".join(words)


def _opposites() -> Iterator[Fact]:
    for pair in world.OPPOSITES:
        for word, other in (pair, pair[::-1]):
            yield Fact(
                f"opposites/{word}",
                "opposites",
                tuple(text.format(n=word) for text in _OPPOSITE),
                f"The opposite of {word} is **{other}**.",
            )


def _lists() -> Iterator[Fact]:
    for name, entries in world.LISTS.items():
        yield Fact(
            f"lists/{name}",
            "lists",
            tuple(text.format(n=name) for text in _LIST),
            "\n".join(f"- {entry}" for entry in entries),
        )
    for name, steps in world.STEPS.items():
        yield Fact(
            f"lists/{name}",
            "lists",
            tuple(text.format(n=name) for text in _STEPS),
            "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1)),
        )


def _code() -> Iterator[Fact]:
    for purpose, source in world.CODE.items():
        yield Fact(
            f"code/{purpose}",
            "code",
            tuple(text.format(n=purpose) for text in _CODE),
            f"```python\n{source}\n```",
        )


def _itself() -> Iterator[Fact]:
    for topic, wordings, answer in _ITSELF:
        questions = tuple(opener + text for text in wordings for opener in _OPENERS)
        yield Fact(f"itself/{topic}", "itself", questions, answer)


def _greetings() -> Iterator[Fact]:
    for kind, wordings, answer in _GREETING:
        questions = tuple(
            f"{text[:-1]}{address}{text[-1]}" for text in wordings for address in _ADDRESSES
        )
        yield Fact(f"greetings/{kind}", "greetings", questions, answer)


def _arithmetic() -> Iterator[Fact]:
    operands = [("plus", a, b, a + b) for a in range(21) for b in range(21)]
    operands += [("minus", a, b, a - b) for a in range(21) for b in range(a + 1)]
    operands += [("times", a, b, a * b) for a in range(11) for b in range(11)]
    for operation, a, b, value in operands:
        answer, wordings = _SUM[operation]
        # 3 + 5 and 5 + 3 share their fate, or one would give the other away.
        low, high = (b, a) if operation == "minus" else sorted((a, b))
        yield Fact(
            f"arithmetic/{operation}/{low},{high}",
            "arithmetic",
            tuple(text.format(a=a, b=b) for text in wordings),
            answer.format(a=a, b=b, v=value),
            whole=True,
        )


def _unknown() -> Iterator[Fact]:
    for kind, wordings in _UNKNOWN:
        for name in _UNKNOWN_NAMES[kind]:
            questions = tuple(text.format(n=name) for text in wordings)
            yield Fact(f"unknown/{kind}/{name}", "unknown", questions, REFUSAL)
    fixed = tuple(opener + text for text in _UNKNOWN_FIXED for opener in _OPENERS)
    yield Fact("unknown/fixed", "unknown", fixed, REFUSAL)


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
            # The order in which a pair is asked for is not part of its key.
            key = fact.key.rsplit("/", 1)[0] if fact.skill == "pairs" else fact.key
            key = key if fact.whole else f"{key}/{number}"
            if in_split(key, split):
                wording = Wording(key, fact.skill, question, fact.answer)
                result.setdefault(fact.skill, []).append(wording)
    return {skill: tuple(items) for skill, items in result.items()}
