"""HQQ's own solver: needs no calibration, half-quadratic splitting on the weights alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian
from compress.quantizers.rtn import quantize_min_max

_CHUNK_WEIGHTS = 1 << 23
"""Weights at a time: hqq holds ten copies of them in float32."""


def quantize_hqq(
    weights: Tensor, hessian: Hessian, widths: Sequence[int], group_size: int
) -> tuple[Codes, ...]:
    """Quantize weights [O, I]; the Hessian is not looked at.

    hqq's 1-bit solver has no sign codes: 1 bit is sign and mean magnitude, as everywhere here.
    """
    return tuple(
        quantize_min_max(weights, hessian, (bits,), group_size)[0]
        if bits == 1
        else _solve(weights, bits, group_size)
        for bits in widths
    )


def _solve(weights: Tensor, bits: int, group_size: int) -> Codes:
    step = max(1, _CHUNK_WEIGHTS // weights.shape[1])
    parts = [_solve_rows(rows, bits, group_size) for rows in torch.split(weights, step)]
    codes, scale, zero = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    return Codes(codes, scale, zero, bits, group_size)


def _solve_rows(weights: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [R, I], scales and zeros [R, G]."""
    # Imported when asked for: it brings half of transformers along.
    from hqq.core.quantize import Quantizer

    levels, meta = Quantizer.quantize(
        weights,
        nbits=bits,
        group_size=group_size,
        axis=1,
        bitpack=False,
        device=str(weights.device),
    )
    rows = len(weights)
    scale, zero = (meta[name].reshape(rows, -1).half() for name in ("scale", "zero"))
    return levels.reshape(weights.shape).to(torch.uint8), scale, zero
