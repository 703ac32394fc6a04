"""Where every code, scale and zero point of a packed matrix lies: pure arithmetic, no tensors.

A matrix [O, I] is W = (q - zero) * scale, one scale and zero point per group of inputs.
Codes are stored as bit-planes of 1 or 2 bits in 32-bit words. A word holds 32 (one-bit plane) or
16 (two-bit plane) consecutive inputs of ONE row, and 32 rows lie side by side:

    plane  int32   [O/32, I * plane_bits / 32, 32]     (row tile, word along the inputs, row)
    scale  float16 [O/32, I / group, 32]
    zero   float16 [O/32, I / group, 32]               absent at 1 bit, where it is always 1/2

so one SIMD or GPU lane owns one row and no sum ever crosses lanes. A rotated matrix multiplies
inputs that were turned group by group (`engine.hadamard`); its zero point is the middle of the
codes, (2^bits - 1) / 2, at every width, and never stored. Planes follow each other from
the low bits to the high ones. Rows are padded to a multiple of 32; words never straddle a group.
The planner and the engine both count bytes with this file.
"""

from dataclasses import dataclass
from typing import Literal

from engine.errors import UsageError

TILE_ROWS = 32
WORD_BITS = 32
SCALE_BYTES = 2
EXPERT_WIDTHS = (1, 2, 3)
ROTATED_GROUPS = (32, 64, 128)
"""Sizes of groups whose inputs can be turned."""

Matrix = Literal["gate", "up", "down"]
MATRICES: tuple[Matrix, ...] = ("gate", "up", "down")

_PLANES: dict[int, tuple[int, ...]] = {
    1: (1,),
    2: (2,),
    3: (2, 1),
    4: (2, 2),
    8: (2, 2, 2, 2),
}


def planes(bits: int) -> tuple[int, ...]:
    """The widths in bits of the planes that make up a code of ``bits`` bits, low bits first."""
    if bits not in _PLANES:
        raise UsageError(f"{bits} bits is not a packed width; use one of {sorted(_PLANES)}")
    return _PLANES[bits]


@dataclass(frozen=True)
class PackedShape:
    """Size of one packed matrix: ``rows`` outputs, ``columns`` inputs, ``bits`` per code.

    Raises UsageError when the columns do not divide into groups, the groups into words, or groups
    of this size cannot be rotated.
    """

    rows: int
    columns: int
    bits: int
    group_size: int
    rotated: bool = False

    def __post_init__(self) -> None:
        planes(self.bits)
        if self.rotated and self.group_size not in ROTATED_GROUPS:
            raise UsageError(f"groups of {self.group_size} cannot be rotated; use {ROTATED_GROUPS}")
        if self.group_size < 1 or self.group_size % WORD_BITS or self.columns % self.group_size:
            raise UsageError(
                f"{self.columns} inputs do not divide into groups of {self.group_size} "
                f"(a multiple of {WORD_BITS}); choose another --group-size"
            )

    @property
    def tiles(self) -> int:
        """Row tiles, the last one padded."""
        return -(-self.rows // TILE_ROWS)

    @property
    def groups(self) -> int:
        """Groups along the inputs."""
        return self.columns // self.group_size

    @property
    def code_words(self) -> int:
        """32-bit words of codes."""
        return self.tiles * self.columns * self.bits

    @property
    def scales(self) -> int:
        """Number of scales."""
        return self.tiles * self.groups * TILE_ROWS

    @property
    def zeros(self) -> int:
        """Number of stored zero points; none at 1 bit or where the matrix is rotated."""
        return 0 if self.bits == 1 or self.rotated else self.scales

    @property
    def code_bytes(self) -> int:
        """Bytes of codes."""
        return self.code_words * (WORD_BITS // 8)

    @property
    def metadata_bytes(self) -> int:
        """Bytes of scales and zero points."""
        return (self.scales + self.zeros) * SCALE_BYTES

    @property
    def total_bytes(self) -> int:
        """Bytes of codes and metadata."""
        return self.code_bytes + self.metadata_bytes


@dataclass(frozen=True)
class Slot:
    """Where one matrix starts in its layer's arena, in elements of each buffer."""

    shape: PackedShape
    codes: int
    scales: int
    zeros: int


@dataclass(frozen=True)
class ArenaLayout:
    """All experts of one layer in three flat buffers: codes (int32), scales and zeros (float16).

    Experts lie in order, each as gate, up, down; ``slots[expert][matrix]`` finds one.
    """

    slots: tuple[tuple[Slot, Slot, Slot], ...]
    code_words: int
    scales: int
    zeros: int

    @property
    def code_bytes(self) -> int:
        """Bytes of all codes."""
        return self.code_words * (WORD_BITS // 8)

    @property
    def metadata_bytes(self) -> int:
        """Bytes of all scales and zero points."""
        return (self.scales + self.zeros) * SCALE_BYTES

    @property
    def group_size(self) -> int:
        """Weights that share a scale."""
        return self.slots[0][0].shape.group_size

    @property
    def rotated(self) -> bool:
        """Whether the experts' matrices are."""
        return self.slots[0][0].shape.rotated

    @property
    def widest(self) -> int:
        """Bits of the widest matrix."""
        return max(slot.shape.bits for expert in self.slots for slot in expert)

    def expert_bytes(self, expert: int) -> int:
        """Bytes that running one expert for one token reads."""
        return sum(slot.shape.total_bytes for slot in self.slots[expert])


def arena_layout(
    expert_bits: tuple[int, ...],
    hidden_size: int,
    intermediate_size: int,
    group_size: int,
    rotated: bool = False,
) -> ArenaLayout:
    """Lay out the experts of one layer, expert k at ``expert_bits[k]`` bits."""
    slots = []
    codes = scales = zeros = 0
    for bits in expert_bits:
        expert = []
        for matrix in MATRICES:
            rows, columns = matrix_shape(matrix, hidden_size, intermediate_size)
            shape = PackedShape(rows, columns, bits, group_size, rotated)
            expert.append(Slot(shape, codes, scales, zeros))
            codes += shape.code_words
            scales += shape.scales
            zeros += shape.zeros
        slots.append((expert[0], expert[1], expert[2]))
    return ArenaLayout(tuple(slots), codes, scales, zeros)


def matrix_shape(matrix: Matrix, hidden_size: int, intermediate_size: int) -> tuple[int, int]:
    """(outputs, inputs) of one matrix of an expert."""
    if matrix == "down":
        return hidden_size, intermediate_size
    return intermediate_size, hidden_size
