"""Would a lattice or a trellis code do better than plain integers around zero, and at what cost?

    python -m benchmarks.codes [PART ...] [--quick] [--json]

Parts, all of them unless some are named; one thread:

- gaussian: squared error of unit Gaussian weights in groups of 128, scales fitted and stored in 16
  bits; bits are all in. Rate-distortion says what no code can beat. Seconds are
  processor time of encoding once, for a million weights.
- matrices: tr(E H E^T) / tr(W H W^T) of experts of the demo, turned, with their own Hessians;
  integers as the program rounds them, every other code with feedback and as many sweeps.
- perplexity: the demo with all experts in a code, as a float model; ln(perplexity / 16-bit).
- speed: decoding kernels at 2 bits for a CPU with AVX-512, beside the program's own.
- gpu: instructions in what Triton's compiler makes for an RTX 3090; nothing is run there.

`--quick`: few groups, matrices and rounds, no perplexity. What was found is in results/codes.md.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

import engine  # noqa: F401 - it tells torch's threads how to wait
from assets import DEMO_DIR
from benchmarks.codes_lattice import Lattice, e8p, roots
from benchmarks.codes_model import CPU, Round, coded, demo_matrices, integers, rounded_demo
from benchmarks.codes_rounding import Rounder
from benchmarks.codes_speed import measure
from benchmarks.codes_trellis import learned, mixed
from benchmarks.machine import machine
from compress.calibration import CalibrationSize, demo_windows
from compress.evaluation import DEMO_SEED, DEMO_WINDOWS
from compress.evaluation.divergence import diverge, record
from compress.quantizers import grid
from engine.layout import SCALE_BYTES
from engine.original import load_original

GROUP = 128
SCALE_BITS = 8 * SCALE_BYTES / GROUP
_RESIDUAL = 0.48
"""How much smaller the second lattice of 3 bits is."""


@dataclass(frozen=True)
class Named:
    """A code by name, made when it is its turn."""

    name: str
    bits: float
    make: Callable[[], Rounder]


def trellis(window: int, fresh: int, weights: int = 1) -> Named:
    if window == fresh:
        name = "Lloyd-Max levels"
    else:
        name = f"trellis, window {window}" + (", two weights a step" if weights > 1 else "")
    return Named(name, fresh / weights, lambda: Rounder.of(learned(window, fresh, weights)))


E8P = Named("E8P", 2, lambda: Rounder(Lattice((e8p(),)), 1.0))
E8_ROOTS = Named("E8's 256 shortest", 1, lambda: Rounder(Lattice((roots(),)), 1.6))
E8_SUM = Named(
    "E8P and 256 shortest", 3, lambda: Rounder(Lattice((e8p(), roots()), (1.0, _RESIDUAL)), 1.0)
)
SCRAMBLED = Named("trellis, 1MAD, window 16", 2, lambda: Rounder(mixed(2), 1.0))

GAUSSIAN = (
    E8_ROOTS, *(trellis(window, 1) for window in (4, 6, 7, 8, 10)), trellis(8, 3, 2),
    trellis(2, 2), E8P, *(trellis(window, 2) for window in (4, 5, 6, 7, 8, 10)), SCRAMBLED,
    trellis(3, 3), E8_SUM, *(trellis(window, 3) for window in (5, 6, 7, 8, 10)),
)  # fmt: skip
MATRICES = (
    trellis(4, 1), trellis(7, 1), trellis(2, 2), *(trellis(window, 2) for window in (4, 5, 7)),
    trellis(7, 3), E8P,
)  # fmt: skip
PERPLEXITY = (trellis(4, 1), trellis(4, 2), trellis(7, 2))
QUICK = (trellis(2, 2), trellis(4, 2), trellis(6, 2))
SLOW = (E8P, E8_SUM, SCRAMBLED)
"""Encoded by looking at all there is: on a few groups only."""


@dataclass(frozen=True)
class Gaussian:
    """``bits`` all in; ``bound``: the least squared error possible at these."""

    code: str
    bits: float
    squared_error: float
    bound: float
    seconds_per_million: float | None


def gaussian(quick: bool) -> Iterator[Gaussian]:
    """Every code on the same weights."""
    weights = np.random.default_rng(5).standard_normal((1024, GROUP)).astype(np.float32)
    alone, even = np.eye(GROUP, dtype=np.float32), np.ones(GROUP, np.float32)
    for bits in (1, 2, 3):
        tensor = torch.from_numpy(weights)
        scale, _ = grid.fit(tensor, torch.ones_like(tensor), bits, rotated=True)
        levels = grid.encode(tensor, scale, None, bits) - (2**bits - 1) / 2
        error = (levels * scale.float()[:, None] - tensor).square().mean()
        yield _gaussian("integers", bits, float(error), None)
    for named in QUICK if quick else GAUSSIAN:
        rounder = named.make()
        some = weights[: 64 if quick or named in SLOW else len(weights)]
        began = time.process_time()
        values, _ = rounder.groups(some, alone, even)
        seconds = (time.process_time() - began) / some.size * 1e6 / Rounder.TRIES
        yield _gaussian(named.name, named.bits, float(np.square(values - some).mean()), seconds)


def _gaussian(name: str, bits: float, error: float, seconds: float | None) -> Gaussian:
    whole = bits + SCALE_BITS
    return Gaussian(name, whole, error, 4.0**-whole, seconds)


@dataclass(frozen=True)
class MatrixError:
    """Relative error of output, geometric means over matrices; ``ratio`` to integers' at as many
    bits."""

    code: str
    bits: float
    matrix: str
    error: float
    ratio: float


@torch.inference_mode()
def matrices(quick: bool) -> Iterator[MatrixError]:
    """Every code on the same matrices."""
    chosen = QUICK if quick else MATRICES
    every = list(demo_matrices(8 if quick else 64, 1))
    thin = [matrix.thinned(8) for matrix in every]
    for bits in sorted({int(named.bits) for named in chosen}):
        base = [matrix.error(integers(bits)) for matrix in every]
        yield from _errors("integers", bits, every, base, base)
        for named in chosen:
            if named.bits == bits:
                rounded = coded(named.make())
                some = thin if named in SLOW else every
                own = [m.error(integers(bits)) for m in some] if named in SLOW else base
                errors = [matrix.error(rounded) for matrix in some]
                yield from _errors(named.name, bits, some, errors, own)


def _errors(
    name: str, bits: float, of: Sequence[Any], errors: Sequence[float], base: Sequence[float]
) -> Iterator[MatrixError]:
    for kind in ("gate and up", "down"):
        places = [place for place, matrix in enumerate(of) if matrix.name == kind]
        logs = np.log([errors[place] for place in places])
        ratios = logs - np.log([base[place] for place in places])
        yield MatrixError(
            name, bits + SCALE_BITS, kind, float(np.exp(logs.mean())), float(np.exp(ratios.mean()))
        )


@dataclass(frozen=True)
class Perplexity:
    """The demo with experts in a code; 95 % intervals over windows."""

    code: str
    bits: float
    log_ratio: float
    low: float
    high: float
    kl: float


def perplexity(quick: bool) -> Iterator[Perplexity]:
    """Integers and codes, all else as in the original."""
    if quick:
        return
    original = load_original(DEMO_DIR, CPU)
    size = CalibrationSize(DEMO_WINDOWS, original.config.max_context)
    reference = record(original, demo_windows("heldout", size, DEMO_SEED))
    rounds: list[tuple[str, float, Callable[[], Round]]] = [
        ("integers", bits, lambda bits=bits: integers(bits))  # type: ignore[misc]
        for bits in (1, 2, 3)
    ]
    rounds += [
        (named.name, named.bits, lambda named=named: coded(named.make()))  # type: ignore[misc]
        for named in PERPLEXITY
    ]
    for name, bits, make in rounds:
        found = diverge(rounded_demo(make(), 64), reference)
        ratio = found.log_ratio
        yield Perplexity(
            name, bits + SCALE_BITS, ratio.value, ratio.low, ratio.high, found.kl.mean.value
        )


def speed(quick: bool) -> Iterator[Any]:
    """At the shape of Mixtral 8x7B's gate and up."""
    yield from measure(*((2048, 2048, 5, 4) if quick else (14_336, 4096, 41, 8)))


def gpu(quick: bool) -> Iterator[Any]:
    """Needs Triton, and no GPU; ``quick`` changes nothing."""
    from benchmarks.codes_gpu import gpu_rows

    yield from gpu_rows()


PARTS: dict[str, Callable[[bool], Iterator[Any]]] = {
    "gaussian": gaussian,
    "matrices": matrices,
    "perplexity": perplexity,
    "speed": speed,
    "gpu": gpu,
}


def table_line(values: Sequence[Any]) -> str:
    cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
    return "| " + " | ".join("" if cell == "None" else cell for cell in cells) + " |"


def main() -> None:
    """Print a table for each part as its rows come."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not set(options.parts) <= set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    where, found = f"{machine()}; one thread", {}
    if not options.json:
        print(where)
    for part in options.parts or PARTS:
        rows = found[part] = list[dict[str, Any]]()
        for row in PARTS[part](options.quick):
            rows.append(asdict(row))
            if not options.json:
                if len(rows) == 1:
                    print(f"\n## {part}\n\n{table_line(list(rows[0]))}")
                    print("|" + "---|" * len(rows[0]))
                print(table_line(list(rows[-1].values())), flush=True)
    if options.json:
        print(json.dumps({"machine": where, **found}))


if __name__ == "__main__":
    main()
