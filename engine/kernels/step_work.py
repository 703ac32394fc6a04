"""How the threads of a compiled step share its work, and the products with dense layers.

`step_table` says what lies in ``model`` and ``table``; ``mine`` is the address of what the thread
has for itself.
"""

from typing import Any

from numba import njit
from numpy.typing import NDArray

from engine.kernels import step_memory as memory
from engine.kernels import step_products as products
from engine.kernels import step_table as at
from engine.kernels import step_vectors as vectors
from engine.layout import TILE_ROWS

OPTIONS: dict[str, Any] = {
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
"""Of what only compiled functions call: without doors of its own it compiles sooner."""

Table = NDArray[Any]

FLOAT, HALF, INT = 4, 2, 8  # bytes

_PATIENCE = 2000
"""Looks at a counter before the core is offered to others: some tens of microseconds."""

_tables_1, _tables_2 = products.table_maker(1), products.table_maker(2)
_product_1, _product_2, _product_3, _product_4, _product_8 = (
    products.block_product(bits) for bits in (1, 2, 3, 4, 8)
)


@njit(**OPTIONS)
def take(progress: int, total: int, threads: int, most: int) -> tuple[int, int]:
    """Some of ``total`` items that nobody else has, from the first to before the last.

    Fewer towards the end, so that threads end together. None are left: the first is ``total``.
    """
    while True:
        first = memory.shared_int(progress)
        if first >= total:
            return total, total
        count = total - first
        if threads > 1:
            count = (count + 2 * threads - 1) // (2 * threads)
        last = first + min(count, most)
        if memory.exchange_if(progress, first, last):
            return first, last


@njit(**OPTIONS)
def done(progress: int, count: int) -> None:
    """Say that some items are done."""
    memory.add_shared(progress + at.LINE // 2 * INT, count)


@njit(**OPTIONS)
def wait(model: Table, phase: int, total: int) -> None:
    """Until all items of a phase are done; a busy machine gets the core meanwhile."""
    progress = model[at.PROGRESS] + phase * at.LINE * INT + at.LINE // 2 * INT
    looks = 0
    while memory.shared_int(progress) < total:
        looks += 1
        if looks > _PATIENCE:
            memory.call_at(model[at.YIELD])
        else:
            memory.pause()


@njit(**OPTIONS)
def add_tiles(
    bits: int,
    codes: int,
    scales: int,
    zeros: int,
    tiles: int,
    columns: int,
    group: int,
    start: int,
    count: int,
    first: int,
    last: int,
    mine: int,
    model: Table,
    out: int,
) -> None:
    """Add to ``out`` what ``count`` inputs from ``start`` on give the rows of some tiles.

    Their tables and sums are in ``mine``; ``zeros`` is 0 where none are stored.
    """
    sums, pairs, quads = mine + model[at.SUMS], mine + model[at.PAIRS], mine + model[at.QUADS]
    groups = count // group
    for tile in range(first, last):
        place = (tile * columns + start) // group * TILE_ROWS * HALF
        rows = out + (tile - first) * TILE_ROWS * FLOAT
        where = codes, tiles, columns, tile, start, groups, group, pairs, quads
        scaling = scales + place, zeros + place if zeros else 0, sums, rows
        if bits == 1:
            _product_1(*where, *scaling)
        elif bits == 2:
            _product_2(*where, *scaling)
        elif bits == 3:
            _product_3(*where, *scaling)
        elif bits == 4:
            _product_4(*where, *scaling)
        else:
            _product_8(*where, *scaling)


@njit(**OPTIONS)
def prepare(x: int, count: int, group: int, two: bool, one: bool, mine: int, model: Table) -> None:
    """Sums and tables of some inputs: for planes of ``two`` bits, of ``one`` bit."""
    for index in range(count // group):
        total = vectors.sum_of(x + index * group * FLOAT, group)
        memory.put_float(mine + model[at.SUMS], index, total)
    if two:
        _tables_2(x, count, mine + model[at.PAIRS])
    if one:
        _tables_1(x, count, mine + model[at.QUADS])


@njit(**OPTIONS)
def block_of(group: int) -> int:
    """Inputs whose tables are made at once: whole groups."""
    return max(group, at.COLUMN_BLOCK // group * group)


@njit(**OPTIONS)
def tiles_of(table: Table, place: int) -> int:
    """Row tiles of a dense layer."""
    tiles: int = (table[place + at.ROWS] + TILE_ROWS - 1) // TILE_ROWS
    return tiles


@njit(**OPTIONS)
def dense_rows(
    table: Table, place: int, first: int, last: int, x: int, mine: int, model: Table, out: int
) -> None:
    """Row tiles ``first`` to ``last`` of the dense layer at ``place`` of the table, times x."""
    kind, columns = table[place + at.KIND], table[place + at.COLUMNS]
    weights = table[place + at.WEIGHTS]
    if kind == at.PACKED_WEIGHTS:
        bits, group = table[place + at.BITS], table[place + at.GROUP]
        tiles = tiles_of(table, place)
        scales, zeros = table[place + at.SCALES], table[place + at.ZEROS]
        vectors.clear(out, (last - first) * TILE_ROWS)
        block = block_of(group)
        for start in range(0, columns, block):
            count = min(block, columns - start)
            prepare(x + start * FLOAT, count, group, bits > 1, bits % 2 == 1, mine, model)
            add_tiles(
                bits,
                weights,
                scales,
                zeros,
                tiles,
                columns,
                group,
                start,
                count,
                first,
                last,
                mine,
                model,
                out,
            )
        return
    for row in range(first * TILE_ROWS, min(last * TILE_ROWS, table[place + at.ROWS])):
        begin = row * columns
        if kind == at.FLOAT_WEIGHTS:
            value = vectors.float_product(weights + begin * FLOAT, x, columns)
        elif kind == at.HALF_WEIGHTS:
            value = vectors.half_product(weights + begin * HALF, x, columns)
        else:
            value = vectors.brain_product(weights + begin * HALF, x, columns)
        memory.put_float(out, row - first * TILE_ROWS, value)
