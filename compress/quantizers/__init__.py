"""How a matrix of numbers becomes codes: round to nearest, GPTQ and HQQ behind one signature."""

from collections.abc import Callable

from torch import Tensor

from compress.quantizers.gptq import quantize_gptq, quantize_plain_gptq
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian
from compress.quantizers.hqq import quantize_hqq
from compress.quantizers.rtn import quantize_min_max, quantize_rtn
from engine.errors import UsageError

Quantizer = Callable[[Tensor, Hessian, int, int], Codes]
"""(weights [O, I], Hessian of their inputs, bits, group size) to codes."""

QUANTIZERS: dict[str, Quantizer] = {
    "gptq": quantize_gptq,
    "rtn": quantize_rtn,
    "hqq": quantize_hqq,
    "gptq-plain": quantize_plain_gptq,
    "minmax": quantize_min_max,
}


def quantizer(name: str) -> Quantizer:
    """The quantizer of this name. Raises UsageError naming the choices."""
    if name not in QUANTIZERS:
        raise UsageError(f"no quantizer {name!r}; available: {', '.join(QUANTIZERS)}")
    return QUANTIZERS[name]
