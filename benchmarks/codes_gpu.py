"""What Triton's compiler makes of products in trellis codes for an RTX 3090; nothing is run here.

The frame is the program's: a thread owns four rows of two row tiles, a stretch of 32 inputs at a
time. Counted are the instructions in the loop per weight and thread, all and those that only half
of a multiprocessor's lanes can do (`benchmarks.triton_code`), and for the experts of one token of
Mixtral 8x7B at 2 bits the time that bytes and instructions take (`benchmarks.gpu_limits`).

- nibbles: windows of 4 bits lie in the nibbles of a word and of the word shifted by 2; three `prmt`
  look up four of them in 16 entries, `dp4a` multiplies with inputs of 8 bits, laid out to match.
- scrambled: QTIP's 1MAD, whose bytes `dp4a` adds.
- table: windows of 8 bits, a load from a table in memory each. Loads of one warp that meet in a
  bank wait for each other, which no count shows.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from benchmarks.gpu_limits import GPUS, MODEL, REACHED_BANDWIDTH, REACHED_ISSUE, packed_bytes
from benchmarks.triton_code import HIDDEN, INTEGER, Book, loops, matrix, opcode
from engine.kernels.triton import decode
from engine.kernels.triton.plans import Plan
from tests.triton_compile import Compiled, compiling

PLAN = Plan(lines=2, warps=4, splits=1, stretch=32)
GROUP = 128
_ALL_INTEGER = INTEGER | {"IMAD", "IDP", "I2F", "I2FP"}
"""In these loops they are not addresses alone."""


@dataclass(frozen=True)
class Row:
    """``instructions`` and ``integer`` of one weight and thread; milliseconds of the experts of one
    token: by bytes, by instructions, and the tokens a second if that were all."""

    code: str
    instructions: float
    integer: float
    loads: float
    bytes_ms: float
    instructions_ms: float
    experts_per_second: float


@triton.jit
def _permuted(low: tl.tensor, high: tl.tensor, places: tl.tensor) -> tl.tensor:
    """Four bytes of the eight in two words, by nibbles; a nibble's highest bit asks for the sign
    of the byte eight times."""
    return tl.inline_asm_elementwise(
        "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [low, high, places], tl.int32, True, 1
    )


@triton.jit
def _dot(codes: tl.tensor, inputs: tl.tensor, total: tl.tensor) -> tl.tensor:
    """Total and four products of unsigned with signed bytes."""
    return tl.inline_asm_elementwise(
        "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", [codes, inputs, total], tl.int32, True, 1
    )


@triton.jit
def _four(
    places: tl.tensor, masked: tl.tensor, table: tl.tensor, inputs: tl.tensor, total: tl.tensor
) -> tl.tensor:
    """Four windows of 4 bits: levels 0 to 127 from the 16 bytes at ``table``."""
    low = _permuted(tl.load(table), tl.load(table + 1), masked)
    high = _permuted(tl.load(table + 2), tl.load(table + 3), masked)
    upper = _permuted(tl.load(table + 4), tl.load(table + 4), places)  # 0x80, or 0xFF
    return _dot((low & ~upper) | (high & upper & 0x7F7F7F7F), inputs, total)


@triton.jit
def _add_nibbles(
    word: tl.tensor, following: tl.tensor, table: tl.tensor, inputs: tl.tensor, total: tl.tensor
) -> tl.tensor:
    """16 weights; ``inputs`` points to four words of 8-bit inputs in the order of the windows."""
    odd = ((word >> 2) & 0x3FFFFFFF) | (following << 30)
    even_masked, odd_masked = word & 0x77777777, odd & 0x77777777
    total = _four(word, even_masked, table, tl.load(inputs), total)
    total = _four(word >> 16, even_masked >> 16, table, tl.load(inputs + 1), total)
    total = _four(odd, odd_masked, table, tl.load(inputs + 2), total)
    return _four(odd >> 16, odd_masked >> 16, table, tl.load(inputs + 3), total)


@triton.jit
def _window(word: tl.tensor, following: tl.tensor, place: tl.constexpr, width: tl.constexpr):  # type: ignore[no-untyped-def]
    if 2 * place + width <= 32:
        found = word >> (2 * place)
    else:
        found = tl.inline_asm_elementwise(
            "shf.r.wrap.b32 $0, $1, $2, $3;", "=r,r,r,r",
            [word, following, tl.full(word.shape, 2 * place, tl.int32)], tl.int32, True, 1,
        )  # fmt: skip
    return found & ((1 << width) - 1)


@triton.jit
def _add_floats(
    word: tl.tensor, following: tl.tensor, table: tl.tensor, inputs: tl.tensor, total: tl.tensor,
    scrambled: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """16 weights; ``inputs`` points to their inputs."""
    for place in tl.static_range(16):
        x = tl.load(inputs + place).to(tl.float32)
        if scrambled:
            state = _window(word, following, place, 16) * 34038481 + 76625530
            ones = tl.full(state.shape, 0x01010101, tl.int32)
            # The sum as a denormal float32, as in `engine.kernels.triton.words`; 510 of it is
            # taken off with the inputs' sum, like a zero point.
            value = _dot(state, ones, tl.zeros_like(state)).to(tl.float32, bitcast=True)
        else:
            value = tl.load(table + _window(word, following, place, 8))
        total = tl.fma(value, x, total)
    return total


@triton.jit
def matvec(
    inputs: tl.tensor, table: tl.tensor, codes: tl.tensor, scales: tl.tensor, offsets: tl.tensor,
    out: tl.tensor, columns: tl.tensor, kind: tl.constexpr, lines: tl.constexpr,
    lanes: tl.constexpr,
) -> None:  # fmt: skip
    """Program: a block of row tiles. ``offsets`` are what is taken off a stretch's sum."""
    row = tl.arange(0, 32)[None, None, :]
    lane = tl.arange(0, lanes)[None, :, None]
    tile = (tl.program_id(0) * lines + tl.arange(0, lines))[:, None, None]
    found = tl.zeros((lines, lanes, 32), tl.float32)
    for start in range(0, columns // 32, lanes):
        stretch = start + lane
        column = stretch * 32
        base = codes + tile * columns * 2 + row
        first, second = tl.load(base + column * 2), tl.load(base + column * 2 + 32)
        # The last stretch of a group is followed by the group's first word.
        after = column // 128 * 128 + (column + 32) % 128
        third = tl.load(base + after * 2)
        scale = tl.load(scales + (tile * (columns // 128) + column // 128) * 32 + row)
        if kind == "nibbles":
            at = inputs + stretch * 8
            total = tl.zeros((lines, lanes, 32), tl.int32)
            total = _add_nibbles(first, second, table, at, total)
            total = _add_nibbles(second, third, table, at + 4, total)
        else:
            at = inputs + column
            total = tl.zeros((lines, lanes, 32), tl.float32)
            total = _add_floats(first, second, table, at, total, kind == "scrambled")
            total = _add_floats(second, third, table, at + 16, total, kind == "scrambled")
        value = total.to(tl.float32) - tl.load(offsets + stretch)
        found = tl.fma(scale.to(tl.float32), value, found)
    place = tile * 32 + row
    tl.store(out + place, tl.sum(found, axis=1, keep_dims=True))


def compiled(capability: int, kind: str) -> Compiled:
    """The product of 4096 x 4096 weights."""
    kinds = {"nibbles": (torch.int32, torch.int32), "scrambled": (torch.float16, torch.float32)}
    inputs, table = kinds.get(kind, (torch.float16, torch.float32))
    packed = matrix(HIDDEN, HIDDEN, 2, rotated=True)
    with compiling(capability) as found:
        matvec[(HIDDEN // 32 // PLAN.lines,)](
            torch.empty(HIDDEN, dtype=inputs), torch.empty(256, dtype=table), packed.codes,
            packed.scales, torch.empty(HIDDEN // 32), torch.empty(HIDDEN), HIDDEN, kind=kind,
            lines=PLAN.lines, lanes=PLAN.lanes, num_warps=PLAN.warps, enable_fp_fusion=True,
        )  # fmt: skip
    return found[0]


def own(capability: int) -> Compiled:
    """The program's product in the same frame."""
    chosen = decode.plan_book
    decode.plan_book = lambda device: Book(PLAN)  # type: ignore[assignment]
    x = torch.empty(1, HIDDEN, dtype=torch.float16)
    try:
        with compiling(capability) as found:
            decode.packed_matvec(x, matrix(HIDDEN, HIDDEN, 2, rotated=True), torch.empty(1, HIDDEN))
    finally:
        decode.plan_book = chosen
    return found[0]


def gpu_rows() -> Iterator[Row]:
    """The program's code first."""
    cases: dict[str, Callable[[int], Compiled]] = {
        "integers, the program's": own,
        "trellis, window 4, nibbles": lambda capability: compiled(capability, "nibbles"),
        "trellis, 1MAD, window 16": lambda capability: compiled(capability, "scrambled"),
        "trellis, window 8, table": lambda capability: compiled(capability, "table"),
    }
    card = GPUS[0]
    weights = MODEL.num_layers * MODEL.top_k * MODEL.expert_weights
    by_bytes = packed_bytes(weights, 2, 1) / (card.bandwidth * REACHED_BANDWIDTH)
    for name, make in cases.items():
        (loop,) = sorted(loops(make(card.capability)), key=len)[-1:]
        count = Counter(opcode(instruction) for instruction in loop)
        each = PLAN.lines * 4 * PLAN.stretch
        total = len(loop) / each
        integer = sum(count[kind] for kind in _ALL_INTEGER) / each
        loads = sum(count[kind] for kind in ("LDG", "LDS", "LD")) / each
        # Half of the lanes are for integers: they take two slots each.
        slots = max(total, 2 * integer)
        by_instructions = weights * slots / (card.flops / 2 * REACHED_ISSUE)
        longer = max(by_bytes, by_instructions)
        yield Row(name, total, integer, loads, 1e3 * by_bytes, 1e3 * by_instructions, 1 / longer)
