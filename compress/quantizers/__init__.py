"""How a matrix of numbers becomes codes, by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from compress.quantizer_names import SCORING_SWEEPS
from compress.quantizers.gptq import quantize_gptq
from compress.quantizers.grid import Codes
from compress.quantizers.hessian import Hessian
from compress.quantizers.hqq import quantize_hqq
from compress.quantizers.refine import quantize_refined
from compress.quantizers.rtn import quantize_min_max, quantize_rtn
from engine.errors import UsageError
from engine.hadamard import rotate

Round = Callable[[Tensor, Hessian, Sequence[int], int], tuple[Codes, ...]]
"""(weights [O, I] float32, Hessian of their inputs, widths in bits, group size) to the codes at
each width, on the device of the weights."""


@dataclass(frozen=True)
class Quantizer:
    """Rounds the matrices of experts by ``round``.

    ``rotated``: weights and Hessian are of inputs that were turned group by group, and so are the
    codes; `turn` does it. ``corrected``: the rows of ``up`` are then scaled, see
    `compress.correction`. Matrices outside the experts are rounded by `dense`, neither turned nor
    corrected.
    """

    round: Round
    rotated: bool = False
    corrected: bool = False
    outside: Round | None = None

    def __call__(
        self, weights: Tensor, hessian: Hessian, widths: Sequence[int], group_size: int
    ) -> tuple[Codes, ...]:
        """The codes at each width; see `Round`."""
        return self.round(weights, hessian, widths, group_size)

    def turn(self, x: Tensor, group_size: int) -> Tensor:
        """Weights or inputs [..., I] as the codes take them; a copy, or the same where they are
        taken as they are."""
        return rotate(x, group_size) if self.rotated else x

    @property
    def dense(self) -> Round:
        """What rounds everything outside the experts."""
        return self.outside or self.round


QUANTIZERS: dict[str, Quantizer] = {
    "rotated": Quantizer(
        partial(quantize_refined, rotated=True), True, True, outside=quantize_refined
    ),
    "corrected": Quantizer(quantize_refined, corrected=True),
    "refined": Quantizer(quantize_refined),
    "gptq": Quantizer(quantize_gptq),
    "rtn": Quantizer(quantize_rtn),
    "hqq": Quantizer(quantize_hqq),
    "minmax": Quantizer(quantize_min_max),
}
"""`rotated`: `corrected` in the basis of Hadamard matrices; `corrected`: `refined`, then ``up``
fitted; `refined`: GPTQ and coordinate descent; `gptq`: the paper's; `rtn`: each weight to the
nearest level of a searched grid; `hqq`: that library's, without data; `minmax`: to the nearest
level of the plain grid."""


def quantizer(name: str) -> Quantizer:
    """The quantizer of this name. Raises UsageError naming the choices."""
    if name not in QUANTIZERS:
        raise UsageError(f"no quantizer {name!r}; available: {', '.join(QUANTIZERS)}")
    return QUANTIZERS[name]


_SCORING: dict[str, Round] = {
    "rotated": partial(quantize_refined, sweeps=SCORING_SWEEPS, rotated=True),
    "corrected": partial(quantize_refined, sweeps=SCORING_SWEEPS),
    "refined": partial(quantize_refined, sweeps=SCORING_SWEEPS),
}


def scoring_quantizer(name: str) -> Quantizer:
    """What eps is measured with for codes by this quantizer. Raises UsageError likewise."""
    found = quantizer(name)
    return replace(found, round=_SCORING.get(name, found.round))
