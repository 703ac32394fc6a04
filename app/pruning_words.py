"""Pruning as a person sees it: its mode and strength in words, and the steps of its strength."""

import math
from dataclasses import replace

from engine.errors import UsageError
from engine.protocol import SetPruning

STEP = 0.25
STRONGEST = 2.0
"""As the engine allows; ``engine.pruning`` needs torch."""


def pruning_words(pruning: SetPruning) -> str:
    """ODP off, ODP on, ODP ×1.25."""
    if pruning.mode == "off":
        return "ODP off"
    return "ODP on" if pruning.strength == 1.0 else f"ODP ×{pruning.strength:g}"


def pruning_of(text: str, now: SetPruning) -> SetPruning:
    """What a person wrote: on, off, or a strength. Raises UsageError."""
    if text in {"on", "off"}:
        return replace(now, mode="odp" if text == "on" else "off")
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not 0 <= strength <= STRONGEST:
        raise UsageError(f"pruning is on, off, or a strength from 0 to {STRONGEST:g}, not {text}")
    return SetPruning("odp", strength)


def stepped(strength: float, steps: int) -> float:
    """The strength so many steps further, within its limits."""
    return min(max(strength + steps * STEP, 0.0), STRONGEST)
