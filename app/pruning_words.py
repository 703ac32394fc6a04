"""Pruning as a person sees it: its mode and strength in words, and the steps of its strength."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from app.units import share
from engine.errors import UsageError
from engine.manifest import OtpRecord
from engine.protocol import ODP_OR_NOT, PruningMode, SetPruning

STEP = 0.25
STRONGEST = 2.0
"""As the engine allows; ``engine.pruning`` needs torch."""


def pruning_words(pruning: SetPruning) -> str:
    """no pruning, ODP on, OTP ×1.25."""
    if pruning.mode == "off":
        return "no pruning"
    mode = pruning.mode.upper()
    return f"{mode} on" if pruning.strength == 1.0 else f"{mode} ×{pruning.strength:g}"


def known_prunings(otp: OtpRecord | None) -> tuple[PruningMode, ...]:
    """The modes of a compressed model; ``otp``: what it has learned, None for nothing."""
    return ODP_OR_NOT if otp is None else get_args(PruningMode)


def default_pruning(wanted: PruningMode, otp: OtpRecord | None) -> PruningMode:
    """What a model begins with where the settings ask for ``wanted``."""
    return wanted if wanted in known_prunings(otp) else "odp"


def ways_words(wanted: PruningMode, otp: OtpRecord | None) -> str:
    """ODP, OTP 40 %: the ways that a model knows, the one that it begins with first."""
    default = default_pruning(wanted, otp)
    names: dict[PruningMode, str] = {"odp": "ODP", "off": "no pruning"}
    if otp is not None:
        names["otp"] = f"OTP {share(otp.skipped)}"
    others = [name for mode, name in names.items() if mode not in {default, "off"}]
    return ", ".join([names[default], *others])


def ways_lines(name: str, wanted: PruningMode, otp: OtpRecord | None) -> list[str]:
    """The same in full sentences, for the model ``name``."""
    doing = {"odp": "Prunes by ODP", "otp": "Prunes by OTP", "off": "Prunes nothing"}
    begins = f"{doing[default_pruning(wanted, otp)]} where nothing else is asked for."
    if otp is None:
        return [f"{begins} OTP is not learned: `mc-chat prune {name}` does that."]
    learned = (
        f"OTP skips {share(otp.skipped)} of the expert slots at strength 1, on {otp.samples} x "
        f"{otp.window} tokens of {otp.calibration}."
    )
    return [begins, learned]


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
