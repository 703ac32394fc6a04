"""The large matrix products of quantizing: in which precision they run, and where.

Products of rounding errors feed corrections that are themselves rounded to a grid of a few levels,
so 8 bits of mantissa do, and run four times as fast where the device has them. Hessians are summed
in float32 from rounded inputs: such a sum is still a Gram matrix, so still positive semidefinite.
Small models stay in float32 throughout: their products are over before it could matter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

SMALLEST_LARGE = 1024
"""Inputs from which on a product is worth the lower precision."""

_GRAM_BLOCK = 2048


def product_dtype(like: Tensor, inputs: int) -> torch.dtype:
    """What products over ``inputs`` inputs of weights on the device of ``like`` run in."""
    large = inputs >= SMALLEST_LARGE and like.dtype == torch.float32
    return torch.bfloat16 if large and has_fast_bfloat16(like.device) else like.dtype


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster there than in float32."""
    return device.type == "cuda" or (device.type == "cpu" and _cpu_has_bfloat16())


def add_gram(total: Tensor, rows: Tensor) -> None:
    """Add rows^T rows of rows [t, I] to the lower triangle of total [I, I], float32, in place.

    What lies above the diagonal, beyond a block of 2048, is left as it is: `mirror` fills it in.
    """
    inputs = len(total)
    with _rounded_inputs(total.device, inputs):
        for start in range(0, inputs, _GRAM_BLOCK):
            stop = start + _GRAM_BLOCK
            total[start:, start:stop].addmm_(rows[:, start:].T, rows[:, start:stop])


def mirror(total: Tensor) -> None:
    """Copy the lower triangle of total [I, I] to the upper one, in place."""
    for start in range(0, len(total), _GRAM_BLOCK):
        stop = start + _GRAM_BLOCK
        total[start:stop, stop:] = total[stop:, start:stop].T


@contextmanager
def _rounded_inputs(device: torch.device, inputs: int) -> Iterator[None]:
    """Let float32 products round their inputs (CPU: bfloat16, CUDA: TF32); sums stay float32."""
    if inputs < SMALLEST_LARGE or not has_fast_bfloat16(device):
        yield
        return
    on_cpu = device.type == "cpu"
    backend: Any = getattr(torch.backends, "mkldnn" if on_cpu else "cuda").matmul
    before = backend.fp32_precision
    backend.fp32_precision = "bf16" if on_cpu else "tf32"
    try:
        yield
    finally:
        backend.fp32_precision = before


@cache
def _cpu_has_bfloat16() -> bool:
    # Emulated, bfloat16 products are slower than float32 ones; torch has no public question.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
