"""What a compression will take before it starts: disk, memory and work. Free of torch.

The formulas are explained in docs/compressing.md; benchmarks/compress_layer.py compares them with
what is measured.
"""

import math
from dataclasses import dataclass
from typing import Literal

from compress.progress import Stage
from compress.rounding_memory import quantizer_bytes
from engine import budget
from engine.config import ModelConfig
from engine.manifest import FULL_BITS, RestBits

FLOAT32, HALF = 4, 2

FLOAT32_STREAM_BYTES = 2**29
"""A calibration stream up to this size is kept in float32, a larger one in bfloat16: what the
original computes in, and half the memory and the disk."""

CHUNK = 8192
"""Tokens whose activations inside an expert are in memory at once, in a narrow model."""

CHUNK_ELEMENTS = 2**26
"""Elements of gate's and up's outputs in memory at once, which makes it fewer in a wide one: 2340
tokens of Mixtral 8x7B."""

TOKENS_PER_INPUT = 2
"""An expert's Hessian counts as well estimated from this many tokens per input on."""

FEWEST_OTHERS = 1024
"""Tokens of other experts, at least, that a Hessian is shrunk with; otherwise as many as its own.
More would cost time in proportion, and say little more about the layer."""

COMPARED_TOKENS = 8192
"""Of the calibration text, on which the second of two passes compares the layers with the
original's: enough to tell their distance, and of no account beside the rounding."""

SHARD_BYTES = 5 * 10**9
"""The size that transformers cuts shards to, at most, unless told otherwise."""

NETWORK_BYTES_PER_SECOND = 100e6 / 8
"""What hours of downloading are said for: 100 Mbit/s."""

ROOM = 0.9
"""Shards stay between two passes where that leaves a tenth of the free disk alone: it is not ours
alone, and what it costs otherwise is a second download, not the job."""

Stay = Literal["streamed", "held", "kept"]
"""How long a downloaded shard is on the disk: while a pass needs it, until the last one has, or for
good."""


@dataclass(frozen=True)
class Download:
    """The shards of a source: bytes of all, and of the largest; 0 where they are here already."""

    total: int = 0
    largest: int = 0

    def beside(self, result: int, stay: Stay) -> int:
        """Bytes of shards and result at the peak. Shards that are held go behind the last pass, so
        that most are gone before most of the result is there."""
        two = min(2 * self.largest, self.total)
        if stay == "kept":
            return self.total + result
        if stay == "streamed" or not self.total:
            return two + result
        return max(two + result, self.total + result * two // self.total)


def stream_bytes(tokens: int, width: int) -> int:
    """One calibration stream of so many tokens of a hidden size, as it is kept."""
    elements = tokens * width
    is_large = elements * FLOAT32 > FLOAT32_STREAM_BYTES
    return elements * (HALF if is_large else FLOAT32)


def chunk_of(inner: int) -> int:
    """Tokens of an expert of this inner width whose activations are in memory at once."""
    return max(1, min(CHUNK, CHUNK_ELEMENTS // (2 * inner)))


def compared_windows(samples: int, window: int) -> int:
    """Of ``samples`` windows of so many tokens, those that the second of two passes compares."""
    return min(samples, max(1, COMPARED_TOKENS // max(1, window)))


def others_for(routed: int, width: int, tokens: int) -> int:
    """Tokens of other experts that a Hessian over ``width`` inputs is shrunk with, of ``tokens``
    in all of which ``routed`` are the expert's own."""
    missing = TOKENS_PER_INPUT * width - routed
    return max(0, min(missing, max(routed, FEWEST_OTHERS), tokens))


def expert_bytes(config: ModelConfig, nominal_bits: float, group_size: int, rotated: bool) -> int:
    """What the experts of all layers take at this mean width."""
    widths = budget.spread_bits(nominal_bits, config.num_experts)
    return config.num_layers * budget.expert_bytes(config, widths, group_size, rotated)


def disk_bytes(
    config: ModelConfig,
    experts: int,
    group_size: int,
    tokens: int,
    download: Download,
    stay: Stay,
    rest: RestBits = budget.AS_IT_IS,
) -> int:
    """What a job needs on the disk at its peak: the result, with ``experts`` bytes of experts, the
    shards of ``download`` that are there beside it, and the calibration streams in two
    generations, one while the next is written."""
    result = budget.dense_bytes(config, group_size, "cuda", rest) + experts
    ends = 2 * config.vocab_size * config.hidden_size * budget.STORED_BYTES
    streams = 2 * 2 * stream_bytes(tokens, config.hidden_size)
    return download.beside(result, stay) + ends + streams


def missing_bytes(needed: int, free: int) -> int:
    """What must be free beside the ``free`` bytes of a disk before shards stay on it between two
    passes, ``needed`` bytes in all; 0 where they do."""
    return max(0, math.ceil(needed / ROOM) - free)


STREAMS = 3
"""Streams in memory at once: the full-precision one, the quantized one, and the sum of the experts'
outputs that the stream in work is waiting for."""


PROGRAM_BYTES = 600 * 10**6
"""Python, torch and numba in host memory before any work."""


def work_bytes(
    config: ModelConfig,
    widths: int,
    head_bits: int = FULL_BITS,
    packed: int = 0,
    element: int = HALF,
) -> int:
    """Peak of the work on one expert, beside the streams, on the device that computes: while it is
    scored at ``widths`` widths, or quantized at one beside ``packed`` bytes of experts that wait
    for their layer's file. ``element``: bytes of an expert's weight, as it computes. An expert
    that every token passes is wider than those, and all of it is in float32 the while. Where the
    head is rounded, too, at least the peak of that, which is less but for narrow experts and a
    large vocabulary."""
    inner, shared = config.intermediate_size, config.traits.shared_size
    beside = FLOAT32 * config.shared_weights
    scoring = _expert_bytes(config, inner, widths, element) + beside
    quantizing = _expert_bytes(config, max(inner, shared), 1, element) + beside + packed
    heading = 0 if head_bits == FULL_BITS else _head_bytes(config)
    return max(scoring, quantizing, heading)


def packed_bytes(config: ModelConfig) -> int:
    """The packed experts of a layer, which wait for its file in host memory: counted at 3 bits,
    with the scales and zero points of groups of 128."""
    return config.num_experts * config.expert_weights * 13 // 32


def _expert_bytes(config: ModelConfig, inner: int, widths: int, element: int) -> int:
    """Rounding one expert of this inner width at so many widths: while ``down`` is rounded, with
    the Hessian and its factor; while the last of the rounded experts is made of its codes, gate
    and up being turned back; or while they are compared with the exact one. Of the weights that
    are turned before they are rounded those that are not are gone by then."""
    hidden = config.hidden_size
    matrix = hidden * inner
    expert = 3 * matrix * element
    activations = chunk_of(inner) * (2 * inner * element + inner * (element + FLOAT32))
    codes = 3 * matrix * widths
    at_once = max(1, widths)  # scoring may take none
    half = element == HALF
    beside = quantizer_bytes(hidden, inner, at_once, budget.GROUP_SIZE, half_products=half)
    rounding = expert + codes + FLOAT32 * matrix + FLOAT32 * inner**2 + beside
    # What is made in float32 is an expert already, or becomes one beside it.
    made = 2 * 2 * matrix * FLOAT32 + (expert if half else 0)
    making = at_once * expert + codes + made
    comparing = (1 + widths) * expert + activations
    return max(rounding, making, comparing)


def _head_bytes(config: ModelConfig) -> int:
    """The head as stored, in float32 and as codes, one byte each; its Hessian; and the quantizer's
    own."""
    hidden, rows = config.hidden_size, config.vocab_size
    beside = quantizer_bytes(rows, hidden, 1, budget.GROUP_SIZE, half_products=True)
    return rows * hidden * (HALF + FLOAT32 + 1) + FLOAT32 * hidden**2 + beside


def device_bytes(config: ModelConfig, tokens: int, widths: int = 3) -> int:
    """Peak on a GPU that computes, the streams there too."""
    return work_bytes(config, widths) + STREAMS * stream_bytes(tokens, config.hidden_size)


def host_bytes(
    config: ModelConfig,
    tokens: int,
    kind: budget.DeviceKind,
    widths: int = 3,
    head_bits: int = FULL_BITS,
    element: int = HALF,
) -> int:
    """Peak of host memory: the streams, the packed experts of a layer and, on a CPU, the work with
    ``element`` bytes for an expert's weight."""
    streams = STREAMS * stream_bytes(tokens, config.hidden_size)
    packed = packed_bytes(config)
    if kind == "cpu":
        return PROGRAM_BYTES + streams + work_bytes(config, widths, head_bits, packed, element)
    expert = 3 * config.hidden_size * config.intermediate_size * HALF
    return PROGRAM_BYTES + streams + max(2 * expert, 2 * packed)


@dataclass(frozen=True)
class Work:
    """Floating-point operations of one layer by kind; the kinds run at different speeds.

    ``forward``: products with weights; ``hessian``: sums of x x^T; ``factor``: Cholesky;
    ``rounding``: products that carry errors on; ``weights``: weights rounded, once a width.
    """

    forward: float = 0.0
    hessian: float = 0.0
    factor: float = 0.0
    rounding: float = 0.0
    weights: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.forward + other.forward,
            self.hessian + other.hessian,
            self.factor + other.factor,
            self.rounding + other.rounding,
            self.weights + other.weights,
        )

    @property
    def operations(self) -> float:
        """All of them."""
        return self.forward + self.hessian + self.factor + self.rounding

    def seconds(self, speed: "Work") -> float:
        """How long this takes at ``speed``, operations a second of each kind."""
        return (
            self.forward / speed.forward
            + self.hessian / speed.hessian
            + self.factor / speed.factor
            + self.rounding / speed.rounding
            + self.weights / speed.weights
        )

    def times(self, factor: float) -> "Work":
        """So many times this."""
        return Work(
            factor * self.forward,
            factor * self.hessian,
            factor * self.factor,
            factor * self.rounding,
            factor * self.weights,
        )


def layer_work(
    config: ModelConfig,
    samples: int,
    window: int,
    widths: int,
    sweeps: tuple[int, int],
    passes: int,
) -> dict[Stage, Work]:
    """What one layer costs: its attention, then scoring at ``widths`` widths, then quantizing, in
    the second of two ``passes`` beside the original's layer for some of the tokens.

    ``sweeps`` as of `compress.quantizer_names.sweeps_of`. Tokens are taken to spread evenly over
    the experts.
    """
    tokens = samples * window
    attention = _attention(config, tokens, window)
    hidden = config.hidden_size
    projections = config.attention_weights
    quantized_attention = Work(
        hessian=2 * 2 * tokens * hidden**2,
        factor=2 * hidden**3 / 3,
        rounding=_rounding(projections // hidden, hidden, sweeps[1]),
        weights=projections,
    )
    score = _expert(config, tokens, widths, sweeps[0]) if widths else Work()
    exact = _forward(config, tokens, 1 + widths)
    some = compared_windows(samples, window) * window
    again = _attention(config, some, window) + _forward(config, some, 1)
    return {
        "calibrate": attention,
        "score": score.times(config.num_experts) + exact,
        "quantize": (
            attention.times(3)
            + again.times(passes - 1)
            + quantized_attention
            + _expert(config, tokens, 1, sweeps[1]).times(config.num_experts)
            + _shared(config, tokens, sweeps[1])
            + _forward(config, tokens, 1)
        ),
    }


def _attention(config: ModelConfig, tokens: int, window: int) -> Work:
    heads = config.num_heads * config.head_dim
    maps = 2 * 2 * tokens * window * heads / 2  # causal: half of the map
    return Work(forward=2 * tokens * config.attention_weights + maps)


def _forward(config: ModelConfig, tokens: int, times: int) -> Work:
    """All tokens through their experts, and once through a shared one."""
    chosen = times * config.top_k * config.expert_weights
    return Work(forward=2 * tokens * (chosen + config.shared_weights))


def _shared(config: ModelConfig, tokens: int, sweeps: int) -> Work:
    """Hessians, factors and codes of an expert that every token passes."""
    hidden, inner = config.hidden_size, config.traits.shared_size
    if not inner:
        return Work()
    return Work(
        forward=2 * tokens * 2 * hidden * inner,
        hessian=2 * tokens * (hidden**2 + inner**2),
        factor=(hidden**3 + inner**3) / 3,
        rounding=_rounding(2 * inner, hidden, sweeps) + _rounding(hidden, inner, sweeps),
        weights=config.shared_weights,
    )


def _expert(config: ModelConfig, tokens: int, widths: int, sweeps: int) -> Work:
    """Hessians, factors and codes of one expert."""
    hidden, inner = config.hidden_size, config.intermediate_size
    routed = tokens * config.top_k // config.num_experts
    outer_rows = routed + others_for(routed, hidden, tokens)
    inner_rows = routed + others_for(routed, inner, tokens)
    return Work(
        forward=2 * inner_rows * 2 * hidden * inner,
        hessian=2 * outer_rows * hidden**2 + 2 * inner_rows * inner**2,
        factor=(hidden**3 + inner**3) / 3,
        rounding=widths * (_rounding(2 * inner, hidden, sweeps) + _rounding(hidden, inner, sweeps)),
        weights=widths * config.expert_weights,
    )


def _rounding(rows: int, columns: int, sweeps: int) -> float:
    """Each group meets the errors of those before it; in a sweep, those of all others."""
    return rows * columns**2 * (1 + 2 * sweeps)


TYPICAL_SPEED = Work(forward=300e9, hessian=450e9, factor=90e9, rounding=600e9, weights=30e6)
"""Operations a second on two cores of an AMD EPYC (Zen 5), as benchmarks/results/gptq.md and
compress_layer.md have them: what the wizard foretells, and the proportions of a progress bar, where
nobody has measured."""
