"""How fast Mixtral 8x7B at 2.5 bits could decode on a GPU: derived, nothing is run there.

    python -m benchmarks.gpu_limits [--json]

For each part of a token's way: the bytes it reads, the instructions its kernels execute (counted in
the code that the compiler makes, see benchmarks.triton_code), and the longer of the two times that
these take at the rates below. The sum, with the launches, is what to hold a measurement against.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass

import torch

from benchmarks.triton_code import HIDDEN, VOCABULARY, Book, counted, matrix
from engine.config import MIXTRAL_8X7B as MODEL
from engine.kernels.triton import decode
from engine.kernels.triton.plans import Plan
from tests.triton_compile import compiling

GROUP_SIZE = 128
CONTEXT = 512
PLAN = Plan(lines=2, warps=4, splits=2, stretch=32)
REACHED_BANDWIDTH = 0.9
"""Of the bandwidth in the data sheet, what a copy reaches: an assumption."""
REACHED_ISSUE = 0.75
"""Of the instructions that could be issued, what well-fed kernels issue: an assumption."""
LAUNCHES = 11
"""Kernels of a layer."""
LAUNCH_SECONDS = 2.5e-6
"""From one kernel's end until the next one is in full swing, in a CUDA graph: an assumption."""


@dataclass(frozen=True)
class Gpu:
    """``flops`` in float32 and ``bandwidth`` in bytes a second, as in NVIDIA's data sheets."""

    name: str
    capability: int
    flops: float
    bandwidth: float


GPUS = (Gpu("RTX 3090", 86, 35.6e12, 936e9), Gpu("H200", 90, 67e12, 4.8e12))


@dataclass(frozen=True)
class Row:
    """Milliseconds a token. ``both``: the longer one, for each kernel by itself."""

    gpu: str
    part: str
    gigabytes: float
    bytes_ms: float
    instructions_ms: float
    both: float


def instructions(capability: int) -> dict[int, float]:
    """Instructions per weight and thread at each width, the experts' 2 and 3 bits rotated."""
    x, out = torch.empty(1, HIDDEN, dtype=torch.float16), torch.empty(1, VOCABULARY)
    chosen, found = decode.plan_book, {}
    decode.plan_book = lambda device: Book(PLAN)  # type: ignore[assignment]
    try:
        for bits in (2, 3, 4):
            with compiling(capability) as kernels:
                decode.packed_matvec(x, matrix(HIDDEN, HIDDEN, bits, rotated=bits < 4), out)
            found[bits] = counted(kernels[0], PLAN)[0][0]
    finally:
        decode.plan_book = chosen
    return found


def rows(gpu: Gpu) -> list[Row]:
    per_weight = instructions(gpu.capability)
    chosen = MODEL.num_layers * MODEL.top_k * MODEL.expert_weights
    # Half of the experts' weights at 2 bits and half at 3 make 2.5.
    parts = [
        ("experts at 2 bits", chosen / 2, packed_bytes(chosen / 2, 2, 1), per_weight[2]),
        ("experts at 3 bits", chosen / 2, packed_bytes(chosen / 2, 3, 1), per_weight[3]),
    ]
    attention = MODEL.num_layers * MODEL.attention_weights
    parts.append(("attention at 4 bits", attention, packed_bytes(attention, 4, 2), per_weight[4]))
    head = MODEL.vocab_size * MODEL.hidden_size
    parts.append(("head", head, 2 * head, 1.5))  # a conversion for two weights, a multiplication
    kept = MODEL.num_layers * 2 * MODEL.num_kv_heads * MODEL.head_dim * CONTEXT
    parts.append((f"keys and values, {CONTEXT} tokens", kept, 2 * kept, 0.0))
    found = []
    for part, weights, size, each in parts:
        by_bytes = size / (gpu.bandwidth * REACHED_BANDWIDTH)
        # An instruction a lane and clock, of which a multiplication and addition is two flops.
        by_instructions = weights * each / (gpu.flops / 2 * REACHED_ISSUE)
        both = max(by_bytes, by_instructions)
        figures = (1e3 * by_bytes, 1e3 * by_instructions, 1e3 * both)
        found.append(Row(gpu.name, part, size / 1e9, *figures))
    launches = MODEL.num_layers * LAUNCHES * LAUNCH_SECONDS
    found.append(Row(gpu.name, "launches", 0.0, 0.0, 0.0, 1e3 * launches))
    columns = list(zip(*(list(asdict(row).values())[2:] for row in found), strict=True))
    found.append(Row(gpu.name, "a token", *(math.fsum(column) for column in columns)))
    return found


def packed_bytes(weights: float, bits: int, kept: int) -> float:
    """Codes, and ``kept`` numbers for each group, two bytes each: a scale, and a zero point where
    the matrix is not rotated."""
    return weights * (bits / 8 + 2 * kept / GROUP_SIZE)


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    found = [row for gpu in GPUS for row in rows(gpu)]
    if options.json:
        print(json.dumps([asdict(row) for row in found]))
        return
    print("| GPU | part | GB | ms for the bytes | ms for the instructions | ms |")
    print("|---|---|---|---|---|---|")
    for row in found:
        figures = (row.gigabytes, row.bytes_ms, row.instructions_ms, row.both)
        print(f"| {row.gpu} | {row.part} | " + " | ".join(f"{x:.2f}" for x in figures) + " |")
    for row in found:
        if row.part == "a token":
            print(f"\n{row.gpu}: {1e3 / row.both:.0f} tokens/s")


if __name__ == "__main__":
    main()
