"""The one step that plain torch is slow at, going through a group's inputs, for CUDA.

A program holds a block of rows, [ROWS, g], in registers from the first input to the last. Under
TRITON_INTERPRET=1 it runs on a CPU, slowly, for the tests.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 16
_WARPS = 4
_ROUNDER: tl.constexpr = tl.constexpr(1.5 * 2**23)


@triton.jit
def _sweep(
    targets: tl.tensor,
    base: tl.tensor,
    couplings: tl.tensor,
    scales: tl.tensor,
    zeros: tl.tensor,
    levels: tl.tensor,
    rows: tl.tensor,
    top: tl.constexpr,
    size: tl.constexpr,
    has_base: tl.constexpr,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0) * block + tl.arange(0, block)
    column = tl.arange(0, size)
    inside = row < rows
    at = row[:, None].to(tl.int64) * size + column[None, :]
    x = tl.load(targets + at, mask=inside[:, None], other=0.0)
    scale = tl.load(scales + row, mask=inside, other=1.0)
    zero = tl.load(zeros + row, mask=inside, other=0.0)
    found = tl.zeros((block, size), tl.float32)
    for i in range(size):
        own = column[None, :] == i
        target = tl.sum(tl.where(own, x, 0.0), axis=1)
        level = tl.minimum(tl.maximum(target / scale + zero, 0.0), top)
        level = (level + _ROUNDER) - _ROUNDER  # to the nearest, ties to even
        value = (level - zero) * scale
        start = target
        if has_base:
            start = tl.load(base + row.to(tl.int64) * size + i, mask=inside, other=0.0)
        coupling = tl.load(couplings + i * size + column)  # zero up to i
        x -= (value - start)[:, None] * coupling[None, :]
        found = tl.where(own, level[:, None], found)
    tl.store(levels + at, found, mask=inside[:, None])


def sweep(
    targets: Tensor,
    base: Tensor | None,
    couplings: Tensor,
    scale: Tensor,
    zero: Tensor,
    top: int,
) -> Tensor:
    """See `reference.Sweep`; float32 on CUDA, g a power of two."""
    rows, size = targets.shape
    targets, couplings = targets.contiguous(), couplings.contiguous()
    start = targets if base is None else base.contiguous()
    levels = torch.empty_like(targets)
    _sweep[(triton.cdiv(rows, ROWS),)](
        targets,
        start,
        couplings,
        scale.contiguous(),
        zero.contiguous(),
        levels,
        rows,
        top=top,
        size=size,
        has_base=base is not None,
        block=ROWS,
        num_warps=_WARPS,
        enable_fp_fusion=False,  # each operation rounds, as in plain torch
    )
    return levels
