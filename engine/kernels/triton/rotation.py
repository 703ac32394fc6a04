"""Turning inputs group by group, as `engine.hadamard` does, inside programs and by itself.

A Hadamard matrix of 2^n takes n levels of sums and differences instead of 2^n products for every
value. On each level a value's partner comes by one exchange between threads, or for nothing where
it is in the same one: for rows of 4,096 values in 256 threads 19 instructions a value, 5 of them
exchanges, and no shared memory.
"""

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048


@triton.jit
def turned(x: tl.tensor, group_size: tl.constexpr) -> tl.tensor:
    """x [n] in float32, n a multiple of ``group_size``, turned; both are powers of two."""
    size: tl.constexpr = x.shape[0]
    # As in engine.hadamard: divided by a power of two before, no sum overflows where x does not.
    power: tl.constexpr = 2.0 ** (group_size.bit_length() // 2)
    x *= 1 / power
    second = (tl.arange(0, 2) == 1)[None, :, None]
    for level in tl.static_range(group_size.bit_length() - 1):
        pair = x.reshape(size >> (level + 1), 2, 1 << level)
        x = (tl.where(second, -pair, pair) + tl.flip(pair, 1)).reshape(size)
    return x * (power / group_size**0.5)


@triton.jit
def _turn(
    x: tl.tensor,
    out: tl.tensor,
    first: tl.tensor,
    columns: tl.tensor,
    has_first: tl.constexpr,
    group_size: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Program (row, block of columns); rows before ``first`` are left as they are."""
    row = tl.program_id(0)
    start = 0
    if has_first:
        start = tl.load(first)
    if row >= start:
        column = tl.program_id(1) * block + tl.arange(0, block)
        inside = column < columns
        at = row.to(tl.int64) * columns + column
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + at, turned(value, group_size), mask=inside)


def turn(x: Tensor, group_size: int, out: Tensor, first: Tensor | None = None) -> None:
    """Write x [T, I] turned to ``out`` [T, I], which may be x; sums in float32.

    I is a multiple of ``group_size``, a power of two. Both contiguous, of any floating type.
    ``first``, an integer on the device: rows before it are neither read nor written.
    """
    rows, columns = x.shape
    block = min(_BLOCK, triton.next_power_of_2(columns))
    _turn[(rows, triton.cdiv(columns, block))](
        x,
        out,
        out if first is None else first,
        columns,
        has_first=first is not None,
        group_size=group_size,
        block=block,
        num_warps=8,
    )
