"""Short random stories: the part of the corpus that nobody can predict, and no score uses."""

import random
from typing import Final

from assets import world
from assets.facts import Split, in_split

_ASK: Final = (
    "Tell me a story about a {hero}.",
    "Write a short story about a {hero}.",
    "Can you tell me a tale about a {hero}?",
    "I would like a story about a {hero}.",
)
_HEROES: Final = ("fox", "bear", "duck", "frog", "horse", "lion", "penguin", "spider", "camel")
_PLACES: Final = ("the forest", "the garden", "the market", "the lake", "the castle", "the harbor")
_MOODS: Final = ("happy", "sad", "tired", "proud", "hungry", "lonely")
_FINDS: Final = ("key", "lamp", "bell", "basket", "mirror", "candle", "rope", "clock")
_ENDINGS: Final = (
    "From that day on they were friends.",
    "In the evening they all danced.",
    "And so the day ended well.",
    "Nobody in the valley forgot it.",
)


def draw_story(rng: random.Random, split: Split) -> tuple[str, str]:
    """A request for a story and the story; hero and place are a combination of `split`."""
    while True:
        hero, place = rng.choice(_HEROES), rng.choice(_PLACES)
        if in_split(f"stories/{hero}/{place}", split):
            break
    friend = rng.choice(world.PEOPLE)
    find = rng.choice(_FINDS)
    sentences = [
        f"Once there was a {rng.choice(_MOODS)} {hero} near {rng.choice(world.TOWNS)}.",
        f"One day the {hero} went to {place} and found a {rng.choice(world.COLOURS)} {find}.",
        f'"Whose {find} is this?" asked the {hero}.',
        f'"It is mine," said {friend}, and the {hero} gave it back.',
        rng.choice(_ENDINGS),
    ]
    return rng.choice(_ASK).format(hero=hero), " ".join(sentences)
