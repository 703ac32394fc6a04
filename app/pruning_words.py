"""Pruning as a person sees it: its mode and strength in words, and the steps of its strength."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from engine.errors import UsageError
from engine.protocol import PruningMode, SetPruning

STEP = 0.25
STRONGEST = 2.0
"""As the engine allows; ``engine.pruning`` needs torch."""


def pruning_words(pruning: SetPruning) -> str:
    """ODP off, ODP on, OTP ×1.25."""
    if pruning.mode == "off":
        return "ODP off"
    mode = pruning.mode.upper()
    return f"{mode} on" if pruning.strength == 1.0 else f"{mode} ×{pruning.strength:g}"


def pruning_of(text: str, now: SetPruning) -> SetPruning:
    """What a person wrote: on, off, the name of a mode, or a strength. Raises UsageError."""
    if text == "on":
        return replace(now, mode=_running(now.mode))
    named = [mode for mode in get_args(PruningMode) if mode == text]
    if named:
        return replace(now, mode=named[0])
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not 0 <= strength <= STRONGEST:
        raise UsageError(
            f"pruning is on, off, odp, otp, or a strength from 0 to {STRONGEST:g}, not {text}"
        )
    return SetPruning(_running(now.mode), strength)


def stepped(now: SetPruning, steps: int) -> SetPruning:
    """The strength so many steps further, within its limits; pruning is on then."""
    strength = min(max(now.strength + steps * STEP, 0.0), STRONGEST)
    return SetPruning(_running(now.mode), strength)


def switched(now: SetPruning, known: Sequence[PruningMode]) -> SetPruning:
    """The mode after this one, of those that a model knows."""
    place = known.index(now.mode) + 1 if now.mode in known else 0
    return replace(now, mode=known[place % len(known)])


def _running(mode: PruningMode) -> PruningMode:
    return "odp" if mode == "off" else mode
