"""What the compiler makes of the Triton kernels, for GPUs that need not be here.

    python -m benchmarks.triton_code [--quick] [--json]

Compiles every launch of one token and of a prompt at the shapes of Mixtral 8x7B, group size 128,
for compute capabilities 8.6 (RTX 3090) and 9.0 (H100, H200), and reads the machine code. For the
packed products with one token it counts the instructions in the loop, per weight and thread;
"integer" are those that only half of a multiprocessor's lanes can do. `--quick`: 8.6 alone, one
token alone. Runs nothing.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from engine.kernels import Arena
from engine.kernels.triton import decode, elementwise, prefill
from engine.kernels.triton.plans import Plan, Work
from engine.kernels.triton.tuning import Launch
from engine.layout import PackedShape, arena_layout
from engine.packing import PackedMatrix
from tests.triton_compile import CAPABILITIES, Compiled, compiling

HIDDEN, INNER, VOCABULARY, GROUP = 4096, 14_336, 32_000, 128
PROMPT = 2048
PLANS = (Plan(1, 4, 2, 32), Plan(2, 4, 2, 32), Plan(2, 4, 2, 64), Plan(4, 4, 2, 32))
MATRICES = (*((bits, False) for bits in (1, 2, 3, 4, 8)), *((bits, True) for bits in (1, 2, 3)))
"""Widths, and whether rotated: experts of 1 to 3 bits are, or are not."""
INTEGER = {"LOP3", "SHF", "SGXT", "LEA", "IADD3", "ISETP", "PRMT", "SEL"}


@dataclass(frozen=True)
class Row:
    """``instructions`` and ``integer``: in the loop per weight; None where it was not counted."""

    capability: int
    kernel: str
    what: str
    warps: int
    registers: int
    spilled: int
    shared: int
    instructions: float | None
    integer: float | None


def matrix(rows: int, columns: int, bits: int, rotated: bool = False) -> PackedMatrix:
    shape = PackedShape(rows, columns, bits, GROUP, rotated)
    return PackedMatrix(
        shape,
        torch.empty(shape.code_words, dtype=torch.int32),
        torch.empty(shape.scales, dtype=torch.float16),
        torch.empty(shape.zeros, dtype=torch.float16),
    )


def arena(*bits: int, rotated: bool = False) -> Arena:
    layout = arena_layout(bits, HIDDEN, INNER, GROUP, rotated)
    return Arena(
        layout,
        torch.empty(layout.code_words, dtype=torch.int32),
        torch.empty(layout.scales, dtype=torch.float16),
        torch.empty(layout.zeros, dtype=torch.float16),
    )


def loops(kernel: Compiled) -> list[list[str]]:
    """The innermost loops' instructions: what lies between a branch back and its target."""
    code = kernel.instructions()
    spans = []
    for at, (_, text) in enumerate(code):
        target = re.search(r"\bBRA\S* .*?(0x[0-9a-f]+)", text)
        if target and int(target[1], 16) < code[at][0]:
            first = next(i for i, (place, _) in enumerate(code) if place == int(target[1], 16))
            spans.append((first, at + 1))
    inner = [
        (first, last)
        for first, last in spans
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in spans)
    ]
    return [[text for _, text in code[first:last]] for first, last in inner]


def opcode(instruction: str) -> str:
    """``@P0 LOP3.LUT R1, ...`` is LOP3."""
    return instruction.removeprefix("@").split()[instruction.startswith("@")].split(".")[0]


def counted(kernel: Compiled, plan: Plan) -> list[tuple[float, float]]:
    """Instructions and integer instructions per weight in each loop that multiplies."""
    found = []
    for loop in loops(kernel):
        count = Counter(opcode(instruction) for instruction in loop)
        weights = plan.lines * 4 * plan.stretch  # of a thread, each time around
        if count["FFMA"] >= weights:
            integer = sum(count[name] for name in INTEGER)
            found.append((len(loop) / weights, integer / weights))
    return found


class Book:
    """Makes every product take one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def plan(self, work: Work, launch: Launch) -> Plan:
        """Always the same."""
        return self._plan


def one_token(capability: int) -> list[Row]:
    x = torch.empty(1, HIDDEN, dtype=torch.float16)
    stream, out = torch.empty(1, HIDDEN), torch.empty(1, VOCABULARY)
    ids, weights = torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2)
    attention = [matrix(rows, HIDDEN, 4) for rows in (HIDDEN, HIDDEN // 4, HIDDEN // 4)]
    cases: dict[str, Callable[[], None]] = {
        "query, key, value, 4 bits": lambda: decode.packed_matvecs(x, attention, [out, out, out]),
        "1, 2 and 3 bits": lambda: decode.experts_decode(x, ids, weights, arena(1, 2, 3), x),
        "rotated, 1, 2 and 3 bits": lambda: decode.experts_decode(
            stream, ids, weights, arena(1, 2, 3, rotated=True), stream
        ),
        "norm": lambda: elementwise.rms_norm(stream, stream, 0.0, x, stream),
        "norm, turned too": lambda: elementwise.rms_norm(
            stream, stream, 0.0, x, stream, stream, GROUP
        ),
        "head": lambda: decode.half_matvec(x, torch.empty(VOCABULARY, HIDDEN).half(), out),
    }
    rows = []
    for what, launch in cases.items():
        with compiling(capability) as kernels:
            launch()
        rows += [row(capability, kernel, what, None) for kernel in kernels]
    chosen = decode.plan_book
    try:
        for plan in PLANS:
            decode.plan_book = lambda device, plan=plan: Book(plan)  # type: ignore[misc, assignment]
            for bits, rotated in MATRICES:
                with compiling(capability) as kernels:
                    decode.packed_matvec(x, matrix(HIDDEN, HIDDEN, bits, rotated), out)
                kind = f"{bits} bits, rotated" if rotated else f"{bits} bits"
                what = f"{kind}, {plan.lines} x 32 rows, stretches of {plan.stretch}"
                rows += [row(capability, kernel, what, plan) for kernel in kernels]
    finally:
        decode.plan_book = chosen
    return rows


def prompt(capability: int) -> list[Row]:
    rows = []
    ids, weights = torch.zeros(PROMPT, 2, dtype=torch.int64), torch.zeros(PROMPT, 2)
    experts = arena(1, 2, 3), arena(1, 2, 3, rotated=True)
    for kind in (torch.float16, torch.bfloat16):
        for tokens in (16, PROMPT):
            x = torch.empty(tokens, HIDDEN, dtype=kind)
            with compiling(capability) as kernels:
                prefill.packed_matmul(x, matrix(HIDDEN, HIDDEN, 4))
            name = f"{tokens} tokens, {str(kind).removeprefix('torch.')}"
            rows += [row(capability, kernel, name, None) for kernel in kernels]
            for one in experts:
                with compiling(capability) as kernels:
                    prefill.experts_prefill(x, ids[:tokens], weights[:tokens], one)
                what = f"{name}, rotated" if one.layout.rotated else name
                rows += [row(capability, kernel, what, None) for kernel in kernels]
    return rows


def row(capability: int, kernel: Compiled, what: str, plan: Plan | None) -> Row:
    found = counted(kernel, plan) if plan else []
    each = [sum(values) / len(found) for values in zip(*found, strict=True)] if found else []
    return Row(
        capability=capability,
        kernel=kernel.name,
        what=what,
        warps=kernel.warps,
        registers=kernel.registers,
        spilled=kernel.spilled,
        shared=kernel.shared,
        instructions=each[0] if each else None,
        integer=each[1] if each else None,
    )


def table(rows: list[Row]) -> str:
    lines = [
        "| GPU | kernel | what | warps | registers | spilled | shared | instructions | integer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        counts = ["" if x is None else f"{x:.2f}" for x in (one.instructions, one.integer)]
        cells = (
            f"{one.capability / 10}", one.kernel, one.what, one.warps, one.registers, one.spilled,
            one.shared, *counts,
        )  # fmt: skip
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="8.6 and one token alone")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    rows = []
    for capability in CAPABILITIES[:1] if options.quick else CAPABILITIES:
        rows += one_token(capability)
        if not options.quick:
            rows += prompt(capability)
    print(json.dumps([asdict(one) for one in rows]) if options.json else table(rows))


if __name__ == "__main__":
    main()
