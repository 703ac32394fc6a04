"""Attention's 4-bit products with one token on a GPU: ours beside gemlite's and torch's.

    python -m benchmarks.dense_backends [--json]

All get the same codes, scales and zero points. Each row says how long a product takes, how far it
is from float64, and whether a hundred repetitions gave the same bytes. A backend that is missing or
fails is named with its reason. Needs CUDA.

The engine uses its own kernels whatever comes out here: the products are a sixth of a token's
bytes, another packing would have to be kept beside ours or instead of it, and the same seed must
give the same text, which sums by atomic additions in no fixed order do not promise. These figures
say what that costs.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.layout import PackedShape
from engine.packing import PackedMatrix, dequantize, group_parameters, unpack_codes

SHAPES = ((4096, 4096), (1024, 4096))
"""Outputs and inputs of Mixtral 8x7B's q and o, and of its k and v."""
GROUP_SIZE = 64
ROUNDS = 30
REPETITIONS = 100

Product = Callable[[Tensor], Tensor]


class DenseBackend(Protocol):
    """Somebody's products of packed 4-bit matrices."""

    @property
    def name(self) -> str:
        """In the table."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations."""

    def prepare(self, matrix: PackedMatrix) -> Product:
        """A function from x [1, I] to [1, O]. May raise anything where the backend is missing."""


@dataclass(frozen=True)
class Ours:
    """The engine's own kernel."""

    name = "ours"
    dtype = torch.float16

    def prepare(self, matrix: PackedMatrix) -> Product:
        """As it is packed."""
        from engine.kernels.triton.decode import packed_matvec

        out = torch.empty(1, matrix.shape.rows, dtype=self.dtype, device=matrix.codes.device)

        def product(x: Tensor) -> Tensor:
            packed_matvec(x, matrix, out)
            return out

        return product


@dataclass(frozen=True)
class Gemlite:
    """gemlite's kernels, what hqq recommends."""

    name = "gemlite"
    dtype = torch.float16

    def prepare(self, matrix: PackedMatrix) -> Product:
        """Packed anew, from the same codes."""
        from gemlite.core import DType, GemLiteLinearTriton  # type: ignore[import-not-found]

        shape = matrix.shape
        linear = GemLiteLinearTriton(
            shape.bits,
            group_size=shape.group_size,
            in_features=shape.columns,
            out_features=shape.rows,
            input_dtype=DType.FP16,
            output_dtype=DType.FP16,
        )
        scale, zero = group_parameters(matrix)
        linear.pack(unpack_codes(matrix), scale.contiguous(), zero, bias=None)
        product: Product = linear.forward
        return product


@dataclass(frozen=True)
class Int4Mm:
    """torch's own 4-bit product, which torchao packs for: bfloat16 only, scales and all."""

    name = "torch int4"
    dtype = torch.bfloat16

    def prepare(self, matrix: PackedMatrix) -> Product:
        """Packed anew; its formula is (q - 8) * scale + zero."""
        codes = unpack_codes(matrix)
        packed = torch.ops.aten._convert_weight_to_int4pack(codes[:, ::2] << 4 | codes[:, 1::2], 8)
        scale, zero = (part.float() for part in group_parameters(matrix) if part is not None)
        both = torch.stack([scale, (8 - zero) * scale], dim=-1).transpose(0, 1)  # [G, O, 2]
        parameters, group_size = both.contiguous().to(self.dtype), matrix.shape.group_size
        return lambda x: torch.ops.aten._weight_int4pack_mm(x, packed, group_size, parameters)


BACKENDS: tuple[DenseBackend, ...] = (Ours(), Gemlite(), Int4Mm())


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
    backends: Sequence[DenseBackend],
    matrix: PackedMatrix,
    timed: Callable[[Callable[[], Tensor]], float],
) -> list[Row]:
    """A row for each backend; ``timed`` takes a call's microseconds."""
    shape, rows = f"{matrix.shape.rows} x {matrix.shape.columns}", []
    x = torch.randn(1, matrix.shape.columns, device=matrix.codes.device)
    for backend in backends:
        try:
            given = x.to(backend.dtype)
            product = backend.prepare(matrix)
            found = product(given).clone()
            exact = given.double() @ dequantize(matrix).double().T
            error = float((found.double() - exact).abs().max() / exact.abs().max())
            again = all(torch.equal(product(given), found) for _ in range(REPETITIONS))
            took = timed(lambda product=product, given=given: product(given))  # type: ignore[misc]
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
    rows = []
    for shape in SHAPES:
        rows += compare(BACKENDS, random_matrix(*shape, "cuda"), cuda_microseconds)
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print(f"{torch.cuda.get_device_name()}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
