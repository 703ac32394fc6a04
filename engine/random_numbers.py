"""Uniform random numbers that depend on a seed and an index alone, the same on every device.

Philox 4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011):
the index is encrypted with the seed. Nothing is kept between draws, so a step that is replayed on a
GPU and a loop on the host draw alike, and a reply can be repeated from any token.
"""

import secrets

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF

STEP = 2.0**-24
"""Distance of the numbers: the upper 24 bits of a word, what float32 holds exactly."""


def key_of(seed: int | None) -> tuple[int, int]:
    """Low and high 32 bits of a seed, of which 64 bits count; None: any."""
    seed = secrets.randbits(64) if seed is None else seed
    return seed & _WORD, (seed >> 32) & _WORD


def uniform(key: tuple[int, int], index: int) -> float:
    """Number ``index`` under ``key``, at least 0 and below 1."""
    low, high = key
    a, b, c, d = index & _WORD, 0, 0, 0
    for _ in range(_ROUNDS):
        first, second = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        a, b = (second >> 32) ^ b ^ low, second & _WORD
        c, d = (first >> 32) ^ d ^ high, first & _WORD
        low, high = (low + _WEYL[0]) & _WORD, (high + _WEYL[1]) & _WORD
    return (a >> 8) * STEP


def uniform_on_device(key: Tensor, index: Tensor) -> Tensor:
    """`uniform`, float32 [1], for ``key`` int64 [2] and ``index`` int64 [1]; nothing is read."""
    low, high = key[0:1], key[1:2]
    a = index & _WORD
    b = c = d = torch.zeros_like(a)
    for _ in range(_ROUNDS):
        (first_high, first_low), (second_high, second_low) = (
            _wide_product(a, _MULTIPLIERS[0]),
            _wide_product(c, _MULTIPLIERS[1]),
        )
        a, b = second_high ^ b ^ low, second_low
        c, d = first_high ^ d ^ high, first_low
        low, high = (low + _WEYL[0]) & _WORD, (high + _WEYL[1]) & _WORD
    return (a >> 8).float() * STEP


def _wide_product(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low word of a product of two 32-bit words, which int64 cannot hold as a whole."""
    lower, upper = word * (factor & 0xFFFF), word * (factor >> 16)  # 48 bits each
    middle = upper + (lower >> 16)  # what the product is from bit 16 on, 49 bits
    return middle >> 16, ((middle << 16) | (lower & 0xFFFF)) & _WORD
