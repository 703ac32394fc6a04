"""Explicit SIMD for the one hot loop of rounding: a tile's rows are one LLVM vector.

A plain loop over the rows checked for aliasing at every step of the loop around it: eight times
slower. After a change here, touch `loops.py` too: numba's cache on disk looks only at the file of
the function that it compiled.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 64
"""Rows of a tile: four registers with AVX-512, so that additions need not wait for each other."""

_FUSED = ("contract",)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_I32 = ir.IntType(32)


@intrinsic
def add_combination(
    typing_context: Any,
    coefficients: Any,
    start: Any,
    rows: Any,
    first: Any,
    count: Any,
    out: Any,
    place: Any,
) -> Any:
    """out[place, :] += sum over n < ``count`` of coefficients[start + n] * rows[first + n, :].

    ``start`` counts the elements of a float32 array; rows and out are float32 [g, LANES].
    """
    index = types.intp
    signature = types.void(coefficients, index, rows, index, index, out, index)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        coefficients, rows, out = (
            context.make_array(signature.args[at])(context, builder, args[at]).data
            for at in (0, 2, 5)
        )
        start, first, count, place = args[1], args[3], args[4], args[6]
        target = _row(builder, out, place)
        total = cgutils.alloca_once(builder, _FLOATS)
        builder.store(builder.load(target, align=4), total)
        with cgutils.for_range(builder, count) as loop:
            factor = builder.load(builder.gep(coefficients, [builder.add(start, loop.index)]))
            row = builder.load(_row(builder, rows, builder.add(first, loop.index)), align=4)
            term = builder.fmul(row, _splat(builder, factor), flags=_FUSED)
            builder.store(builder.fadd(builder.load(total), term, flags=_FUSED), total)
        builder.store(builder.load(total), target, align=4)
        return context.get_dummy_value()

    return signature, generate


def _row(builder: Any, data: Any, row: Any) -> Any:
    """Where a row of a tile begins."""
    at = builder.mul(row, ir.Constant(ir.IntType(64), LANES))
    return builder.bitcast(builder.gep(data, [at]), _FLOATS.as_pointer())


def _splat(builder: Any, scalar: Any) -> Any:
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), scalar, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(_FLOATS, ir.Undefined), zeros)
