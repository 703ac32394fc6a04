"""Numbers at addresses, atomics and the system's own functions, for the compiled step.

Addresses are plain int64: a table of them describes any number of layers with one compiled type,
and whoever made the table keeps the memory alive. Nothing is checked.
"""

import inspect
import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

I8, I16, I32, I64, F32 = (
    ir.IntType(8),
    ir.IntType(16),
    ir.IntType(32),
    ir.IntType(64),
    ir.FloatType(),
)

_PAUSES: dict[str, tuple[str, list[ir.Constant]]] = {
    **dict.fromkeys(("x86_64", "AMD64"), ("llvm.x86.sse2.pause", [])),
    **dict.fromkeys(("aarch64", "arm64"), ("llvm.aarch64.hint", [I32(1)])),
}
"""What tells a core that it waits in a loop; elsewhere nothing does."""


def emitted(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a compiled function of fixed types of one that emits its body: emit(builder, ...)."""

    def decorate(emit: Callable[..., Any]) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = emit(builder, *args)
            return context.get_dummy_value() if result == types.void else value

        def typed(context: Any, *given: Any) -> Any:
            return result(*arguments), generate

        # numba counts the arguments on the signature, of which the first is the typing context.
        typed.__signature__ = inspect.signature(emit)  # type: ignore[attr-defined]
        typed.__name__, typed.__doc__ = emit.__name__, emit.__doc__
        return intrinsic(typed)

    return decorate


def pointer(builder: Any, address: Any, kind: ir.Type) -> Any:
    """The address as a pointer to ``kind``."""
    return builder.inttoptr(address, kind.as_pointer())


def element(builder: Any, address: Any, index: Any, kind: ir.Type) -> Any:
    """Pointer to element ``index`` of an array of ``kind`` at an address."""
    return builder.gep(pointer(builder, address, kind), [index])


@emitted(types.float32, types.int64, types.int64)
def float_at(builder: Any, address: Any, index: Any) -> Any:
    """Element ``index`` of an array of float32."""
    return builder.load(element(builder, address, index, F32))


@emitted(types.void, types.int64, types.int64, types.float32)
def put_float(builder: Any, address: Any, index: Any, value: Any) -> None:
    """Write element ``index`` of an array of float32."""
    builder.store(value, element(builder, address, index, F32))


@emitted(types.int64, types.int64, types.int64)
def int_at(builder: Any, address: Any, index: Any) -> Any:
    """Element ``index`` of an array of int64."""
    return builder.load(element(builder, address, index, I64))


@emitted(types.void, types.int64, types.int64, types.int64)
def put_int(builder: Any, address: Any, index: Any, value: Any) -> None:
    """Write element ``index`` of an array of int64."""
    builder.store(value, element(builder, address, index, I64))


@emitted(types.void, types.int64, types.int64, types.int64)
def put_byte(builder: Any, address: Any, index: Any, value: Any) -> None:
    """Write element ``index`` of an array of int8."""
    builder.store(builder.trunc(value, I8), element(builder, address, index, I8))


_HALF_BIAS = (127 - 15) << 10
"""Between the exponents of a float32 and of a float16."""


@emitted(types.float32, types.int64, types.int64)
def half_at(builder: Any, address: Any, index: Any) -> Any:
    """Element ``index`` of an array of float16 that are positive and normal numbers."""
    half = builder.zext(builder.load(element(builder, address, index, I16)), I32)
    return builder.bitcast(builder.shl(builder.add(half, I32(_HALF_BIAS)), I32(13)), F32)


@emitted(types.void, types.int64, types.int64, types.float32)
def put_half(builder: Any, address: Any, index: Any, value: Any) -> None:
    """Round a positive number that float16 holds as a normal one to it, ties to even."""
    bits = builder.bitcast(value, I32)
    odd = builder.and_(builder.lshr(bits, I32(13)), I32(1))
    rounded = builder.add(builder.add(bits, I32((1 << 12) - 1)), odd)
    half = builder.sub(builder.lshr(rounded, I32(13)), I32(_HALF_BIAS))
    builder.store(builder.trunc(half, I16), element(builder, address, index, I16))


@emitted(types.int64, types.int64)
def shared_int(builder: Any, address: Any) -> Any:
    """An int64 that other threads write; what they wrote before it is seen, too."""
    return builder.load_atomic(pointer(builder, address, I64), "acquire", 8)


@emitted(types.int64, types.int64, types.int64)
def add_shared(builder: Any, address: Any, value: Any) -> Any:
    """Add to an int64 and return what it was.

    What this thread wrote before is seen by whoever then reads the sum.
    """
    return builder.atomic_rmw("add", pointer(builder, address, I64), value, "acq_rel")


@emitted(types.boolean, types.int64, types.int64, types.int64)
def exchange_if(builder: Any, address: Any, expected: Any, value: Any) -> Any:
    """Put ``value`` where an int64 is ``expected``; whether it was."""
    place = pointer(builder, address, I64)
    return builder.extract_value(builder.cmpxchg(place, expected, value, "acq_rel", "acquire"), 1)


@emitted(types.void)
def pause(builder: Any) -> None:
    """Wait a moment in a loop."""
    if platform.machine() in _PAUSES:
        name, args = _PAUSES[platform.machine()]
        kind = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


@emitted(types.void, types.int64)
def call_at(builder: Any, address: Any) -> None:
    """Call the function int() at an address; its result is dropped."""
    builder.call(pointer(builder, address, ir.FunctionType(I32, [])), [])


@emitted(types.int64, types.int64, types.int64)
def time_now(builder: Any, address: Any, clock: Any) -> Any:
    """The time in nanoseconds by the function clock_gettime, which lies at an address."""
    seconds = cgutils.alloca_once(builder, I64, size=I64(2))
    kind = ir.FunctionType(I32, [I32, I64.as_pointer()])
    builder.call(pointer(builder, address, kind), [builder.trunc(clock, I32), seconds])
    whole, rest = (builder.load(builder.gep(seconds, [I64(place)])) for place in range(2))
    return builder.add(builder.mul(whole, I64(10**9)), rest)
