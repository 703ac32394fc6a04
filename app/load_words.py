"""How far the loading of a model is, in a few words."""

from engine.protocol import LoadProgress

KERNELS = "kernels, compiled at the first start"
"""It takes half a minute then, and no time later."""


def load_words(told: LoadProgress) -> str:
    """What is going on, and the share of the model that is there."""
    return KERNELS if told.stage == "kernels" else f"{told.stage} {told.fraction:.0%}"
