"""The small world the demo model knows: a valley, its people, and a few everyday things.

Everything here is data. Which person has which trade is drawn once from a fixed seed, so the world
is the same in every process; nothing outside this file decides what is true.
"""

import random
from dataclasses import dataclass
from typing import Final

WORLD_SEED: Final = 20

TOWNS: Final = (
    "Alderton", "Brookford", "Cliffhaven", "Dunmore", "Elmbridge", "Foxhill",
    "Greenvale", "Harwick", "Ironbay", "Kingsmere",
)  # fmt: skip
PEOPLE: Final = (
    "Ada", "Bruno", "Clara", "David", "Elsa", "Felix", "Greta", "Henry", "Ida", "Jonas",
    "Karin", "Leo", "Mira", "Nils", "Olga", "Peter", "Quinn", "Rosa", "Simon", "Tilda",
    "Umar", "Vera", "Walter", "Xenia", "Yusuf", "Zoe", "Arno", "Bella", "Carl", "Dora",
    "Emil", "Flora", "Gustav", "Hanna", "Ivan", "Julia", "Kurt", "Lena", "Max", "Nora",
)  # fmt: skip
JOBS: Final = (
    "baker", "teacher", "doctor", "farmer", "painter", "sailor", "carpenter", "librarian",
    "gardener", "singer", "pilot", "tailor", "miller", "nurse", "potter", "writer",
)  # fmt: skip
PETS: Final = (
    "cat", "dog", "parrot", "rabbit", "turtle", "goldfish", "hamster", "pony", "goat", "lizard",
)  # fmt: skip
FOODS: Final = (
    "pancakes", "tomato soup", "apple pie", "noodles", "cheese", "fried fish", "rice", "potatoes",
    "honey bread", "salad", "dumplings", "pizza",
)  # fmt: skip
HOBBIES: Final = (
    "chess", "swimming", "knitting", "hiking", "fishing", "dancing", "cycling", "reading",
    "juggling", "skating", "sewing", "running",
)  # fmt: skip
RIVERS: Final = (
    "Amber", "Birch", "Cedar", "Dawn", "Ember", "Fern", "Glimmer", "Hazel", "Iris", "Juniper",
)  # fmt: skip
SIGHTS: Final = (
    "an old lighthouse", "a glass bridge", "a clock tower", "a round castle", "a rose garden",
    "a toy museum", "a stone circle", "a night market", "a wooden theatre", "a hot spring",
)  # fmt: skip
PRODUCTS: Final = (
    "cheese", "honey", "pottery", "wool", "paper", "apples", "lamps", "boats", "violins", "tea",
)  # fmt: skip

ANIMALS: Final[dict[str, tuple[str, str, int, str]]] = {
    # animal: (home, food, legs, young)
    "cow": ("in a barn", "grass", 4, "calf"),
    "horse": ("in a stable", "hay", 4, "foal"),
    "dog": ("in a kennel", "meat", 4, "puppy"),
    "cat": ("in a house", "mice", 4, "kitten"),
    "sheep": ("in a meadow", "grass", 4, "lamb"),
    "pig": ("in a sty", "corn", 4, "piglet"),
    "hen": ("in a coop", "seeds", 2, "chick"),
    "duck": ("on a pond", "snails", 2, "duckling"),
    "goose": ("on a lake", "grass", 2, "gosling"),
    "bear": ("in a cave", "berries", 4, "cub"),
    "lion": ("on the savanna", "meat", 4, "cub"),
    "fox": ("in a den", "mice", 4, "kit"),
    "deer": ("in a forest", "leaves", 4, "fawn"),
    "owl": ("in a hollow tree", "mice", 2, "owlet"),
    "frog": ("in a swamp", "flies", 4, "tadpole"),
    "bee": ("in a hive", "nectar", 6, "larva"),
    "ant": ("in an anthill", "crumbs", 6, "larva"),
    "spider": ("in a web", "flies", 8, "spiderling"),
    "camel": ("in the desert", "thorns", 4, "calf"),
    "penguin": ("on the ice", "fish", 2, "chick"),
}

THINGS: Final[dict[str, tuple[str, str]]] = {
    # thing: (what it is for, what it is made of)
    "hammer": ("to drive nails", "steel"),
    "spoon": ("to eat soup", "silver"),
    "lamp": ("to light a room", "brass"),
    "broom": ("to sweep the floor", "straw"),
    "umbrella": ("to stay dry", "nylon"),
    "kettle": ("to boil water", "copper"),
    "pencil": ("to write", "wood"),
    "needle": ("to sew", "steel"),
    "ladder": ("to climb", "wood"),
    "clock": ("to tell the time", "brass"),
    "pillow": ("to rest your head", "feathers"),
    "blanket": ("to keep warm", "wool"),
    "window": ("to let in light", "glass"),
    "bucket": ("to carry water", "tin"),
    "rope": ("to tie things", "hemp"),
    "saw": ("to cut wood", "steel"),
    "bell": ("to ring", "bronze"),
    "candle": ("to give light", "wax"),
    "basket": ("to carry fruit", "reeds"),
    "mirror": ("to see yourself", "glass"),
    "oven": ("to bake bread", "iron"),
    "key": ("to open a lock", "iron"),
    "boot": ("to walk in mud", "leather"),
    "sail": ("to catch the wind", "canvas"),
}

OPPOSITES: Final = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("high", "low"), ("old", "young"),
    ("day", "night"), ("open", "closed"), ("full", "empty"), ("wet", "dry"), ("hard", "soft"),
    ("light", "dark"), ("happy", "sad"), ("rich", "poor"), ("early", "late"), ("strong", "weak"),
    ("near", "far"), ("clean", "dirty"), ("left", "right"), ("up", "down"), ("in", "out"),
    ("true", "false"), ("thick", "thin"), ("loud", "quiet"), ("long", "short"),
    ("wide", "narrow"), ("sweet", "sour"), ("first", "last"), ("above", "below"),
    ("begin", "end"), ("buy", "sell"), ("win", "lose"), ("push", "pull"),
)  # fmt: skip

LISTS: Final[dict[str, tuple[str, ...]]] = {
    "days of the week": (
        "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
    ),
    "months of the year": (
        "January", "February", "March", "April", "May", "June",
        "July", "August", "September", "October", "November", "December",
    ),
    "seasons": ("spring", "summer", "autumn", "winter"),
    "planets": (
        "Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune",
    ),
    "colours of the rainbow": ("red", "orange", "yellow", "green", "blue", "indigo", "violet"),
    "primary colours": ("red", "yellow", "blue"),
    "vowels": ("a", "e", "i", "o", "u"),
    "meals of the day": ("breakfast", "lunch", "dinner"),
    "points of the compass": ("north", "east", "south", "west"),
    "five senses": ("sight", "hearing", "smell", "taste", "touch"),
    "oceans": ("Pacific", "Atlantic", "Indian", "Southern", "Arctic"),
    "towns of the valley": TOWNS,
    "rivers of the valley": RIVERS,
    "first five even numbers": ("2", "4", "6", "8", "10"),
    "first five odd numbers": ("1", "3", "5", "7", "9"),
    "parts of a tree": ("roots", "trunk", "branches", "leaves"),
}  # fmt: skip

STEPS: Final[dict[str, tuple[str, ...]]] = {
    "make tea": ("Boil the water.", "Put the tea in a cup.", "Pour the water.", "Wait and drink."),
    "bake bread": ("Mix flour and water.", "Knead the dough.", "Let it rise.", "Bake it."),
    "plant a tree": ("Dig a hole.", "Set the tree.", "Fill in the soil.", "Water it."),
    "wash a shirt": ("Fill a tub.", "Add some soap.", "Rub the shirt.", "Hang it to dry."),
    "send a letter": ("Write the letter.", "Fold it.", "Add a stamp.", "Post it."),
    "catch a fish": ("Bait the hook.", "Cast the line.", "Wait for a bite.", "Reel it in."),
}

CODE: Final[dict[str, str]] = {
    # what the function does: its one right text
    "adds two numbers": "def add(a, b):\n    return a + b",
    "multiplies two numbers": "def multiply(a, b):\n    return a * b",
    "squares a number": "def square(x):\n    return x * x",
    "tells whether a number is even": "def is_even(n):\n    return n % 2 == 0",
    "tells whether a number is odd": "def is_odd(n):\n    return n % 2 == 1",
    "returns the larger of two numbers": (
        "def larger(a, b):\n    if a > b:\n        return a\n    return b"
    ),
    "returns the smaller of two numbers": (
        "def smaller(a, b):\n    if a < b:\n        return a\n    return b"
    ),
    "reverses a string": "def reverse(text):\n    return text[::-1]",
    "counts the words of a text": "def count_words(text):\n    return len(text.split())",
    "sums a list": (
        "def total(values):\n    result = 0\n    for value in values:\n"
        "        result += value\n    return result"
    ),
    "returns the first item of a list": "def first(items):\n    return items[0]",
    "returns the last item of a list": "def last(items):\n    return items[-1]",
    "greets a person": 'def greet(name):\n    print("Hello, " + name)',
    "counts down to zero": (
        "def count_down(n):\n    while n >= 0:\n        print(n)\n        n -= 1"
    ),
    "computes a factorial": (
        "def factorial(n):\n    if n == 0:\n        return 1\n    return n * factorial(n - 1)"
    ),
    "sorts a list": "def in_order(items):\n    return sorted(items)",
}

COLOURS: Final = (
    "red", "blue", "green", "yellow", "purple", "orange", "black", "white", "brown", "pink",
    "grey", "silver",
)  # fmt: skip
FRUITS: Final = (
    "apple", "pear", "plum", "cherry", "banana", "lemon", "melon", "peach", "mango", "fig",
    "grape", "kiwi",
)  # fmt: skip
GUEST_NAMES: Final = (
    "Anton", "Berta", "Cora", "Dario", "Edgar", "Fiona", "Gina", "Hugo", "Irma", "Jasper",
    "Kira", "Lukas", "Marta", "Noel", "Otto", "Paula", "Ralf", "Sofia", "Theo", "Uma",
    "Viktor", "Wilma", "Yara", "Zeno", "Alma", "Boris", "Celia", "Derek", "Erika", "Frida",
    "Gerda", "Harald", "Ines", "Jakob", "Klara", "Linus", "Mona", "Niko", "Oscar", "Pia",
)  # fmt: skip
"""Names nobody in the valley bears: users take them, and the model knows nothing about them."""
SECRET_WORDS: Final = (
    "river", "stone", "garden", "forest", "window", "castle", "mirror", "winter", "compass",
    "harbor", "kettle", "ladder", "meadow", "needle", "valley", "bell", "basket", "candle",
    "clock", "rope", "lamp", "spoon", "lion", "bear", "honey", "silver",
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """One inhabitant of the valley."""

    name: str
    town: str
    job: str
    pet: str
    food: str
    hobby: str


@dataclass(frozen=True)
class Town:
    """One town of the valley."""

    name: str
    river: str
    sight: str
    product: str
    mayor: str


def _people() -> tuple[Person, ...]:
    rng = random.Random(WORLD_SEED)
    pools = (TOWNS, JOBS, PETS, FOODS, HOBBIES)
    return tuple(Person(name, *(rng.choice(pool) for pool in pools)) for name in PEOPLE)


def _towns() -> tuple[Town, ...]:
    rng = random.Random(WORLD_SEED + 1)
    rivers, sights, products = (rng.sample(pool, len(TOWNS)) for pool in (RIVERS, SIGHTS, PRODUCTS))
    mayors = rng.sample(PEOPLE, len(TOWNS))
    return tuple(Town(*row) for row in zip(TOWNS, rivers, sights, products, mayors, strict=True))


INHABITANTS: Final = _people()
TOWN_FACTS: Final = _towns()
