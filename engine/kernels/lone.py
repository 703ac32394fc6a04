"""The product of a lone token with a packed matrix, by the tables of the compiled step."""

from functools import cache

import numpy as np

from engine.kernels import step_table as at
from engine.kernels.loops import Floats, Ints
from engine.layout import TILE_ROWS, PackedShape
from engine.packing import PackedArrays

_FLOAT = 4  # bytes


class LoneProduct:
    """out [1, O] = x [1, I] times the packed matrix at ``slot``, some of its tiles at a time."""

    def __init__(
        self, x: Floats, packed: PackedArrays, slot: Ints, shape: PackedShape, out: Floats
    ) -> None:
        self._kept = x, packed, out
        codes, scales, zeros = (array.ctypes.data for array in packed)
        first_zero = zeros + 2 * slot[3] if slot[3] >= 0 else 0
        self._linear = np.array(
            (
                at.PACKED_WEIGHTS,
                *(shape.rows, shape.columns, shape.bits, shape.group_size),
                *(codes + 4 * slot[1], scales + 2 * slot[2], first_zero),
            )
        )
        self._places = _places(max(at.COLUMN_BLOCK, shape.group_size))
        self._addresses = x.ctypes.data, out.ctypes.data

    def run(self, first: int, last: int) -> None:
        """Row tiles ``first`` to ``last``."""
        from engine.kernels.step_loops import multiply

        places, (x, out) = self._places, self._addresses
        scratch = np.empty(int(places[at.PRIVATE_BYTES]) // _FLOAT, np.float32)
        multiply(self._linear, places, scratch.ctypes.data, x, first, last, out)


@cache
def _places(block: int) -> Ints:
    """Where the sums and tables of ``block`` inputs and the outputs of some tiles lie."""
    places = np.zeros(at.MODEL_FIELDS, np.int64)
    sizes = {at.SUMS: block, at.PAIRS: 8 * block, at.QUADS: 4 * block}
    sizes[at.RESULTS] = at.TILES * TILE_ROWS
    for field, floats in sizes.items():
        places[field] = places[at.PRIVATE_BYTES]
        places[at.PRIVATE_BYTES] += floats * _FLOAT
    return places
