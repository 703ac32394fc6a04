"""Products with the weights of one token, or of a few, one after the other: bound by memory.

Nothing here is read on the host, and nothing is allocated after the first call on a device, so that
all of it can be captured in a CUDA graph. Where the inputs of a row are split over programs, each
leaves a partial sum; the last to arrive (an integer counter tells) adds them in their order. So the
same inputs give the same bytes, whatever ran first. One stream at a time: the partial sums lie in
one buffer a device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
import triton
from torch import Tensor

from engine.errors import UsageError
from engine.kernels import Arena
from engine.kernels.triton import decode_kernels as kernels
from engine.kernels.triton.plans import Plan, Work
from engine.kernels.triton.tuning import plan_book
from engine.layout import TILE_ROWS
from engine.packing import PackedMatrix

_PARTIAL_SUMS = 1 << 20
_COUNTERS = 1 << 14
_HIDDEN = 1 << 19


@dataclass(frozen=True)
class _Scratch:
    """Partial sums and the experts' inner activations, float32; counters int32, all 0."""

    partial: Tensor
    hidden: Tensor
    arrived: Tensor


@cache
def scratch(device: torch.device) -> _Scratch:
    """The buffers of a device, for good: a captured graph holds their addresses."""
    return _Scratch(
        partial=torch.empty(_PARTIAL_SUMS, device=device),
        hidden=torch.empty(_HIDDEN, device=device),
        arrived=torch.zeros(_COUNTERS, dtype=torch.int32, device=device),
    )


def packed_matvec(x: Tensor, matrix: PackedMatrix, out: Tensor) -> None:
    """Write x [T, I] times a packed matrix [O, I] to ``out`` [T, O]; T is 1, or a few.

    Both are contiguous, of any floating type; sums are float32. Where the matrix is rotated, x is
    turned already.
    """
    packed_matvecs(x, (matrix,), (out,))


def packed_matvecs(x: Tensor, matrices: Sequence[PackedMatrix], outs: Sequence[Tensor]) -> None:
    """`packed_matvec` with up to three matrices in one launch (query, key and value, say).

    They have the same inputs, width and groups; ``outs`` are of one type. Raises ValueError for
    more than three, or for matrices that differ.
    """
    shape = matrices[0].shape
    kinds = {replace(one.shape, rows=0) for one in matrices}
    if len(kinds) > 1 or len(matrices) > 3:
        raise ValueError("one launch takes up to three matrices of one width and group size")
    rows = sum(one.shape.rows for one in matrices)
    buffers = scratch(x.device)
    given = [
        (one.codes, one.scales, one.zeros, out, one.shape.rows)
        for one, out in zip(matrices, outs, strict=True)
    ]
    first, second, third = (*given, *[given[0]] * (3 - len(given)))  # what is not there is not read

    def launch(plan: Plan) -> None:
        blocks = sum(triton.cdiv(one.shape.tiles, plan.lines) for one in matrices)
        _check_room(len(x) * plan.splits * rows, len(x) * blocks, 0)
        kernels.matvec[(blocks, plan.splits, len(x))](
            x,
            *first,
            *second,
            *third,
            buffers.partial,
            buffers.arrived,
            shape.columns,
            bits=shape.bits,
            rotated=shape.rotated,
            group_size=shape.group_size,
            splits=plan.splits,
            matrices=len(matrices),
            **plan.options,
        )

    work = Work("matvec", rows, shape.columns, shape.bits, shape.group_size, shape.rotated)
    launch(plan_book(x.device).plan(work, launch))


def experts_decode(x: Tensor, ids: Tensor, weights: Tensor, arena: Arena, out: Tensor) -> None:
    """Write the weighted sum of the chosen experts' outputs to ``out`` [T, H]; T is 1, or a few.

    x [T, H] of any floating type, turned already where the arena is rotated; ids [T, K] int32 or
    int64, below 0 for a slot to skip, which reads nothing; weights [T, K] float32. All contiguous.
    Two launches, whatever is skipped.
    """
    gate = arena.layout.slots[0][0].shape
    inner, hidden_size, group_size = gate.rows, gate.columns, gate.group_size
    widest, rotated = arena.layout.widest, arena.layout.rotated
    tokens, rank = ids.shape
    buffers = scratch(x.device)
    packed = (arena.table, arena.codes, arena.scales, arena.zeros)
    _check_room(0, tokens * rank * (inner // group_size), tokens * rank * inner)

    def launch_gate_up(plan: Plan) -> None:
        kernels.gate_up[(triton.cdiv(inner, TILE_ROWS * plan.lines // 2), tokens * rank)](
            x,
            ids,
            *packed,
            buffers.hidden,
            buffers.arrived,
            inner,
            hidden_size,
            rank,
            widest=widest,
            rotated=rotated,
            group_size=group_size,
            **plan.options,
        )

    def launch_down(plan: Plan) -> None:
        blocks = triton.cdiv(hidden_size, TILE_ROWS * plan.lines)
        _check_room(tokens * plan.splits * hidden_size, tokens * blocks, 0)
        kernels.down[(blocks, plan.splits, tokens)](
            buffers.hidden,
            ids,
            weights,
            *packed,
            out,
            buffers.partial,
            buffers.arrived,
            hidden_size,
            inner,
            rank,
            widest=widest,
            rotated=rotated,
            group_size=group_size,
            splits=plan.splits,
            **plan.options,
        )

    book = plan_book(x.device)
    first = Work("gate_up", inner, hidden_size, widest, group_size, rotated)
    second = Work("down", hidden_size, inner, widest, group_size, rotated)
    launch_gate_up(book.plan(first, launch_gate_up))
    launch_down(book.plan(second, launch_down))


def half_matvec(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """Write x [T, I] times a 16-bit weight [O, I] to ``out`` [T, O]; T is 1, or a few.

    All contiguous, x and ``out`` of any floating type; sums are float32.
    """
    rows, columns = weight.shape
    block_columns = min(1024, triton.next_power_of_2(columns))
    kernels.half_matvec[(triton.cdiv(rows, 4), len(x))](
        x,
        weight,
        out,
        rows,
        columns,
        block_rows=4,
        block_columns=block_columns,
        num_warps=4,
        enable_fp_fusion=True,
    )


def _check_room(partial: int, counters: int, hidden: int) -> None:
    """Refuse more tokens than the buffers hold, before a kernel writes behind them."""
    if partial > _PARTIAL_SUMS or counters > _COUNTERS or hidden > _HIDDEN:
        raise UsageError("too many tokens at once for the decoding kernels; use those of prefill")
