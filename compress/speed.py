"""How fast this machine does what a compression consists of, measured in seconds, for an honest
word about the hours before they begin."""

import time
from collections.abc import Callable, Mapping

import torch

from compress.progress import Stage
from compress.projection import Work
from compress.quantizers import Quantizer
from compress.quantizers.hessian import Hessian, HessianSum
from compress.quantizers.products import product_dtype
from compress.routed import Expert
from engine.config import ModelConfig

_ROWS = 1024
_FACTOR = 3072
_REPEATS = 2
_GROUP = 128


def measure_speed(config: ModelConfig, quantize: Quantizer, device: torch.device) -> Work:
    """Operations a second of each kind on a device, at this model's width; takes a few seconds."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    hidden = config.hidden_size
    rows = random(_ROWS, hidden)
    weights = random(_ROWS, hidden).bfloat16()
    expert = Expert.of(weights, weights, weights.T.contiguous(), device)
    gram = HessianSum(hidden, device)
    forward = 2 * _ROWS * sum(matrix.numel() for matrix in (expert.gate_up, expert.down))
    square = random(_FACTOR, _FACTOR)
    square = square @ square.T / _FACTOR + torch.eye(_FACTOR, device=device)
    dtype = product_dtype(rows, hidden)
    errors, couplings = rows.to(dtype), random(hidden, _GROUP).to(dtype)
    narrow = random(_ROWS, _ROWS)
    hessian = Hessian(torch.eye(_ROWS, device=device) + 0.01 * (narrow.T @ narrow / _ROWS))

    def rate(operations: float, run: Callable[[], object]) -> float:
        return operations / _seconds(run, device)

    return Work(
        forward=rate(forward, lambda: expert.forward(rows)),
        hessian=rate(2 * _ROWS * hidden**2, lambda: gram.add(rows)),
        factor=rate(_FACTOR**3 / 3, lambda: torch.linalg.cholesky_ex(square)),
        rounding=rate(2 * _ROWS * hidden * _GROUP, lambda: errors @ couplings),
        weights=rate(narrow.numel(), lambda: quantize(narrow, hessian, (2,), _GROUP)),
    )


def seconds_of(work: Mapping[Stage, Work], speed: Work) -> dict[Stage, float]:
    """Seconds of each stage of a layer at a speed."""
    seconds = {stage: part.seconds(speed) for stage, part in work.items()}
    # Neither is worth measuring: an integer program of a few dozen variables, half a gigabyte.
    whole = sum(seconds.values())
    return {**seconds, "allocate": 0.01 * whole, "write": 0.02 * whole}


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """The fastest of a few runs, the first of which, which compiles and warms up, is not one."""
    run()
    times = []
    for _ in range(_REPEATS):
        _wait(device)
        began = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - began)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
