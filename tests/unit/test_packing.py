import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.errors import UsageError
from engine.layout import TILE_ROWS
from engine.packing import PackedMatrix, dequantize, pack, unpack_codes

WIDTHS = (1, 2, 3, 4, 8)


def random_packed(
    rows: int, columns: int, bits: int, group_size: int, seed: int = 0, rotated: bool = False
) -> tuple[PackedMatrix, Tensor, Tensor, Tensor | None]:
    """A packed matrix and the codes, scales and zero points [O, G] it was made from."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 1 << bits, (rows, columns), generator=draw, dtype=torch.uint8)
    scale = torch.rand(rows, columns // group_size, generator=draw) * 0.1 + 0.01
    zero = torch.rand(rows, columns // group_size, generator=draw) * ((1 << bits) - 1)
    stored_zero = None if bits == 1 or rotated else zero
    matrix = pack(codes, scale, stored_zero, bits, group_size, rotated)
    return matrix, codes, scale, stored_zero


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70),
    groups=st.integers(1, 3),
    bits=st.sampled_from(WIDTHS),
    group_size=st.sampled_from((32, 64)),
    seed=st.integers(0, 1000),
)
def test_unpacking_inverts_packing(
    rows: int, groups: int, bits: int, group_size: int, seed: int
) -> None:
    matrix, codes, _, _ = random_packed(rows, groups * group_size, bits, group_size, seed)
    assert torch.equal(unpack_codes(matrix), codes)


@pytest.mark.parametrize("bits", WIDTHS)
def test_dequantize_is_the_formula_in_float64(bits: int) -> None:
    matrix, codes, scale, zero = random_packed(45, 128, bits, 64)
    per_input_scale = scale.half().double().repeat_interleave(64, dim=1)
    if zero is None:
        per_input_zero = torch.tensor(0.5, dtype=torch.float64)
    else:
        per_input_zero = zero.half().double().repeat_interleave(64, dim=1)
    expected = (codes.double() - per_input_zero) * per_input_scale
    torch.testing.assert_close(dequantize(matrix).double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_bit_lies_where_the_layout_says(bits: int) -> None:
    """Sets one code at a time and looks for it in the words by the documented formula."""
    rows, columns, row, column = 64, 64, 37, 45
    top = (1 << bits) - 1
    codes = torch.zeros(rows, columns, dtype=torch.uint8)
    codes[row, column] = top
    ones = torch.ones(rows, 1)
    words = pack(codes, ones, None if bits == 1 else ones, bits, 64).codes
    expected = torch.zeros_like(words)
    start = 0
    for width in {1: (1,), 2: (2,), 3: (2, 1), 4: (2, 2), 8: (2, 2, 2, 2)}[bits]:
        words_per_tile = columns * width // 32
        word = column * width // 32
        index = start + ((row // TILE_ROWS) * words_per_tile + word) * TILE_ROWS + row % TILE_ROWS
        field = ((1 << width) - 1) << (column * width % 32)
        expected[index] = torch.tensor(field, dtype=torch.int64).to(torch.int32)
        start += 2 * words_per_tile * TILE_ROWS
    assert torch.equal(words, expected)


@pytest.mark.parametrize("bits", WIDTHS)
def test_stored_sizes_are_the_ones_the_planner_counts(bits: int) -> None:
    matrix, *_ = random_packed(33, 64, bits, 32)
    stored = matrix.codes.nbytes + matrix.scales.nbytes + matrix.zeros.nbytes
    assert stored == matrix.shape.total_bytes
    assert matrix.codes.nbytes == 64 * 64 * bits // 8  # rows padded to 64, no other slack


def test_refuses_what_it_cannot_hold() -> None:
    codes = torch.full((32, 64), 4, dtype=torch.uint8)
    scale = torch.ones(32, 1)
    with pytest.raises(UsageError, match="does not fit into 2 bits"):
        pack(codes, scale, scale, 2, 64)
    with pytest.raises(UsageError, match="exactly at 2 bits and more"):
        pack(codes.clamp(max=1), scale, scale, 1, 64)
    with pytest.raises(UsageError, match="do not divide into groups"):
        pack(codes, scale, scale, 3, 96)
