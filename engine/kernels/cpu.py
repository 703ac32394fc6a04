"""Packed products on a CPU: numba loops for few tokens, unpacked blocks and BLAS for many."""

from dataclasses import dataclass

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.grouping import run_by_expert
from engine.kernels import Arena, loops
from engine.kernels.loops import Halves, Ints, Words
from engine.layout import TILE_ROWS, PackedShape
from engine.packing import PackedMatrix

# Numba's own pool, which sleeps when idle. Its OpenMP layer starts faster (2 us against 34 us) but
# brings a second OpenMP runtime beside torch's, and the two spin against each other: on two busy
# cores single calls then took 16 ms. The pool serves one calling thread at a time: the engine's.
numba.config.THREADING_LAYER = "workqueue"

FEW_TOKENS = 4
"""From here on, unpacking once and multiplying with BLAS beats a product per token."""

SERIAL_WEIGHTS = 1 << 20
"""Products with fewer weights are done before a second thread has started."""

BLOCK_WEIGHTS = 1 << 20
"""Weights unpacked at once: 4 MiB of float32, still in the cache when they are multiplied."""

CHUNKS_PER_THREAD = 1


class CpuKernels:
    """The packed products, computed in float32."""

    def matmul(self, x: Tensor, matrix: PackedMatrix) -> Tensor:
        """Multiply x [T, I] with a packed matrix [O, I] to [T, O], in the type of x."""
        packed = _Packed.of(matrix)
        slot = np.array((matrix.shape.bits, 0, 0, 0))
        return _matmul(x.float(), packed, slot, matrix.shape).to(x.dtype)

    def experts(self, x: Tensor, ids: Tensor, weights: Tensor, arena: Arena) -> Tensor:
        """Sum of the chosen experts' outputs; see `Kernels.experts`."""
        packed = _Packed.of(arena)
        table = arena.table.numpy()
        if len(x) < FEW_TOKENS:
            gate = arena.layout.slots[0][0].shape
            return _few_tokens(x.float(), ids, weights.float(), packed, table, gate).to(x.dtype)

        def run(expert: int, part: Tensor) -> Tensor:
            gate, up, down = (
                (packed, table[expert, index], slot.shape)
                for index, slot in enumerate(arena.layout.slots[expert])
            )
            return _matmul(F.silu(_matmul(part, *gate)) * _matmul(part, *up), *down)

        return run_by_expert(x.float(), ids, weights, arena.num_experts, run).to(x.dtype)


@dataclass(frozen=True)
class _Packed:
    """Views of the buffers as numba reads them."""

    codes: Words
    scales: Halves
    zeros: Halves

    @classmethod
    def of(cls, source: PackedMatrix | Arena) -> "_Packed":
        return cls(
            source.codes.numpy().view(np.uint32),
            source.scales.numpy().view(np.uint16),
            source.zeros.numpy().view(np.uint16),
        )


def _few_tokens(
    x: Tensor, ids: Tensor, weights: Tensor, packed: _Packed, table: Ints, gate: PackedShape
) -> Tensor:
    """All slots of a few tokens, without grouping them by expert."""
    inputs = x.contiguous().numpy()
    chosen = ids.flatten().numpy()  # [T * K]
    scale = weights.flatten().numpy()
    group = gate.group_size
    hidden = np.empty((len(chosen), gate.rows), np.float32)  # [T * K, I]
    out = torch.empty_like(x)
    outputs = out.numpy()
    sums = loops.group_sums(inputs, group)
    arrays = (packed.codes, packed.scales, packed.zeros, table, group)
    chunks = _chunks(gate.rows * gate.columns * len(chosen))
    if chunks == 1:
        items = len(chosen) * gate.tiles
        loops.gate_up_tiles(0, items, inputs, sums, chosen, *arrays, hidden)
    else:
        loops.parallel_gate_up(chunks, inputs, sums, chosen, *arrays, hidden)
    sums = loops.hidden_sums(hidden, chosen, group)
    if chunks == 1:
        tiles = gate.columns // TILE_ROWS
        loops.down_tiles(0, tiles, hidden, sums, chosen, scale, *arrays, outputs)
    else:
        loops.parallel_down(chunks, hidden, sums, chosen, scale, *arrays, outputs)
    return out


def _matmul(x: Tensor, packed: _Packed, slot: Ints, shape: PackedShape) -> Tensor:
    """x [T, I] times the matrix at ``slot``, [T, O]."""
    if len(x) < FEW_TOKENS:
        return _product_per_token(x, packed, slot, shape)
    return _unpack_and_multiply(x, packed, slot, shape)


def _product_per_token(x: Tensor, packed: _Packed, slot: Ints, shape: PackedShape) -> Tensor:
    inputs = x.contiguous().numpy()
    out = torch.empty(len(x), shape.rows)
    outputs = out.numpy()
    sums = loops.group_sums(inputs, shape.group_size)
    arrays = (packed.codes, packed.scales, packed.zeros, slot, shape.group_size)
    chunks = _chunks(len(x) * shape.rows * shape.columns)
    if chunks == 1:
        loops.matmul_tiles(0, shape.tiles, inputs, sums, *arrays, outputs)
    else:
        loops.parallel_matmul(chunks, inputs, sums, *arrays, outputs)
    return out


def _unpack_and_multiply(x: Tensor, packed: _Packed, slot: Ints, shape: PackedShape) -> Tensor:
    """Unpack blocks of rows into a buffer that stays in the cache, and multiply with BLAS."""
    block = min(shape.tiles, max(1, BLOCK_WEIGHTS // (shape.columns * TILE_ROWS)))  # tiles
    buffer = torch.empty(shape.columns * block * TILE_ROWS)
    out = torch.empty(len(x), shape.tiles * TILE_ROWS)
    arrays = (packed.codes, packed.scales, packed.zeros, slot, shape.tiles, shape.group_size)
    chunks = _chunks(block * TILE_ROWS * shape.columns)
    for first in range(0, shape.tiles, block):
        count = min(block, shape.tiles - first)
        columns = count * TILE_ROWS
        weights = buffer[: shape.columns * columns].view(shape.columns, columns)  # [I, rows]
        if chunks == 1:
            loops.unpack_tiles(0, count, first, *arrays, weights.numpy())
        else:
            loops.parallel_unpack(chunks, first, count, *arrays, weights.numpy())
        torch.mm(x, weights, out=out[:, first * TILE_ROWS :][:, :columns])
    return out[:, : shape.rows]


def _chunks(weights: int) -> int:
    """Parts to split a product of so many weights into; as many threads as torch uses."""
    threads = min(torch.get_num_threads(), int(numba.config.NUMBA_NUM_THREADS))
    if weights < SERIAL_WEIGHTS or threads == 1:
        return 1
    numba.set_num_threads(threads)
    return threads * CHUNKS_PER_THREAD
