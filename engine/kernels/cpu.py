"""Packed products on a CPU: numba loops over row tiles, spread over threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.grouping import run_by_expert
from engine.hadamard import rotate
from engine.kernels import Arena, loops
from engine.kernels.lone import LoneProduct
from engine.kernels.loops import Ints
from engine.kernels.step import compiled_step
from engine.layout import TILE_ROWS, ArenaLayout, PackedShape, Slot
from engine.packing import PackedArrays, PackedMatrix

FEW_TOKENS = 4
"""From here on, sorting the tokens by expert beats running their slots one by one."""

MANY_TOKENS = 32
"""From here on, making 16-bit weights float32 and calling BLAS beats reading them token by token:
with fewer, one product with the head of Mixtral 8x7B took five times as long."""

SERIAL_WEIGHTS = 1 << 21
"""Products with fewer weights are done before a second thread has started."""


class CpuKernels:
    """The packed products, computed in float32."""

    def matmul(self, x: Tensor, matrix: PackedMatrix) -> Tensor:
        """Multiply x [T, I] with a packed matrix [O, I] to [T, O], in the type of x."""
        shape = matrix.shape
        slot = np.array((shape.bits, 0, 0, -1 if shape.rotated else 0))
        inputs = rotate(x.float(), shape.group_size) if shape.rotated else x.float()
        return _matmul(inputs, matrix.arrays, slot, shape).to(x.dtype)

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor, arena: Arena) -> Tensor:
        """Sum of the chosen experts' outputs; see `Kernels.experts`."""
        packed = arena.arrays
        table = arena.table.numpy()
        inputs = turned(x.float(), arena.layout)
        if len(x) < FEW_TOKENS:
            return _few_tokens(inputs, ids, weights.float(), packed, table, arena.layout).to(
                x.dtype
            )

        def run(expert: int, part: Tensor) -> Tensor:
            gate, up, down = (
                (packed, table[expert, index], slot.shape)
                for index, slot in enumerate(arena.layout.slots[expert])
            )
            inner = F.silu(_matmul(part, *gate), inplace=True).mul_(_matmul(part, *up))
            return _matmul(turned(inner, arena.layout), *down)

        return run_by_expert(inputs, ids, weights, arena.num_experts, run).to(x.dtype)

    def half_matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply x [T, I] with a 16-bit weight [O, I]; see `Kernels.half_matmul`."""
        if len(x) >= MANY_TOKENS or weight.shape[1] % TILE_ROWS:
            return F.linear(x, weight.to(x.dtype))
        inputs = x.float().contiguous().numpy()
        # Numpy has no bfloat16: both types are read as their bits.
        bits = weight.view(torch.int16).flatten().numpy().view(np.uint16)
        out = torch.empty(len(x), len(weight))
        outputs = out.numpy()
        brain = weight.dtype == torch.bfloat16
        _in_parts(
            len(weight),
            len(x) * weight.numel(),
            lambda first, last: loops.half_rows(first, last, inputs, bits, brain, outputs),
        )
        return out.to(x.dtype)

    def warm(self) -> None:
        """Compile the loops and the step, or load them from numba's cache on disk, in seconds."""
        compiled_step()
        size = TILE_ROWS
        shape = PackedShape(size, size, 2, size)
        matrix = PackedMatrix(
            shape,
            codes=torch.zeros(shape.code_words, dtype=torch.int32),
            scales=torch.zeros(shape.scales, dtype=torch.float16),
            zeros=torch.zeros(shape.zeros, dtype=torch.float16),
        )
        slots = (Slot(shape, 0, 0, 0),) * 3
        layout = ArenaLayout((slots,), shape.code_words, shape.scales, shape.zeros)
        x = torch.zeros(1, size)
        for tokens in (1, 2):  # a lone token has loops of its own
            self.matmul(x.expand(tokens, size), matrix)
        self.half_matmul(x, torch.zeros(size, size, dtype=torch.float16))
        ids = torch.zeros(1, 1, dtype=torch.int64)
        arena = Arena(layout, matrix.codes, matrix.scales, matrix.zeros)
        self.experts(x, ids, torch.ones(1, 1), arena)


def turned(x: Tensor, layout: ArenaLayout) -> Tensor:
    """Inputs [T, I] as the experts' matrices take them."""
    return rotate(x, layout.group_size) if layout.rotated else x


def _few_tokens(
    x: Tensor, ids: Tensor, weights: Tensor, packed: PackedArrays, table: Ints, layout: ArenaLayout
) -> Tensor:
    """All slots of a few tokens, without grouping them by expert."""
    gate = layout.slots[0][0].shape
    inputs = x.contiguous().numpy()
    chosen = ids.flatten().numpy()  # [T * K]
    scale = weights.flatten().numpy()
    group = gate.group_size
    hidden = np.empty((len(chosen), gate.rows), np.float32)  # [T * K, I]
    out = torch.empty_like(x)
    outputs = out.numpy()
    size = gate.rows * gate.columns * len(chosen)

    sums = loops.group_sums(inputs, group)
    _in_parts(
        gate.tiles,
        2 * size,
        lambda first, last: loops.gate_up_tiles(
            first, last, inputs, sums, chosen, packed, table, group, hidden
        ),
    )
    hidden = turned(torch.from_numpy(hidden), layout).numpy()
    hidden_sums = loops.hidden_sums(hidden, chosen, group)
    _in_parts(
        gate.columns // TILE_ROWS,
        size,
        lambda first, last: loops.down_tiles(
            first, last, hidden, hidden_sums, chosen, scale, packed, table, group, outputs
        ),
    )
    return out


def _matmul(x: Tensor, packed: PackedArrays, slot: Ints, shape: PackedShape) -> Tensor:
    """x [T, I] times the matrix at ``slot``, [T, O]."""
    inputs = x.contiguous().numpy()
    out = torch.empty(len(x), shape.rows)
    outputs = out.numpy()
    if len(x) == 1:
        lone = LoneProduct(inputs, packed, slot, shape, outputs)
        _in_parts(shape.tiles, shape.rows * shape.columns, lone.run)
        return out
    group = shape.group_size
    sums = loops.group_sums(inputs, group)
    _in_parts(
        shape.tiles,
        len(x) * shape.rows * shape.columns,
        lambda first, last: loops.matmul_tiles(
            first, last, inputs, sums, packed, slot, group, outputs
        ),
    )
    return out


def _in_parts(count: int, weights: int, run: Callable[[int, int], None]) -> None:
    """Call run(first, last) for all of ``count`` items, on as many threads as torch uses.

    Plain threads, because the loops release the GIL: numba's own thread pools either take 34 us
    to start, too, and serve one calling thread only (workqueue), or bring a second OpenMP runtime
    that spins against torch's (single calls then took 16 ms on two busy cores).
    """
    parts = torch.get_num_threads()
    if weights < SERIAL_WEIGHTS or parts == 1:
        run(0, count)
        return
    bounds = [part * count // parts for part in range(parts + 1)]
    own, *others = pairwise(bounds)
    running = [_threads().submit(run, *part) for part in others]
    run(*own)
    for other in running:
        other.result()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="kernels")
