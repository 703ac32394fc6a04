"""GPTQ of one expert of Mixtral 8x7B's width beside a straightforward GPTQ, in the same run.

    python -m benchmarks.gptq [--quick] [--json] [--threads N] [--tokens N]

Ours takes gate and up as one matrix and all widths at once. The other one goes as the public
implementations do: one matrix and one width after the other, the inverse Hessian by three
factorizations in float32, one column at a time inside a block of 128, an update of all columns to
come after each block. Both search the same grids in the same order of the inputs. Seconds are
wall-clock; CPU seconds are beside them because other programs may have shared the cores. Peak
memory is what the process grew by. `--quick`: an eighth of the width.

Results go to benchmarks/results/gptq.md and gptq.json, unless `--quick`.
"""

import argparse
import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

import engine  # noqa: F401 - it tells torch's threads how to wait
from benchmarks.machine import machine
from compress.quantizers import grid, scoring_quantizer
from compress.quantizers.gptq import quantize_gptq
from compress.quantizers.hessian import Hessian, HessianSum
from compress.quantizers.products import product_dtype
from compress.quantizers.refine import quantize_refined
from compress.rounding_memory import quantizer_bytes

HIDDEN, INNER = 4096, 14336
WIDTHS = (1, 2, 3)
GROUP_SIZE = 128
BLOCK = 128
TOKENS = 8192
CHUNK = 1024
RESULTS = Path(__file__).parent / "results"

Run = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Stage:
    """``bytes`` the process grew by at most; ``predicted`` what it should have, where known;
    ``errors`` relative H-weighted squared errors at the widths, where codes were made; ``inside``
    seconds of its parts."""

    name: str
    matrix: str
    seconds: float
    cpu_seconds: float
    bytes: int
    predicted: int | None = None
    errors: tuple[float, ...] = ()
    inside: dict[str, float] = field(default_factory=dict)


class Watch:
    """Wall-clock, processor time and the growth of this process within a `with`."""

    def __enter__(self) -> "Watch":
        # What the C library kept of earlier stages would be used again, and not be seen.
        ctypes.CDLL(None).malloc_trim(0)
        self._before = self.peak = resident_bytes()
        self._running = True
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        self._began, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self.cpu_seconds = time.process_time() - self._cpu
        self._running = False
        self._thread.join()
        self.bytes = self.peak - self._before

    def _look(self) -> None:
        while self._running:
            self.peak = max(self.peak, resident_bytes())
            time.sleep(0.005)


def resident_bytes() -> int:
    """What this process holds in memory; Linux only."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def activations(inputs: int, tokens: int) -> Iterator[Tensor]:
    """Correlated inputs [t, I] with unequal channels, one in 256 an outlier."""
    generator = torch.Generator().manual_seed(inputs)
    mixing = torch.randn(max(16, inputs // 8), inputs, generator=generator)
    sizes = torch.exp(0.5 * torch.randn(inputs, generator=generator))
    sizes[torch.rand(inputs, generator=generator) < 1 / 256] *= 20
    for start in range(0, tokens, CHUNK):
        rows = min(CHUNK, tokens - start)
        shared = torch.randn(rows, len(mixing), generator=generator) @ mixing
        own = torch.randn(rows, inputs, generator=generator)
        yield (shared / len(mixing) ** 0.5 + own) * sizes


def plain_hessian(chunks: Sequence[Tensor]) -> Tensor:
    """Sum of x x^T in float32, one product per chunk."""
    total = torch.zeros(chunks[0].shape[1], chunks[0].shape[1])
    for chunk in chunks:
        total += chunk.T @ chunk
    return total / sum(map(len, chunks))


def plain_gptq(
    weights: Tensor, hessian: Tensor, bits: int, order: Tensor, inside: dict[str, float]
) -> Tensor:
    """A straightforward GPTQ: what weights [O, I] become at one width, [O, I].

    Seconds of its parts are added to ``inside``.
    """
    work = weights[:, order].clone()
    began = time.perf_counter()
    inverse = plain_inverse(hessian, order)
    inside["inverse"] += time.perf_counter() - began
    out = torch.empty_like(work)
    for start in range(0, work.shape[1], BLOCK):
        block = slice(start, start + BLOCK)
        left, own = work[:, block].clone(), inverse[block, block]
        missed = torch.empty_like(left)
        began = time.perf_counter()
        scale, zero = grid.fit(left, own.diagonal().square().reciprocal(), bits)
        inside["grid search"] += time.perf_counter() - began
        for i in range(BLOCK):
            column = left[:, i : i + 1]
            value = grid.decode(grid.encode(column, scale, zero, bits), scale, zero)
            error = (column - value) / own[i, i]
            left[:, i:] -= error @ own[i : i + 1, i:]
            out[:, start + i], missed[:, i] = value[:, 0], error[:, 0]
        work[:, block.stop :] -= missed @ inverse[block, block.stop :]
    return out[:, order.argsort()]


def plain_inverse(hessian: Tensor, order: Tensor) -> Tensor:
    """The upper Cholesky factor of the damped inverse, inputs in ``order``."""
    ordered = hessian[order][:, order]
    ordered.diagonal().add_(0.01 * ordered.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(ordered))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def relative_error(weights: Tensor, values: Tensor, hessian: Hessian) -> float:
    """tr(E H E^T) / tr(W H W^T), of every eighth row."""
    weights, values = weights[::8], values[::8]
    return float(hessian.error(weights - values).sum() / hessian.error(weights).sum())


class Bench:
    """The two matrices of one expert, and what has been measured on them."""

    def __init__(self, hidden: int, inner: int, tokens: int) -> None:
        self._tokens = tokens
        self._shapes = {"gate+up": (2 * inner, hidden), "down": (hidden, inner)}
        self.stages: list[Stage] = []

    def run(self) -> None:
        """Measure everything."""
        for matrix, (rows, inputs) in self._shapes.items():
            torch.manual_seed(rows)
            weights = 0.02 * torch.randn(rows, inputs)
            hessian = self._hessians(matrix, inputs)
            self._ours(matrix, weights, hessian)
            self._plain(matrix, weights, hessian)

    def _hessians(self, matrix: str, inputs: int) -> Hessian:
        chunks = list(activations(inputs, self._tokens))
        with Watch() as watch:
            total = HessianSum(inputs, torch.device("cpu"))
            for chunk in chunks:
                total.add(chunk)
            hessian = total.mean()
        self._add("Hessian, ours", matrix, watch, predicted=4 * inputs * inputs)
        with Watch() as watch:
            for _ in ("gate", "up") if matrix == "gate+up" else ("down",):
                plain_hessian(chunks)
        self._add("Hessian, straightforward", matrix, watch)
        return hessian

    def _ours(self, matrix: str, weights: Tensor, hessian: Hessian) -> None:
        rows, inputs = weights.shape
        half = product_dtype(weights, inputs) == torch.bfloat16
        beside = quantizer_bytes(rows, inputs, len(WIDTHS), GROUP_SIZE, half)
        results = len(WIDTHS) * rows * inputs * (1 + 4 / GROUP_SIZE)
        with Watch() as watch:
            hessian.elimination(GROUP_SIZE)
        self._add("factorization alone, ours", matrix, watch)
        for name, quantize in (
            ("gptq, ours", quantize_gptq),
            ("refined for scoring", scoring_quantizer("refined")),
            ("refined", quantize_refined),
        ):
            with Watch() as watch:
                every = quantize(weights, hessian, WIDTHS, GROUP_SIZE)
            errors = tuple(relative_error(weights, one.dequantize(), hessian) for one in every)
            self._add(name, matrix, watch, beside + round(results), errors)

    def _plain(self, matrix: str, weights: Tensor, hessian: Hessian) -> None:
        order = hessian.elimination(GROUP_SIZE).order
        parts = weights.chunk(2) if matrix == "gate+up" else (weights,)
        found: list[Tensor] = []
        inside = {"inverse": 0.0, "grid search": 0.0}
        with Watch() as watch:
            for bits in WIDTHS:
                values = [plain_gptq(part, hessian.matrix, bits, order, inside) for part in parts]
                found.append(torch.cat(values)[::8])
        errors = tuple(
            float(hessian.error(weights[::8] - one).sum() / hessian.error(weights[::8]).sum())
            for one in found
        )
        self._add("gptq, straightforward", matrix, watch, None, errors, inside)

    def _add(
        self,
        name: str,
        matrix: str,
        watch: Watch,
        predicted: int | None = None,
        errors: tuple[float, ...] = (),
        inside: dict[str, float] | None = None,
    ) -> None:
        measured = watch.seconds, watch.cpu_seconds, watch.bytes
        stage = Stage(name, matrix, *measured, predicted, errors, inside or {})
        self.stages.append(stage)
        print(f"{matrix}: {name}, {watch.seconds:.1f} s", file=sys.stderr, flush=True)


def ratios(stages: Sequence[Stage]) -> dict[str, float]:
    """How many times as long the straightforward one takes, by wall-clock and processor time."""

    def total(ending: str, field: str, *kinds: str) -> float:
        names = [f"{kind}, {ending}" for kind in kinds]
        return sum(float(getattr(stage, field)) for stage in stages if stage.name in names)

    return {
        f"{name} ({field.replace('_', ' ')})": total("straightforward", field, *kinds)
        / total("ours", field, *kinds)
        for field in ("seconds", "cpu_seconds")
        for name, kinds in (("Hessian and gptq", ("Hessian", "gptq")), ("gptq alone", ("gptq",)))
    }


def markdown(where: str, hidden: int, inner: int, tokens: int, stages: Sequence[Stage]) -> str:
    """The table."""
    lines = [
        "# GPTQ of one expert",
        "",
        f"{where}. Hidden size {hidden}, expert width {inner}, {tokens} synthetic tokens, widths "
        f"{', '.join(map(str, WIDTHS))}, groups of {GROUP_SIZE}. Errors are tr(E H E^T) / "
        "tr(W H W^T) at these widths. Peak memory is what the process grew by, codes included; "
        "predicted is `quantizer_bytes` and the codes.",
        "",
        "| matrix | stage | seconds | CPU seconds | peak MB | predicted MB | errors |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage in stages:
        predicted = "" if stage.predicted is None else f"{stage.predicted / 1e6:.0f}"
        errors = ", ".join(f"{error:.5f}" for error in stage.errors)
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in stage.inside.items())
        name = f"{stage.name} ({parts})" if parts else stage.name
        lines.append(
            f"| {stage.matrix} | {name} | {stage.seconds:.1f} | {stage.cpu_seconds:.1f} "
            f"| {stage.bytes / 1e6:.0f} | {predicted} | {errors} |"
        )
    lines += ["", "Straightforward / ours:", ""]
    lines += [f"- {name}: {ratio:.2f}" for name, ratio in ratios(stages).items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tokens", type=int, default=TOKENS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shrink = 8 if options.quick else 1
    hidden, inner = HIDDEN // shrink, INNER // shrink
    # The first call compiles.
    quantize_refined(torch.randn(64, 256), Hessian(torch.eye(256)), WIDTHS, GROUP_SIZE)
    bench = Bench(hidden, inner, options.tokens // shrink)
    with torch.inference_mode():
        bench.run()
    where = f"{machine()}; {options.threads} threads, torch {torch.__version__}"
    table = markdown(where, hidden, inner, options.tokens // shrink, bench.stages)
    rows = [asdict(stage) for stage in bench.stages]
    found = {"machine": where, "rows": rows, "ratios": ratios(bench.stages)}
    if not options.quick:
        (RESULTS / "gptq.md").write_text(table, encoding="utf-8")
        (RESULTS / "gptq.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found) if options.json else table)


if __name__ == "__main__":
    main()
