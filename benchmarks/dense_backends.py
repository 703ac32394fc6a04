"""Attention's 4-bit products on a GPU: ours beside gemlite's and torch's, matrix by matrix.

    python -m benchmarks.dense_backends [--json]

All get the same codes, scales and zero points. Each row says how long a product with one token
takes, how far it is from float64, and whether a hundred repetitions gave the same bytes. A backend
that is missing or fails is named with its reason. Last comes what the engine makes of them at a
load: a layer's four products for a token in a CUDA graph, and for a chunk of a prompt. Needs CUDA.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from engine.kernels.foreign import BACKENDS, Backend, ForeignMatrix
from engine.layout import PackedShape
from engine.packing import PackedMatrix, dequantize

SHAPES = ((4096, 4096), (1024, 4096))
"""Outputs and inputs of Mixtral 8x7B's q and o, and of its k and v."""
GROUP_SIZE = 128
DTYPE = torch.bfloat16
ROUNDS = 30
REPETITIONS = 100


@dataclass(frozen=True)
class Ours:
    """The engine's own kernel, for one token."""

    name = "ours"

    def pack(self, matrix: PackedMatrix, dtype: torch.dtype) -> ForeignMatrix:
        """As it is packed."""
        from engine.kernels.triton.decode import packed_matvec

        shape = matrix.shape
        out = torch.empty(1, shape.rows, dtype=dtype, device=matrix.codes.device)

        def product(x: Tensor) -> Tensor:
            packed_matvec(x, matrix, out)
            return out

        held = (matrix.codes, matrix.scales, matrix.zeros)
        return ForeignMatrix(shape.rows, shape.columns, product, held)


@dataclass(frozen=True)
class Row:
    """``error``: largest difference from float64 over the largest value; ``problem``: why there
    are no figures."""

    backend: str
    shape: str
    microseconds: float | None
    error: float | None
    same_bytes: bool | None
    problem: str


def compare(
    backends: Sequence[Backend],
    matrix: PackedMatrix,
    timed: Callable[[Callable[[], Tensor]], float],
    dtype: torch.dtype = DTYPE,
    repetitions: int = REPETITIONS,
) -> list[Row]:
    """A row for each backend; ``timed`` takes a call's microseconds."""
    shape, rows = f"{matrix.shape.rows} x {matrix.shape.columns}", []
    x = torch.randn(1, matrix.shape.columns, device=matrix.codes.device).to(dtype)
    exact = x.double() @ dequantize(matrix).double().T
    for backend in backends:
        try:
            product = backend.pack(matrix, dtype).multiply
            found = product(x).clone()
            error = float((found.double() - exact).abs().max() / exact.abs().max())
            again = all(torch.equal(product(x), found) for _ in range(repetitions))
            took = timed(lambda product=product: product(x))  # type: ignore[misc]
        except Exception as problem:  # whatever others' packages raise
            reason = f"{type(problem).__name__}: {problem}".split("\n")[0]
            rows.append(Row(backend.name, shape, None, None, None, reason))
        else:
            rows.append(Row(backend.name, shape, took, error, again, ""))
    return rows


def cuda_microseconds(call: Callable[[], Tensor]) -> float:
    """The median of a few calls, the GPU's cache emptied before each."""
    flood = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        flood.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(1e3 * start.elapsed_time(end))
    return statistics.median(times)


def random_matrix(rows: int, columns: int, device: str) -> PackedMatrix:
    shape = PackedShape(rows, columns, 4, GROUP_SIZE)
    words = torch.randint(-(2**31), 2**31, (shape.code_words,), dtype=torch.int32)
    scales, zeros = 0.01 * torch.rand(shape.scales) + 0.001, 15 * torch.rand(shape.zeros)
    return PackedMatrix(shape, words.to(device), scales.half().to(device), zeros.half().to(device))


def table(rows: Sequence[Row]) -> str:
    lines = ["| backend | matrix | us | error | same bytes |", "|---|---|---|---|---|"]
    for row in rows:
        if row.problem:
            lines.append(f"| {row.backend} | {row.shape} | {row.problem} | | |")
        else:
            same = "yes" if row.same_bytes else "no"
            figures = f"{row.microseconds:.1f} | {row.error:.1e} | {same}"
            lines.append(f"| {row.backend} | {row.shape} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this needs CUDA, and there is none here")
    from engine.decoding import dense

    q, k, v, o = (random_matrix(*SHAPES[index], "cuda") for index in (0, 1, 1, 0))
    rows = [row for one in (q, k) for row in compare((Ours(), *BACKENDS), one, cuda_microseconds)]
    verdict = dense.compare((q, k, v, o), DTYPE, BACKENDS, dense.cuda_clock())
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "verdict": asdict(verdict)}))
    else:
        print(f"{torch.cuda.get_device_name()}\n\n{table(rows)}\n\n{verdict}")


if __name__ == "__main__":
    main()
