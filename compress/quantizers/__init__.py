"""How a matrix of numbers becomes codes: round to nearest, GPTQ and HQQ behind one signature."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from compress.quantizers.gptq import quantize_gptq
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian
from compress.quantizers.hqq import quantize_hqq
from compress.quantizers.refine import quantize_refined
from compress.quantizers.rtn import quantize_min_max, quantize_rtn
from engine.errors import UsageError

Quantizer = Callable[[Tensor, Hessian, Sequence[int], int], tuple[Codes, ...]]
"""(weights [O, I] float32, Hessian of their inputs, widths in bits, group size) to the codes at
each width, on the device of the weights."""

QUANTIZERS: dict[str, Quantizer] = {
    "refined": quantize_refined,
    "gptq": quantize_gptq,
    "rtn": quantize_rtn,
    "hqq": quantize_hqq,
    "minmax": quantize_min_max,
}


def quantizer(name: str) -> Quantizer:
    """The quantizer of this name. Raises UsageError naming the choices."""
    if name not in QUANTIZERS:
        raise UsageError(f"no quantizer {name!r}; available: {', '.join(QUANTIZERS)}")
    return QUANTIZERS[name]


SCORING_SWEEPS = 1
"""Sweeps of coordinate descent when codes are only made to measure what a width would cost."""


def scoring_quantizer(name: str) -> Quantizer:
    """What eps is measured with for codes by this quantizer. Raises UsageError likewise."""
    if name == "refined":
        return partial(quantize_refined, sweeps=SCORING_SWEEPS)
    return quantizer(name)
