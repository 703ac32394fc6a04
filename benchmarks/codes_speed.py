"""Times the products of `codes_kernels` beside the program's own at 2 bits, one thread.

The matrices of a round lie far apart in memory, more than any cache holds, so words come from main
memory as they do for a large model. A figure is the median over rounds, a ratio the median of the
rounds' own ratios. Instructions are counted in the assembly: of the longest run of instructions
without a label or a jump, over the weights that its lookups give.
"""

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks import codes_kernels as kernels
from benchmarks.codes_lattice import BLOCK, sizes
from benchmarks.codes_trellis import Trellis, learned
from engine.kernels import step_memory as memory
from engine.kernels import step_products, step_vectors
from engine.layout import TILE_ROWS, PackedShape

Floats = NDArray[np.float32]
GROUP = kernels.GROUP
BLOCK_INPUTS = 512
_PERMUTE = "vperm(ps|d)"
_GROUPS = BLOCK_INPUTS // GROUP
_FACTOR_BYTES = 8 * _GROUPS
_TABLE_SCALE = 40.0
"""Bytes of a table are this times a unit Gaussian's levels."""


@dataclass(frozen=True)
class Kernel:
    """``key`` is the instruction that handles ``weights`` weights, to count by. ``table`` is what
    the product finds behind its factors; ``integer`` inputs are int8. ``run`` takes addresses:
    (codes, scales, columns, tiles, inputs, tables, out), the last float32 [tiles * 32]."""

    name: str
    run: Callable[..., None]
    key: str
    weights: int
    table: NDArray[np.uint8]
    integer: bool
    middle: float
    factor: float
    eights: bool = False
    own: bool = False


@dataclass(frozen=True)
class Speed:
    """One token times a matrix; ``ratio``: the time of the program's own product over this."""

    code: str
    milliseconds: float
    gigabytes_per_second: float
    weights_per_second: float
    ratio: float
    instructions: float


def driver(product: Any, size: int) -> Callable[..., None]:
    """Runs a product over all tiles, a block of inputs of ``size`` bytes each after the other."""

    @njit(error_model="numpy")  # type: ignore[untyped-decorator]
    def run(codes, scales, columns, tiles, inputs, tables, stride, out):  # type: ignore[no-untyped-def]
        step_vectors.clear(out, tiles * TILE_ROWS)
        for start in range(0, columns, BLOCK_INPUTS):
            for tile in range(tiles):
                group = (tile * columns + start) // GROUP
                product(
                    codes, columns, 2 * (tile * columns + start), _GROUPS, inputs + start * size,
                    tables + start // BLOCK_INPUTS * stride, scales + group * TILE_ROWS * 2,
                    out + tile * TILE_ROWS * 4,
                )  # fmt: skip

    made: Callable[..., None] = run
    return made


def own_driver() -> Callable[..., None]:
    """The program's product and tables at 2 bits, zero points in the middle."""
    product, make_tables = step_products.block_product(2), step_products.table_maker(2)

    @njit(error_model="numpy")  # type: ignore[untyped-decorator]
    def run(codes, scales, columns, tiles, inputs, tables, stride, out):  # type: ignore[no-untyped-def]
        step_vectors.clear(out, tiles * TILE_ROWS)
        sums = tables + 8 * BLOCK_INPUTS * 4
        for start in range(0, columns, BLOCK_INPUTS):
            make_tables(inputs + start * 4, BLOCK_INPUTS, tables)
            for group in range(_GROUPS):
                total = step_vectors.sum_of(inputs + (start + group * GROUP) * 4, GROUP)
                memory.put_float(sums, group, total)
            for tile in range(tiles):
                group = (tile * columns + start) // GROUP
                product(
                    codes, tiles, columns, tile, start, _GROUPS, GROUP, tables, 0,
                    scales + group * TILE_ROWS * 2, 0, sums, out + tile * TILE_ROWS * 4,
                )  # fmt: skip

    made: Callable[..., None] = run
    return made


def byte_table(code: Trellis) -> NDArray[np.uint8]:
    """A table's levels as bytes."""
    levels = np.rint(code.table[:, 0] * _TABLE_SCALE) + kernels.MIDDLE
    return levels.clip(0, 255).astype(np.uint8)


def all_kernels() -> list[Kernel]:
    """The program's own first."""
    none = np.zeros(0, np.uint8)
    own = own_driver()
    found = [
        Kernel("integers, the program's", own, _PERMUTE, 32, none, False, 0, 1, own=True),
        Kernel("integers, inputs of 8 bits", _bytes(0), "vpdpbusd", 64, none, True, -1.5, 1),
    ]
    for window in (4, 7, 8):
        name, table = f"trellis, window {window}, inputs of 8 bits", byte_table(learned(window, 2))
        # The bits above a narrower window are looked up, too, and make no difference.
        table = np.tile(table, max(1, 128 // len(table)))
        factors = -kernels.MIDDLE, 1 / _TABLE_SCALE
        run = _bytes(max(window, 7))
        found += [Kernel(name, run, "vpdpbusd", 64, table, True, *factors)]
    for window, name in ((4, _PERMUTE), (5, "vperm[it]2(ps|d)")):
        table = learned(window, 2).table[:, 0].copy().view(np.uint8)
        run = driver(kernels.float_windows(window), 4)
        found.append(Kernel(f"trellis, window {window}", run, name, 16, table, False, 0, 1))
    run = driver(kernels.scrambled(), 4)
    found.append(Kernel("trellis, 1MAD, window 16", run, "vpmulld", 16, none, False, 0, 1 / 147.8))
    table = (4 * sizes()).astype(np.uint8).ravel()
    run = driver(kernels.lattice(), 1)
    found.append(
        Kernel("E8P, inputs of 8 bits", run, "vpdpbusd", 64, table, True, 1, 0.25, eights=True)
    )
    return found


def _bytes(window: int) -> Callable[..., None]:
    return driver(kernels.byte_windows(window), 1)


@dataclass(frozen=True)
class Inputs:
    """What a kernel is given of x: its inputs, and factors and table for each block."""

    x: NDArray[Any]
    tables: NDArray[np.uint8]
    stride: int

    @classmethod
    def of(cls, kernel: Kernel, x: Floats) -> "Inputs":
        """Prepare x [I]."""
        if kernel.own:
            return cls(x, np.zeros(4 * (8 * BLOCK_INPUTS + GROUP), np.uint8), 0)
        groups = x.reshape(-1, GROUP)
        steps = np.maximum(np.abs(groups).max(1), 1e-30) / 127
        codes = np.rint(groups / steps[:, None]).astype(np.int8)
        if not kernel.integer:
            steps = np.ones_like(steps)
        sums = codes.sum(1, dtype=np.int64) if kernel.integer else np.zeros(len(steps))
        factors = np.stack([steps * kernel.factor, kernel.middle * sums], axis=1)
        blocks = []
        for block in range(len(x) // BLOCK_INPUTS):
            part = slice(block * _GROUPS, (block + 1) * _GROUPS)
            octets = [factors[part].astype(np.float32).view(np.uint8).ravel(), kernel.table]
            if kernel.eights:
                twice = 2 * codes[part].reshape(-1, BLOCK).sum(1, dtype=np.int32)
                octets.append(twice.astype(np.int32).view(np.uint8))
            blocks.append(np.concatenate(octets))
        return cls(codes.ravel() if kernel.integer else x, np.concatenate(blocks), len(blocks[0]))


def multiply(
    kernel: Kernel, inputs: Inputs, codes: NDArray[np.uint32], scales: NDArray[np.float16],
    columns: int, out: Floats,
) -> None:  # fmt: skip
    """out [O] = the matrix of codes [O / 32, I / 16, 32] and scales [O / 32, I / 128, 32] times
    the inputs."""
    kernel.run(
        codes.ctypes.data, scales.ctypes.data, columns, len(out) // TILE_ROWS,
        inputs.x.ctypes.data, inputs.tables.ctypes.data, inputs.stride, out.ctypes.data,
    )  # fmt: skip


def measure(rows: int, columns: int, rounds: int, copies: int) -> list[Speed]:
    """Every kernel, in each round once, on one of ``copies`` matrices."""
    random = np.random.default_rng(0)
    shape = PackedShape(rows, columns, 2, GROUP, rotated=True)
    codes = random.integers(0, 1 << 32, (copies, shape.code_words), np.uint32)
    scales = random.random((copies, shape.scales)).astype(np.float16)
    x, out = random.standard_normal(columns).astype(np.float32), np.empty(rows, np.float32)
    every = all_kernels()
    inputs = [Inputs.of(kernel, x) for kernel in every]
    times: list[list[float]] = [[] for _ in every]
    turn = 0
    for _ in range(rounds + 1):  # the first compiles
        for kernel, given, seconds in zip(every, inputs, times, strict=True):
            turn = (turn + 1) % copies
            began = time.thread_time()
            multiply(kernel, given, codes[turn], scales[turn], columns, out)
            seconds.append(time.thread_time() - began)
    found = []
    for kernel, seconds in zip(every, times, strict=True):
        middle = statistics.median(seconds[1:])
        ratios = [a / b for a, b in zip(times[0][1:], seconds[1:], strict=True)]
        found.append(
            Speed(
                kernel.name, 1e3 * middle, shape.total_bytes / middle / 1e9,
                rows * columns / middle, statistics.median(ratios), instructions(kernel),
            )
        )  # fmt: skip
    return found


def instructions(kernel: Kernel) -> float:
    """Instructions per weight of the loop, each on all lanes of a register."""
    (text,) = kernel.run.inspect_asm().values()  # type: ignore[attr-defined]
    best = 0.0, 0
    for run in re.split(r"^(?:\.?\w+:|\s+j\w+\s).*$", text, flags=re.MULTILINE):
        lines = [line.strip() for line in run.splitlines() if re.match(r"\s+[a-z]", line)]
        keys = sum(bool(re.match(kernel.key + r"\s", line)) for line in lines)
        if keys > best[1]:
            best = len(lines) / (keys * kernel.weights), keys
    return best[0]
