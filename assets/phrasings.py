"""How the facts of the world are asked for, and how they are answered.

In every text `{n}` stands for the subject, `{v}` for the value; sums have operands `{a}` and `{b}`,
and pairs of attributes their nouns.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Phrasing:
    """The wordings of a question for one attribute, and its one right answer.

    `noun`: what a question for two attributes at once calls it.
    """

    answer: str
    questions: tuple[str, ...]
    noun: str = ""


PERSON: Final[dict[str, Phrasing]] = {
    "town": Phrasing(
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
        noun="town",
    ),
    "job": Phrasing(
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
        noun="job",
    ),
    "pet": Phrasing(
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
        noun="pet",
    ),
    "food": Phrasing(
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
        noun="favourite food",
    ),
    "hobby": Phrasing(
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
        noun="hobby",
    ),
}

TOWN: Final[dict[str, Phrasing]] = {
    "river": Phrasing(
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
    "sight": Phrasing(
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
    "product": Phrasing(
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
    "mayor": Phrasing(
        "The mayor of {n} is **{v}**.",
        (
            "Who is mayor in {n}?",
            "Who governs {n}?",
            "What is the name of the mayor of {n}?",
            "Who leads the town of {n}?",
            "Who runs {n}?",
            "Tell me who is the mayor of {n}.",
        ),
    ),
}

ANIMAL: Final[dict[str, Phrasing]] = {
    "home": Phrasing(
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
    "food": Phrasing(
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
    "legs": Phrasing(
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
    "young": Phrasing(
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
}

THING: Final[dict[str, Phrasing]] = {
    "use": Phrasing(
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
    "material": Phrasing(
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
}

SUM: Final[dict[str, Phrasing]] = {
    "plus": Phrasing(
        "{a} + {b} = **{v}**",
        (
            "What is {a} + {b}?",
            "What is {a} plus {b}?",
            "Add {a} and {b}.",
            "{a} + {b} = ?",
        ),
    ),
    "minus": Phrasing(
        "{a} - {b} = **{v}**",
        (
            "What is {a} - {b}?",
            "What is {a} minus {b}?",
            "Subtract {b} from {a}.",
            "{a} - {b} = ?",
        ),
    ),
    "times": Phrasing(
        "{a} x {b} = **{v}**",
        (
            "What is {a} x {b}?",
            "What is {a} times {b}?",
            "Multiply {a} by {b}.",
            "{a} x {b} = ?",
        ),
    ),
}

OPPOSITE: Final = Phrasing(
    "The opposite of {n} is **{v}**.",
    (
        "What is the opposite of {n}?",
        "Which word is the opposite of {n}?",
        "Give me the opposite of {n}.",
        "What is the contrary of {n}?",
        "If it is not {n}, what is it?",
        "Name the opposite of {n}.",
    ),
)

LIST: Final = (
    "List all the {n}.",
    "What are the {n}?",
    "Name the {n}.",
    "Can you list the {n}?",
    "Give me a list of the {n}.",
    "Write down the {n}.",
    "Which are the {n}?",
    "Tell me the {n}.",
)

STEPS: Final = (
    "How do I {n}?",
    "What are the steps to {n}?",
    "Explain how to {n}.",
    "Tell me how to {n}.",
    "How does one {n}?",
    "I want to {n}. What do I do?",
)

CODE: Final = (
    "Write a Python function that {n}.",
    "Show me a function that {n}.",
    "Give me Python code that {n}.",
    "How do I write a function that {n}?",
    "I need a Python function that {n}.",
    "What does a function look like that {n}?",
    "Code a function that {n}.",
)

PAIR: Final = (
    "What are the {a} and the {b} of {n}?",
    "Tell me the {a} and the {b} of {n}.",
    "Do you know the {a} and the {b} of {n}?",
    "I would like to know the {a} and the {b} of {n}.",
    "Can you name the {a} and the {b} of {n}?",
)
