"""A quick build without calibration text: everything is judged by the weights alone.

Nothing is known of which experts a text would choose, so they count the same, and of what an
error in the weights does to the output, so eps is the error of the weights itself,

    eps_ij = ||W_i - Q_ij||_F over gate, up and down of expert i at j bits.

Attention statistics are not there either: no pruning threshold is learned. ODP with the threshold
0 finds no ratio w1/w0 below it and skips nothing.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from compress.allocation import LayerScores
from compress.quantizers import Quantizer, quantizer
from compress.quantizers.hessian import Hessian
from engine.errors import UsageError

DATA_FREE_QUANTIZERS = ("rtn", "hqq", "minmax")
"""Those that look at nothing of a Hessian but its diagonal. On the demo at 2 bits everywhere, rtn,
which searches its grid, has perplexity 1.80, hqq 3.88 (16-bit: 1.71, GPTQ with text: 1.74)."""

CALIBRATION = "none"
"""What a data-free recipe says of its calibration text."""

NOTES = (
    "no calibration text: errors are those of the weights, all experts count the same",
    "no pruning threshold was learned: ODP skips nothing",
)
"""What the manifest of a data-free build says."""

ODP_THRESHOLD = 0.0
ODP_QUANTILE = 0.0


def even_hessian(width: int, device: torch.device | str = "cpu") -> Hessian:
    """What a data-free quantizer is given: all ``width`` inputs count the same.

    Only its diagonal means anything. It is one number, whatever the width.
    """
    return Hessian(torch.ones((), device=device).expand(width, width))


def data_free_quantizer(name: str) -> Quantizer:
    """The quantizer of this name. Raises UsageError for one that needs calibration text."""
    found = quantizer(name)
    if name not in DATA_FREE_QUANTIZERS:
        raise UsageError(
            f"--quantizer {name} needs calibration text: give one by --text, or choose "
            f"one of {', '.join(DATA_FREE_QUANTIZERS)}"
        )
    return found


def data_free_scores(
    experts: Iterable[tuple[Tensor, Tensor]],
    quantize: Quantizer,
    group_size: int,
    widths: Sequence[int],
) -> LayerScores:
    """Score the experts of one layer, each (gate above up [2 I, H], down [H, I]) float32.

    They are asked for one after the other, and one is held at a time. ``quantize`` is one of
    `data_free_quantizer`. The scores have no trace_errors and no stream_norm, which need
    activations: they are for programs of one layer.
    """
    errors = tuple(_errors(expert, quantize, group_size, widths) for expert in experts)
    even = (1 / len(errors),) * len(errors)
    return LayerScores(frequency=even, routing_weight=even, errors=errors, widths=tuple(widths))


def _errors(
    matrices: Sequence[Tensor], quantize: Quantizer, group_size: int, widths: Sequence[int]
) -> tuple[float, ...]:
    """eps of one expert at each width."""
    squares = [0.0] * len(widths)
    for weights in matrices:
        hessian = even_hessian(weights.shape[1], weights.device)
        for j, bits in enumerate(widths):
            (codes,) = quantize(weights, hessian, (bits,), group_size)
            change = codes.dequantize().sub_(weights)
            squares[j] += float(torch.linalg.vector_norm(change, dtype=torch.float64)) ** 2
    return tuple(map(math.sqrt, squares))
