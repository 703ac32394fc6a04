"""One packed matrix as the state of an `HQQLinear` of hqq 0.2.8, and back: the same numbers.

hqq computes W = (q - zero) * scale too. With axis 1 it looks at a matrix [O, I] as its groups,
[O * G, g], one below the other, and packs the rows of the first half, quarter, ... of them into
the high bits of a word and those of the last into the low bits:

    8, 4, 2, 1 bits    1, 2, 4, 8 rows to a byte
    3 bits             10 rows to an int32, the rows padded to a multiple of 10

Scale and zero point are float16 [O * G, 1]; at 1 bit hqq stores the zero point, 1/2, as well. An
`HQQLinear` whose compute_dtype is float32 dequantizes to exactly what `engine.packing.dequantize`
gives; in float16 hqq rounds the difference and the product once each.

All of a state's values are tensors: hqq writes numbers as scalars, words as their characters. hqq
itself decodes its data types with eval(); nothing here evaluates what is in a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from engine.errors import CheckpointError, UsageError
from engine.layout import PackedShape
from engine.packing import PackedMatrix, centre, group_parameters, pack, unpack_codes

HQQ_VERSION = "0.2.8"


@dataclass(frozen=True)
class _Packing:
    """How hqq packs one width: its name for it, the word, and rows to a word."""

    name: str
    dtype: torch.dtype
    rows: int


_PACKINGS = {
    1: _Packing("1bit_u8", torch.uint8, 8),
    2: _Packing("2bit_u8", torch.uint8, 4),
    3: _Packing("3bit_32", torch.int32, 10),
    4: _Packing("4bit_u8", torch.uint8, 2),
    8: _Packing("8bit_u8", torch.uint8, 1),
}
_PADDED_BITS = 3
_AXIS = 1
_REQUIRED = ("W_q", "scale", "zero", "nbits", "group_size", "shape", "axis", "packing")
_NESTED = ("quant_scale", "quant_zero", "offload_meta")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def state_shapes(shape: PackedShape) -> dict[str, tuple[tuple[int, int], torch.dtype]]:
    """Shape and type of the large tensors of a matrix's state.

    Raises UsageError for a matrix whose groups do not fill hqq's words: only at 3 bits does hqq
    pad them.
    """
    packing = _PACKINGS[shape.bits]
    groups = shape.rows * shape.groups
    if groups % packing.rows and shape.bits != _PADDED_BITS:
        raise UsageError(
            f"hqq cannot hold a matrix of {shape.rows} x {shape.columns} at {shape.bits} bits: its "
            f"{groups} groups do not divide by {packing.rows}; choose another group size"
        )
    words = -(-groups // packing.rows)
    return {
        "W_q": ((words, shape.group_size), packing.dtype),
        "scale": ((groups, 1), torch.float16),
        "zero": ((groups, 1), torch.float16),
    }


def state_bytes(shape: PackedShape) -> int:
    """Bytes of the large tensors of a matrix's state. Raises UsageError as `state_shapes`."""
    return sum(prod(size) * dtype.itemsize for size, dtype in state_shapes(shape).values())


def to_hqq(matrix: PackedMatrix) -> dict[str, Tensor]:
    """The state that `HQQLinear.load_state_dict` takes. Raises UsageError as `state_shapes`."""
    shape = matrix.shape
    sizes = state_shapes(shape)
    packing = _PACKINGS[shape.bits]
    scale, zero = group_parameters(matrix)
    if zero is None:
        zero = torch.full_like(scale, centre(shape.bits))
    codes = unpack_codes(matrix).view(-1, shape.group_size)
    return {
        "W_q": _pack(codes, shape.bits, packing),
        "scale": scale.reshape(sizes["scale"][0]),
        "zero": zero.reshape(sizes["zero"][0]),
        "nbits": torch.tensor(shape.bits, dtype=torch.int32),
        "group_size": torch.tensor(shape.group_size, dtype=torch.int32),
        "shape": torch.tensor((shape.rows, shape.columns)),
        "axis": torch.tensor(_AXIS, dtype=torch.int32),
        "packing": _word(packing.name),
        "unpack_view_dtype": _word(str(packing.dtype)),
        "compute_dtype": _word(str(torch.float16)),
        # hqq's own solver had no part in the codes.
        "optimize": _flag(False),
        "channel_wise": _flag(True),
        "round_zero": _flag(False),
        "view_as_float": _flag(False),
        "quant_scale": _flag(False),
        "quant_zero": _flag(False),
        "offload_meta": _flag(False),
        "encoded_state_dict": _flag(True),
        "stores_quant_config": _flag(True),
    }


def from_hqq(state: Mapping[str, Tensor], name: str, rotated: bool = False) -> PackedMatrix:
    """The packed matrix that the state of the `HQQLinear` called ``name`` holds.

    hqq knows nothing of ``rotated`` ones: their states are of the inputs as they are turned.
    Raises CheckpointError for what is missing or does not fit together, and for what this format
    cannot hold exactly: groups along the outputs, scales quantized once more, a bias, other
    widths, scales that float16 would change, zero points where none are stored that are not the
    middle of the codes.
    """
    _refuse_other_kinds(state, name)
    shape = _shape(state, name, rotated)
    try:
        sizes = state_shapes(shape)
    except UsageError as error:
        raise CheckpointError(f"{name} is damaged: {error}") from None
    packing = _PACKINGS[shape.bits]
    words = state["W_q"]
    if _integer(state, "view_as_float", name, default=0):
        words = _view(words, packing.dtype, name)
    if (tuple(words.shape), words.dtype) != sizes["W_q"]:
        raise CheckpointError(
            f"{name}.W_q is {words.dtype} {tuple(words.shape)} instead of {sizes['W_q'][1]} "
            f"{sizes['W_q'][0]}: its words do not fit its shape; export it again"
        )
    groups = shape.rows * shape.groups
    scale = _halves(state, "scale", groups, name).view(shape.rows, shape.groups)
    zero = _halves(state, "zero", groups, name).view(shape.rows, shape.groups)
    middle = centre(shape.bits)
    if not shape.zeros and not bool((zero == middle).all()):
        kind, instead = ("rotated", "") if rotated else ("1 bit", "; quantize it to 2 bits")
        raise CheckpointError(
            f"{name} is {kind} and has zero points other than {middle}, which cannot be "
            f"kept{instead}"
        )
    codes = _unpack(words, shape.bits, packing)[:groups].reshape(shape.rows, shape.columns)
    stored = zero if shape.zeros else None
    return pack(codes, scale, stored, shape.bits, shape.group_size, rotated)


def _pack(codes: Tensor, bits: int, packing: _Packing) -> Tensor:
    """uint8 codes [N, g] to words [ceil(N / rows), g]."""
    words = -(-len(codes) // packing.rows)
    padded = torch.zeros(packing.rows * words, codes.shape[1], dtype=torch.uint8)
    padded[: len(codes)] = codes
    out = torch.zeros(words, codes.shape[1], dtype=packing.dtype)
    for part in padded.view(packing.rows, words, -1):  # the first in the highest bits
        out = (out << bits) | part.to(packing.dtype)
    return out


def _unpack(words: Tensor, bits: int, packing: _Packing) -> Tensor:
    """Words [N, g] to uint8 codes [N * rows, g], padding included."""
    shifts = range((packing.rows - 1) * bits, -1, -bits)
    top = (1 << bits) - 1
    return torch.cat([((words >> shift) & top).to(torch.uint8) for shift in shifts])


def _refuse_other_kinds(state: Mapping[str, Tensor], name: str) -> None:
    if "bias" in state:
        raise CheckpointError(f"{name} has a bias, which no projection of a Mixtral has")
    nested = [key for key in _NESTED if _integer(state, key, name, default=0)]
    if nested or "scale_q" in state or "zero_q" in state or "zero_scale" in state:
        raise CheckpointError(
            f"{name} has its scales or zero points quantized or moved away; quantize it with hqq's "
            "quant_zero, quant_scale and offload_meta off"
        )
    if missing := [key for key in _REQUIRED if key not in state]:
        raise CheckpointError(f"{name} is no whole HQQLinear: it has no {', '.join(missing)}")
    if (axis := _integer(state, "axis", name)) != _AXIS:
        raise CheckpointError(
            f"{name} has its groups along axis {axis}; quantize it with hqq's axis={_AXIS}"
        )


def _shape(state: Mapping[str, Tensor], name: str, rotated: bool) -> PackedShape:
    bits = _integer(state, "nbits", name)
    packing = _PACKINGS.get(bits)
    if packing is None:
        raise CheckpointError(
            f"{name} has {bits} bits; only {', '.join(map(str, _PACKINGS))} can be imported"
        )
    if (found := _text(state["packing"])) != packing.name:
        raise CheckpointError(f"{name} is packed as {found!r} instead of {packing.name!r}")
    sides = state["shape"]
    if sides.dtype not in (torch.int64, torch.int32) or sides.shape != (2,) or int(sides.min()) < 1:
        raise CheckpointError(f"{name}.shape is not the two sides of a matrix; export it again")
    rows, columns = sides.tolist()
    try:
        return PackedShape(rows, columns, bits, _integer(state, "group_size", name), rotated)
    except UsageError as error:
        raise CheckpointError(f"{name} cannot be imported: {error}") from None


def _integer(state: Mapping[str, Tensor], key: str, name: str, default: int | None = None) -> int:
    if default is not None and key not in state:
        return default
    value = state[key]
    if value.numel() != 1 or value.is_floating_point() or value.is_complex():
        raise CheckpointError(f"{name}.{key} is not a whole number; export it again")
    return int(value)


def _halves(state: Mapping[str, Tensor], key: str, groups: int, name: str) -> Tensor:
    """Scales or zero points, float16 [groups], if that is what they are."""
    values = state[key]
    if values.numel() != groups or values.dtype not in _FLOATS:
        raise CheckpointError(
            f"{name}.{key} is {values.dtype} {tuple(values.shape)} instead of one float16 for each "
            f"of {groups} groups; export it again"
        )
    halves = values.half()
    if not (bool(halves.isfinite().all()) and torch.equal(halves.to(values.dtype), values)):
        raise CheckpointError(
            f"{name}.{key} holds numbers that float16 would change; quantize it with hqq's "
            "compute_dtype=torch.float16"
        )
    return halves.flatten()


def _view(words: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Words that were stored as if they were floating-point numbers."""
    try:
        return words.view(dtype)
    except RuntimeError:
        raise CheckpointError(f"{name}.W_q is no float view of {dtype}; export it again") from None


def _text(characters: Tensor) -> str:
    """A word that hqq stored as its characters; what is none reads as an empty one."""
    if characters.dtype != torch.uint8 or characters.numel() > 32:
        return ""
    return bytes(characters.flatten().tolist()).decode("latin-1")


def _word(text: str) -> Tensor:
    return torch.tensor(list(text.encode("ascii")), dtype=torch.uint8)


def _flag(value: bool) -> Tensor:
    return torch.tensor(int(value), dtype=torch.uint8)
