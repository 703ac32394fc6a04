"""Packed products on the CPU beside torch's float32 ones.

    python -m benchmarks.kernels [--quick] [--json] [--threads N]

Each round times every kernel once, so that a busy moment of the machine hits all of them; figures
are medians over rounds, and a ratio is the median of the rounds' own ratios. GB/s are packed bytes
read per second, Gw/s billions of weights multiplied with one token's inputs. Goals for one token
and Mixtral's shapes: 2.0, 1.6 and 1.2 times the dense speed at 1, 2 and 3 bits. `--quick`: the
demo's shapes and one of Mixtral 8x7B's, fewer rounds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from benchmarks.machine import machine
from engine.experts import FloatExperts
from engine.kernels import Arena
from engine.kernels.cpu import CpuKernels
from engine.layout import PackedShape, arena_layout
from engine.packing import PackedMatrix

GROUP_SIZE = 128
BITS = (1, 2, 3, 4, 8)
MATRICES = ((14_336, 4096), (4096, 14_336), (4096, 4096), (256, 256))
"""Outputs and inputs: Mixtral 8x7B's gate and up, down, q and o; the demo's."""
EXPERTS = ((4096, 3584, (2, 3)), (256, 256, (2, 3)))
"""Hidden size, expert width and widths in bits of the two experts of a token."""
TOKENS = (1, 4, 64)

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """One packed product and the dense one that it replaces."""

    kernel: str
    shape: str
    bits: str
    tokens: int
    packed_bytes: int
    weights: int
    packed: Call
    dense: Call


@dataclass(frozen=True)
class Row:
    """``ratio``: time of the dense product / time of the packed one; weights: of all tokens."""

    kernel: str
    shape: str
    bits: str
    tokens: int
    microseconds: float
    gigabytes_per_second: float
    weights_per_second: float
    dense_microseconds: float
    ratio: float


def random_words(count: int) -> Tensor:
    return torch.randint(-(2**31), 2**31, (count,), dtype=torch.int32)


def matmul_cases(
    kernels: CpuKernels, rows: int, columns: int, tokens: int, widths: Sequence[int]
) -> list[Case]:
    x = torch.randn(tokens, columns)
    weight = torch.randn(rows, columns)
    cases = []
    for bits in widths:
        shape = PackedShape(rows, columns, bits, GROUP_SIZE)
        matrix = PackedMatrix(
            shape,
            codes=random_words(shape.code_words),
            scales=torch.rand(shape.scales).half(),
            zeros=torch.rand(shape.zeros).half(),
        )
        cases.append(
            Case(
                kernel="matmul",
                shape=f"{rows}x{columns}",
                bits=str(bits),
                tokens=tokens,
                packed_bytes=shape.total_bytes,
                weights=rows * columns,
                packed=lambda matrix=matrix: kernels.matmul(x, matrix),  # type: ignore[misc]
                dense=lambda: torch.nn.functional.linear(x, weight),
            )
        )
    return cases


def experts_case(kernels: CpuKernels, hidden: int, inner: int, widths: tuple[int, ...]) -> Case:
    """One token through all the experts given: a layer's work while decoding."""
    layout = arena_layout(widths, hidden, inner, GROUP_SIZE)
    arena = Arena(
        layout,
        codes=random_words(layout.code_words),
        scales=torch.rand(layout.scales).half(),
        zeros=torch.rand(layout.zeros).half(),
    )
    count = len(widths)
    dense = FloatExperts(
        torch.randn(count, inner, hidden),
        torch.randn(count, inner, hidden),
        torch.randn(count, hidden, inner),
    )
    x, weights = torch.randn(1, hidden), torch.full((1, count), 1 / count)
    ids = torch.arange(count)[None]
    return Case(
        kernel="experts",
        shape=f"{hidden}x{inner}",
        bits="+".join(map(str, widths)),
        tokens=1,
        packed_bytes=layout.code_bytes + layout.metadata_bytes,
        weights=3 * hidden * inner * count,
        packed=lambda: kernels.experts(x, ids, weights, arena),
        dense=lambda: dense.forward(x, ids, weights),
    )


def seconds(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure(cases: Sequence[Case], rounds: int) -> list[Row]:
    for case in cases:
        case.packed(), case.dense()
    packed: list[list[float]] = [[] for _ in cases]
    dense: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for index, case in enumerate(cases):
            packed[index].append(seconds(case.packed))
            dense[index].append(seconds(case.dense))
    return [
        Row(
            kernel=case.kernel,
            shape=case.shape,
            bits=case.bits,
            tokens=case.tokens,
            microseconds=1e6 * statistics.median(ours),
            gigabytes_per_second=case.packed_bytes / statistics.median(ours) / 1e9,
            weights_per_second=case.tokens * case.weights / statistics.median(ours),
            dense_microseconds=1e6 * statistics.median(theirs),
            ratio=statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
        )
        for case, ours, theirs in zip(cases, packed, dense, strict=True)
    ]


def all_rows(quick: bool) -> list[Row]:
    torch.manual_seed(0)
    kernels = CpuKernels()
    kernels.warm()
    rounds = 7 if quick else 25
    shapes = (MATRICES[0], MATRICES[-1]) if quick else MATRICES
    rows = []
    for outputs, inputs in shapes:
        for tokens in TOKENS:
            rows += measure(matmul_cases(kernels, outputs, inputs, tokens, BITS), rounds)
    for hidden, inner, widths in EXPERTS:
        rows += measure([experts_case(kernels, hidden, inner, widths)], 4 * rounds)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    where = f"{machine()}; {options.threads} threads, torch {torch.__version__}"
    rows = all_rows(options.quick)
    if options.json:
        print(json.dumps({"machine": where, "rows": [asdict(row) for row in rows]}))
        return
    print(f"{where}\n")
    print("| kernel | shape | bits | tokens | µs | GB/s | Gw/s | dense µs | dense / packed |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.kernel} | {row.shape} | {row.bits} | {row.tokens} | {row.microseconds:.0f} "
            f"| {row.gigabytes_per_second:.1f} | {row.weights_per_second / 1e9:.1f} "
            f"| {row.dense_microseconds:.0f} | {row.ratio:.2f} |"
        )


if __name__ == "__main__":
    main()
