"""Products with the weights of many tokens: a tile of them is dequantized and multiplied at once.

The tokens are sorted by their expert on the device. How many blocks of tokens each expert gets is
not known on the host, only that all together are no more than slots / block + experts: so many
programs start, and those without a block end at once. Every slot's output goes to a row of its
own, and a token's rows are added in the order of its slots: no atomics, the same bytes every time.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels import Arena
from engine.kernels.triton.blocks import group_slots
from engine.kernels.triton.rotation import turn
from engine.packing import PackedMatrix

_INTERPRETED: tl.constexpr = tl.constexpr(triton.knobs.runtime.interpret)
"""The interpreter multiplies the bits of bfloat16 numbers as integers; it gets float32."""


@triton.jit
def _weights(
    codes: tl.tensor,
    scales: tl.tensor,
    zeros: tl.tensor,
    tiles: tl.tensor,
    columns: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    bits: tl.constexpr,
    rotated: tl.constexpr,
    group_size: tl.constexpr,
    block_columns: tl.constexpr,
    block_rows: tl.constexpr,
) -> tl.tensor:
    """Weights [block_columns, block_rows] of ``row`` from input ``column`` on, in float32.

    Those of a ``rotated`` matrix are for inputs that were turned.

    Each word of 16 inputs' pairs is loaded once; a word of 32 inputs' single bits twice, so that
    both planes' blocks have one form and their codes meet in one thread.
    """
    tile, lane = row // 32, row % 32
    words: tl.constexpr = block_columns // 16
    word = column // 16 + tl.arange(0, words)
    place = tl.arange(0, 16)[None, :, None]
    code = tl.zeros((words, 16, block_rows), tl.int32)
    for plane in tl.static_range(bits // 2):
        base = codes + tiles * columns * 2 * plane
        pairs = tl.load(base + (tile * columns * 2 + lane)[None, :] + word[:, None] * 32)
        code |= ((pairs[:, None, :] >> (2 * place)) & 3) << (2 * plane)
    if bits % 2 == 1:
        base = codes + tiles * columns * (bits - 1)
        singles = tl.load(base + (tile * columns + lane)[None, :] + (word // 2)[:, None] * 32)
        shift = (word % 2)[:, None, None] * 16 + place
        code |= ((singles[:, None, :] >> shift) & 1) << (bits - 1)
    # As a number: put behind the point of 2^23, which is then taken off. Faster than a conversion.
    value = (code | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0
    group = (word * 16 // group_size)[:, None]
    at = (tile * (columns // group_size) * 32 + lane)[None, :] + group * 32
    scale = tl.load(scales + at).to(tl.float32)  # [words, block_rows]
    zero = ((1 << bits) - 1) / 2  # where none is stored
    if bits > 1 and not rotated:
        zero = tl.load(zeros + at).to(tl.float32)[:, None, :]
    weight = (value - zero) * scale[:, None, :]
    return weight.reshape(block_columns, block_rows)


@triton.jit
def _product(
    inputs: tl.tensor,
    inside: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    zeros: tl.tensor,
    tiles: tl.tensor,
    columns: tl.tensor,
    row: tl.tensor,
    bits: tl.constexpr,
    rotated: tl.constexpr,
    group_size: tl.constexpr,
    block_tokens: tl.constexpr,
    block_columns: tl.constexpr,
    block_rows: tl.constexpr,
) -> tl.tensor:
    """Tokens whose inputs begin at ``inputs`` [block_tokens], times rows of a matrix; float32.

    Tokens outside of ``inside`` count as zero.
    """
    found = tl.zeros((block_tokens, block_rows), tl.float32)
    for column in range(0, columns, block_columns):
        place = column + tl.arange(0, block_columns)
        x = tl.load(inputs[:, None] + place[None, :], mask=inside[:, None], other=0.0)
        weight = _weights(
            codes, scales, zeros, tiles, columns, row, column,
            bits, rotated, group_size, block_columns, block_rows,
        )  # fmt: skip
        weight = weight.to(x.dtype)
        if _INTERPRETED:
            x, weight = x.to(tl.float32), weight.to(tl.float32)
        found = tl.dot(x, weight, found, input_precision="ieee")
    return found


@triton.jit(do_not_specialize=["tokens"])
def _matmul(
    x: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    zeros: tl.tensor,
    out: tl.tensor,
    tokens: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    bits: tl.constexpr,
    rotated: tl.constexpr,
    group_size: tl.constexpr,
    block_tokens: tl.constexpr,
    block_columns: tl.constexpr,
    block_rows: tl.constexpr,
) -> None:
    """Program (block of tokens, block of rows)."""
    token = tl.program_id(0) * block_tokens + tl.arange(0, block_tokens)
    row = tl.program_id(1) * block_rows + tl.arange(0, block_rows)
    tiles = tl.cdiv(rows, 32)
    inside = token < tokens
    at = tl.where(inside, token, 0).to(tl.int64)
    found = _product(
        x + at * columns, inside, codes, scales, zeros, tiles, columns,
        tl.minimum(row, tiles * 32 - 1),
        bits, rotated, group_size, block_tokens, block_columns, block_rows,
    )  # fmt: skip
    mask = inside[:, None] & (row < rows)[None, :]
    tl.store(out + at[:, None] * rows + row[None, :], found, mask=mask)


@triton.jit
def _expert_product(
    inputs: tl.tensor,
    inside: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    zeros: tl.tensor,
    entry: tl.tensor,
    tiles: tl.tensor,
    columns: tl.tensor,
    row: tl.tensor,
    widest: tl.constexpr,
    rotated: tl.constexpr,
    group_size: tl.constexpr,
    block_tokens: tl.constexpr,
    block_columns: tl.constexpr,
    block_rows: tl.constexpr,
) -> tl.tensor:
    """`_product` with the matrix at ``entry`` of the arena's table, ``widest`` bits at most."""
    bits = tl.load(entry)
    codes += tl.multiple_of(tl.load(entry + 1), 32)
    scales += tl.multiple_of(tl.load(entry + 2), 32)
    zeros += tl.multiple_of(tl.load(entry + 3), 32)
    found = tl.zeros((block_tokens, block_rows), tl.float32)
    for width in tl.static_range(1, widest + 1):
        if width <= 4 or width == 8:  # noqa: SIM102 - decided while compiling, unlike the next
            if bits == width:
                found = _product(
                    inputs,
                    inside,
                    codes,
                    scales,
                    zeros,
                    tiles,
                    columns,
                    row,
                    width,
                    rotated,
                    group_size,
                    block_tokens,
                    block_columns,
                    block_rows,
                )
    return found


@triton.jit
def _gate_up_blocks(
    x: tl.tensor,
    order: tl.tensor,
    block_expert: tl.tensor,
    block_first: tl.tensor,
    block_last: tl.tensor,
    table: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    zeros: tl.tensor,
    hidden: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    rank: tl.tensor,
    widest: tl.constexpr,
    rotated: tl.constexpr,
    group_size: tl.constexpr,
    block_tokens: tl.constexpr,
    block_columns: tl.constexpr,
    block_rows: tl.constexpr,
) -> None:
    """hidden [S, rows], its slots sorted by expert; program (block of rows, block of slots)."""
    expert = tl.load(block_expert + tl.program_id(1))
    if expert >= 0:
        place = tl.load(block_first + tl.program_id(1)) + tl.arange(0, block_tokens)
        inside = place < tl.load(block_last + tl.program_id(1))
        slot = tl.load(order + place, mask=inside, other=0)
        inputs = x + slot // rank * columns
        row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
        tiles = tl.cdiv(rows, 32)
        safe = tl.minimum(row, tiles * 32 - 1)
        gate = table + expert * 12
        value = _expert_product(
            inputs, inside, codes, scales, zeros, gate, tiles, columns, safe,
            widest, rotated, group_size, block_tokens, block_columns, block_rows,
        )  # fmt: skip
        up = _expert_product(
            inputs, inside, codes, scales, zeros, gate + 4, tiles, columns, safe,
            widest, rotated, group_size, block_tokens, block_columns, block_rows,
        )  # fmt: skip
        value = value / (1.0 + tl.exp(-value)) * up
        at = place.to(tl.int64)[:, None] * rows + row[None, :]
        tl.store(hidden + at, value, mask=inside[:, None] & (row < rows)[None, :])


@triton.jit
def _down_blocks(
    hidden: tl.tensor,
    order: tl.tensor,
    block_expert: tl.tensor,
    block_first: tl.tensor,
    block_last: tl.tensor,
    table: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    zeros: tl.tensor,
    outputs: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    widest: tl.constexpr,
    rotated: tl.constexpr,
    group_size: tl.constexpr,
    block_tokens: tl.constexpr,
    block_columns: tl.constexpr,
    block_rows: tl.constexpr,
) -> None:
    """outputs [T * K, rows] of the slots that run; program as in `_gate_up_blocks`."""
    expert = tl.load(block_expert + tl.program_id(1))
    if expert >= 0:
        place = tl.load(block_first + tl.program_id(1)) + tl.arange(0, block_tokens)
        inside = place < tl.load(block_last + tl.program_id(1))
        slot = tl.load(order + place, mask=inside, other=0)
        row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
        tiles = tl.cdiv(rows, 32)
        inputs = hidden + tl.where(inside, place, 0).to(tl.int64) * columns
        value = _expert_product(
            inputs, inside, codes, scales, zeros, table + expert * 12 + 8, tiles, columns,
            tl.minimum(row, tiles * 32 - 1),
            widest, rotated, group_size, block_tokens, block_columns, block_rows,
        )  # fmt: skip
        mask = inside[:, None] & (row < rows)[None, :]
        tl.store(outputs + slot[:, None] * rows + row[None, :], value, mask=mask)


@triton.jit
def _sum_slots(
    outputs: tl.tensor,
    ids: tl.tensor,
    weights: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    rank: tl.tensor,
    block: tl.constexpr,
) -> None:
    """out[token] = weighted sum of its slots' outputs; program (token, block of rows)."""
    token = tl.program_id(0)
    row = tl.program_id(1) * block + tl.arange(0, block)
    inside = row < rows
    found = tl.zeros((block,), tl.float32)
    for index in range(rank):
        slot = token * rank + index
        if tl.load(ids + slot) >= 0:
            at = outputs + slot.to(tl.int64) * rows + row
            found += tl.load(weights + slot) * tl.load(at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token.to(tl.int64) * rows + row, found, mask=inside)


def packed_matmul(x: Tensor, matrix: PackedMatrix) -> Tensor:
    """Multiply x [T, I] with a packed matrix [O, I] to [T, O]; both of one floating type.

    Where the matrix is rotated, x is turned already.
    """
    shape = matrix.shape
    out = x.new_empty(len(x), shape.rows)
    plan = _plan(len(x), shape.columns, x)
    grid = (triton.cdiv(len(x), plan.tokens), triton.cdiv(shape.rows, plan.rows))
    _matmul[grid](
        x,
        matrix.codes,
        matrix.scales,
        matrix.zeros,
        out,
        len(x),
        shape.rows,
        shape.columns,
        bits=shape.bits,
        rotated=shape.rotated,
        group_size=shape.group_size,
        **plan.options,
    )
    return out


def experts_prefill(x: Tensor, ids: Tensor, weights: Tensor, arena: Arena) -> Tensor:
    """Weighted sum of the chosen experts' outputs, [T, H] like x; see `Kernels.experts`.

    x is turned already where the arena is rotated.
    What lies between gate and down, [T * K, I], and the slots' outputs, [T * K, H], are held in the
    type of x.
    """
    tokens, rank = ids.shape
    gate = arena.layout.slots[0][0].shape
    inner, hidden_size, group_size = gate.rows, gate.columns, gate.group_size
    widest, rotated = arena.layout.widest, arena.layout.rotated
    plan = _plan(-(-tokens * rank // arena.num_experts), gate.columns, x)
    blocks = group_slots(ids, arena.num_experts, plan.tokens)
    blocks_and_weights = (
        *(blocks.order, blocks.expert, blocks.first, blocks.last),
        *(arena.table, arena.codes, arena.scales, arena.zeros),
    )
    hidden = x.new_empty(tokens * rank, inner)
    outputs = x.new_empty(tokens * rank, hidden_size)
    out = torch.empty_like(x)
    count = len(blocks.expert)
    _gate_up_blocks[(triton.cdiv(inner, plan.rows), count)](
        x,
        *blocks_and_weights,
        hidden,
        inner,
        hidden_size,
        rank,
        widest=widest,
        rotated=rotated,
        group_size=group_size,
        **plan.options,
    )
    if rotated:  # by itself: the kernel before has no register left, and this one waits for memory
        turn(hidden, group_size, hidden, blocks.first[:1])
    plan = _plan(-(-tokens * rank // arena.num_experts), inner, x)
    _down_blocks[(triton.cdiv(hidden_size, plan.rows), count)](
        hidden,
        *blocks_and_weights,
        outputs,
        hidden_size,
        inner,
        widest=widest,
        rotated=rotated,
        group_size=group_size,
        **plan.options,
    )
    block = min(1024, triton.next_power_of_2(hidden_size))
    _sum_slots[(tokens, triton.cdiv(hidden_size, block))](
        outputs, ids, weights, out, hidden_size, rank, block=block, num_warps=4
    )
    return out


@dataclass(frozen=True)
class _Plan:
    """A program's block of tokens, inputs of a step and rows of the matrix, and its warps."""

    tokens: int
    columns: int
    rows: int
    warps: int

    @property
    def options(self) -> dict[str, int]:
        """What every program takes."""
        return {
            "block_tokens": self.tokens,
            "block_columns": self.columns,
            "block_rows": self.rows,
            "num_warps": self.warps,
            "enable_fp_fusion": True,
        }


def _plan(tokens: int, columns: int, x: Tensor) -> _Plan:
    """For so many tokens with one matrix; blocks are powers of two, 16 at least.

    Few different ones, since each is compiled when it is first met.
    """
    if x.dtype == torch.float32:  # no tensor cores for exact products: more would spill
        return _Plan(16, 32, 32, 4)
    step = 32 if columns % 64 else 64
    if tokens <= 16:
        return _Plan(16, step, 64, 4)
    return _Plan(64, step, 64, 4) if tokens <= 64 else _Plan(128, step, 128, 8)
