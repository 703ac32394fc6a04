"""The fast Hadamard transform of `engine.hadamard` at addresses, for the compiled step."""

from typing import Any

from llvmlite import ir
from numba import types

from engine.kernels.step_memory import emitted
from engine.kernels.step_vectors import (
    FLOATS,
    LANES,
    WORDS,
    blocks,
    fused,
    integer,
    lanes,
    load,
    store,
)
from engine.layout import ROTATED_GROUPS


@emitted(types.void, types.int64, types.int64, types.int64)
def rotate(builder: Any, x: Any, count: Any, group: Any) -> None:
    """Turn ``count`` numbers in place as `engine.hadamard` does, in groups of one of its sizes."""
    for size in ROTATED_GROUPS:
        with (
            builder.if_then(builder.icmp_unsigned("==", group, integer(size))),
            blocks(builder, count, size) as loop,
        ):
            first = builder.mul(loop.index, integer(size))
            places = [builder.add(first, integer(at)) for at in range(0, size, LANES)]
            turned = _butterflies(builder, [load(builder, x, place) for place in places])
            for value, place in zip(turned, places, strict=True):
                scaled = builder.fmul(value, lanes(size**-0.5))
                store(builder, scaled, x, place)


def _butterflies(builder: Any, vectors: list[Any]) -> list[Any]:
    """The sums and differences of a fast Hadamard transform: within vectors, then between them."""
    undefined, stride = ir.Constant(FLOATS, ir.Undefined), 1
    while stride < LANES:
        swap = ir.Constant(WORDS, [lane ^ stride for lane in range(LANES)])
        signs = ir.Constant(FLOATS, [-1.0 if lane & stride else 1.0 for lane in range(LANES)])
        swapped = [builder.shuffle_vector(value, undefined, swap) for value in vectors]
        vectors = [
            fused(builder, value, signs, other)
            for value, other in zip(vectors, swapped, strict=True)
        ]
        stride *= 2
    stride = 1
    while stride < len(vectors):
        pairs = [
            (vectors[n & ~stride], vectors[n | stride], n & stride) for n in range(len(vectors))
        ]
        vectors = [builder.fsub(*two) if odd else builder.fadd(*two) for *two, odd in pairs]
        stride *= 2
    return vectors
