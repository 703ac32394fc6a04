"""The programs behind `decode`: rows of packed matrices times one token, alone or as experts."""

import triton
import triton.language as tl

from engine.kernels.triton.rotation import turned
from engine.kernels.triton.words import row_products


@triton.jit
def _store_or_combine(
    value: tl.tensor,
    target: tl.tensor,
    inside: tl.tensor,
    own: tl.tensor,
    stride: tl.tensor,
    split: tl.tensor,
    counter: tl.tensor,
    splits: tl.constexpr,
) -> None:
    """Store ``value`` at ``target``, or leave it as a split's part and add up the parts of all.

    The parts lie at ``own``, ``stride`` apart. ``counter`` is 0 before and after.
    """
    if splits == 1:
        tl.store(target, value, mask=inside)
    else:
        tl.store(own + split * stride, value, mask=inside)
        # All threads' sums are written before one of them counts the program as arrived.
        tl.debug_barrier()
        if tl.atomic_add(counter, 1, sem="acq_rel") == splits - 1:
            whole = tl.zeros_like(value)
            for part in tl.static_range(splits):
                # Past the L1 cache, which does not see other programs' stores.
                whole += tl.load(own + part * stride, mask=inside, other=0.0, cache_modifier=".cg")
            tl.store(target, whole, mask=inside)
            tl.store(counter, 0)  # for the next launch


@triton.jit
def matvec(
    x: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    zeros: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    second_codes: tl.tensor,
    second_scales: tl.tensor,
    second_zeros: tl.tensor,
    second_out: tl.tensor,
    second_rows: tl.tensor,
    third_codes: tl.tensor,
    third_scales: tl.tensor,
    third_zeros: tl.tensor,
    third_out: tl.tensor,
    third_rows: tl.tensor,
    partial: tl.tensor,
    arrived: tl.tensor,
    columns: tl.tensor,
    bits: tl.constexpr,
    rotated: tl.constexpr,
    group_size: tl.constexpr,
    stretch: tl.constexpr,
    lines: tl.constexpr,
    lanes: tl.constexpr,
    splits: tl.constexpr,
    matrices: tl.constexpr,
) -> None:
    """One to three ``matrices``; program (block of row tiles, split of the inputs, token)."""
    block, split, token = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    counter = arrived + token * tl.num_programs(0) + block
    all_rows = rows
    before = 0  # rows of earlier matrices
    if matrices >= 2:
        all_rows += second_rows
        blocks = tl.cdiv(rows, 32 * lines)
        second_blocks = tl.cdiv(second_rows, 32 * lines)
        if matrices >= 3:
            all_rows += third_rows
        if block >= blocks:
            block -= blocks
            before += rows
            if block < second_blocks or matrices == 2:
                codes, scales, zeros = second_codes, second_scales, second_zeros
                out, rows = second_out, second_rows
            else:
                block -= second_blocks
                before += second_rows
                codes, scales, zeros = third_codes, third_scales, third_zeros
                out, rows = third_out, third_rows
    tiles = tl.cdiv(rows, 32)
    line = block * lines + tl.arange(0, lines)  # [lines]
    span = tl.cdiv(columns // stretch, splits)
    first = split * span
    found = row_products(
        x + token * columns,
        codes,
        scales,
        zeros,
        tl.minimum(line, tiles - 1)[:, None, None],
        tiles,
        columns,
        first,
        tl.minimum(first + span, columns // stretch),
        bits,
        rotated,
        group_size,
        stretch,
        lines,
        lanes,
    )
    place = line[:, None] * 32 + tl.arange(0, 32)[None, :]  # [lines, 32]
    _store_or_combine(
        found,
        out + token * rows + place,
        place < rows,
        partial + token * all_rows + before + place,
        tl.num_programs(2) * all_rows,
        split,
        counter,
        splits,
    )


@triton.jit
def _expert_rows(
    inputs: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    zeros: tl.tensor,
    bits: tl.tensor,
    tile: tl.tensor,
    tiles: tl.tensor,
    columns: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    widest: tl.constexpr,
    rotated: tl.constexpr,
    group_size: tl.constexpr,
    stretch: tl.constexpr,
    lines: tl.constexpr,
    lanes: tl.constexpr,
) -> tl.tensor:
    """`row_products` at a width that is known only here, at most ``widest``."""
    found = tl.zeros((lines, 32), tl.float32)
    for width in tl.static_range(1, widest + 1):
        if width <= 4 or width == 8:  # noqa: SIM102 - decided while compiling, unlike the next
            if bits == width:
                found = row_products(
                    inputs,
                    codes,
                    scales,
                    zeros,
                    tile,
                    tiles,
                    columns,
                    first,
                    last,
                    width,
                    rotated,
                    group_size,
                    stretch,
                    lines,
                    lanes,
                )
    return found


@triton.jit
def gate_up(
    x: tl.tensor,
    ids: tl.tensor,
    table: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    zeros: tl.tensor,
    hidden: tl.tensor,
    arrived: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    rank: tl.tensor,
    widest: tl.constexpr,
    rotated: tl.constexpr,
    group_size: tl.constexpr,
    stretch: tl.constexpr,
    lines: tl.constexpr,
    lanes: tl.constexpr,
) -> None:
    """hidden[slot] = silu(gate x) * (up x); program (block of row tiles, slot).

    Half of the lines are of the gate, half the same rows of the up matrix. A skipped slot's program
    ends at once. Where ``rotated``, ``hidden`` is left turned for the down product: by a program
    that has whole groups of rows, or by the last one of a group to arrive. Of the places where that
    could be done, this is the cheapest: the last program's turn takes about 120 instructions and
    waits for memory twice, most often while others still multiply. A kernel between the two costs a
    launch, 2 to 3 us a layer; programs with whole groups of 128 rows are too few and spill; and in
    the down product every row tile would turn the same inputs again.
    """
    block, slot = tl.program_id(0), tl.program_id(1)
    expert = tl.load(ids + slot)
    if expert >= 0:
        tiles = tl.cdiv(rows, 32)
        line = tl.arange(0, lines)
        own = block * (lines // 2) + line % (lines // 2)  # row tile of each line
        is_up = (line >= lines // 2)[:, None, None]
        gate = table + expert * 12  # bits, and first code, scale and zero point of three matrices
        found = _expert_rows(
            x + slot // rank * columns,
            codes + _either(is_up, gate + 5, gate + 1),
            scales + _either(is_up, gate + 6, gate + 2),
            zeros + _either(is_up, gate + 7, gate + 3),
            tl.load(gate),
            tl.minimum(own, tiles - 1)[:, None, None],
            tiles,
            columns,
            0,
            columns // stretch,
            widest,
            rotated,
            group_size,
            stretch,
            lines,
            lanes,
        )
        # [2, lines / 2, 32] with one half of it zero, so that the sum takes the other.
        value = tl.sum(tl.where(is_up, 0.0, found[:, None, :]).reshape(2, lines // 2, 32), axis=0)
        up = tl.sum(tl.where(is_up, found[:, None, :], 0.0).reshape(2, lines // 2, 32), axis=0)
        silu = value / (1.0 + tl.exp(-value))
        tile = block * (lines // 2) + tl.arange(0, lines // 2)
        place = tile[:, None] * 32 + tl.arange(0, 32)[None, :]
        inner = silu * up
        height: tl.constexpr = lines // 2 * 32  # rows of this program
        if rotated and height >= group_size:
            inner = turned(inner.reshape(height), group_size).reshape(lines // 2, 32)
        tl.store(hidden + slot * rows + place, inner, mask=place < rows)
        if rotated and height < group_size:
            _turn_whole_group(
                hidden,
                slot * (rows // group_size) + block * height // group_size,
                arrived,
                group_size // height,
                group_size,
            )


@triton.jit
def _turn_whole_group(
    hidden: tl.tensor,
    group: tl.tensor,
    arrived: tl.tensor,
    programs: tl.constexpr,
    group_size: tl.constexpr,
) -> None:
    """Turn a group of ``hidden`` in place if this is the last of its ``programs``.

    ``arrived`` counts them, a counter for each group, 0 before and after.
    """
    # As in `_store_or_combine`: all is written before a program counts, and read past the L1 cache.
    tl.debug_barrier()
    if tl.atomic_add(arrived + group, 1, sem="acq_rel") == programs - 1:
        at = hidden + group * group_size + tl.arange(0, group_size)
        tl.store(at, turned(tl.load(at, cache_modifier=".cg"), group_size))
        tl.store(arrived + group, 0)  # for the next launch


@triton.jit
def _either(chosen: tl.tensor, entry: tl.tensor, other: tl.tensor) -> tl.tensor:
    """The offset at ``entry`` where ``chosen`` [lines, 1, 1], else the one at ``other``."""
    return tl.multiple_of(tl.where(chosen, _offset(entry), _offset(other)), (32, 32, 32))


@triton.jit
def _offset(entry: tl.tensor) -> tl.tensor:
    """An offset in the arena's table; matrices begin with whole rows of 32."""
    return tl.multiple_of(tl.load(entry), 32)


@triton.jit
def down(
    hidden: tl.tensor,
    ids: tl.tensor,
    weights: tl.tensor,
    table: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    zeros: tl.tensor,
    out: tl.tensor,
    partial: tl.tensor,
    arrived: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    rank: tl.tensor,
    widest: tl.constexpr,
    rotated: tl.constexpr,
    group_size: tl.constexpr,
    stretch: tl.constexpr,
    lines: tl.constexpr,
    lanes: tl.constexpr,
    splits: tl.constexpr,
) -> None:
    """out[token] = sum over its slots of weight * (down hidden[slot]); program as in `matvec`."""
    block, split, token = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tiles = tl.cdiv(rows, 32)
    line = block * lines + tl.arange(0, lines)
    tile = tl.minimum(line, tiles - 1)[:, None, None]
    span = tl.cdiv(columns // stretch, splits)
    first = split * span
    last = tl.minimum(first + span, columns // stretch)
    found = tl.zeros((lines, 32), tl.float32)
    for slot in range(token * rank, (token + 1) * rank):
        expert = tl.load(ids + slot)
        if expert >= 0:
            down = table + expert * 12 + 8
            product = _expert_rows(
                hidden + slot * columns,
                codes + _offset(down + 1),
                scales + _offset(down + 2),
                zeros + _offset(down + 3),
                tl.load(down),
                tile,
                tiles,
                columns,
                first,
                last,
                widest,
                rotated,
                group_size,
                stretch,
                lines,
                lanes,
            )
            found += tl.load(weights + slot) * product
    place = line[:, None] * 32 + tl.arange(0, 32)[None, :]
    at = token * rows + place
    _store_or_combine(
        found,
        out + at,
        place < rows,
        partial + at,
        tl.num_programs(2) * rows,
        split,
        arrived + token * tl.num_programs(0) + block,
        splits,
    )


@triton.jit
def half_matvec(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
) -> None:
    """Program (block of rows, token)."""
    block, token = tl.program_id(0), tl.program_id(1)
    row = block * block_rows + tl.arange(0, block_rows)
    # Rows behind the end work on the last one again, and drop it.
    start = weight + tl.minimum(row, rows - 1).to(tl.int64)[:, None] * columns
    found = tl.zeros((block_rows, block_columns), tl.float32)
    for first in range(0, columns, block_columns):
        column = first + tl.arange(0, block_columns)
        inside = column < columns
        value = tl.load(x + token * columns + column, mask=inside, other=0.0).to(tl.float32)
        weights = tl.load(start + column[None, :], mask=inside[None, :], other=0.0)
        found = tl.fma(weights.to(tl.float32), value[None, :], found)
    tl.store(out + token * rows + row, tl.sum(found, axis=1), mask=row < rows)
