"""Bytes of the packed layout, against a count of its parts one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import UsageError
from engine.layout import MATRICES, PackedShape, arena_layout, matrix_shape, planes

GROUPS = (32, 64, 128)
shapes = st.builds(
    lambda rows, groups, bits, group_size: PackedShape(rows, groups * group_size, bits, group_size),
    rows=st.integers(1, 200),
    groups=st.integers(1, 6),
    bits=st.sampled_from([1, 2, 3, 4, 8]),
    group_size=st.sampled_from(GROUPS),
)


@given(shapes)
def test_bytes_are_those_of_a_brute_force_count(shape: PackedShape) -> None:
    padded_rows = next(n for n in range(shape.rows, shape.rows + 32) if n % 32 == 0)
    code_bits = sum(
        width for width in planes(shape.bits) for _ in range(padded_rows * shape.columns)
    )
    assert shape.code_bytes * 8 == code_bits == padded_rows * shape.columns * shape.bits
    numbers = padded_rows * len(range(0, shape.columns, shape.group_size))
    stored = 1 if shape.bits == 1 else 2  # a scale, and above one bit a zero point
    assert shape.metadata_bytes == numbers * stored * 2
    assert shape.total_bytes == shape.code_bytes + shape.metadata_bytes


@given(
    st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(GROUPS),
)
def test_an_arena_is_filled_without_gap_or_overlap(
    bits: list[int], hidden_groups: int, inner_groups: int, group_size: int
) -> None:
    hidden, inner = hidden_groups * group_size, inner_groups * group_size
    layout = arena_layout(tuple(bits), hidden, inner, group_size)
    codes = scales = zeros = 0
    for expert, width in enumerate(bits):
        for slot, name in zip(layout.slots[expert], MATRICES, strict=True):
            assert (slot.codes, slot.scales, slot.zeros) == (codes, scales, zeros)
            rows, columns = matrix_shape(name, hidden, inner)
            assert slot.shape == PackedShape(rows, columns, width, group_size)
            codes += slot.shape.code_words
            scales += slot.shape.scales
            zeros += slot.shape.zeros
    assert (layout.code_words, layout.scales, layout.zeros) == (codes, scales, zeros)
    total = sum(layout.expert_bytes(expert) for expert in range(len(bits)))
    assert total == layout.code_bytes + layout.metadata_bytes


def test_three_bits_cost_exactly_three_and_one_bit_has_no_zero_points() -> None:
    three, one = PackedShape(4096, 14336, 3, 128), PackedShape(4096, 14336, 1, 128)
    assert three.code_bytes * 8 == 3 * 4096 * 14336
    assert three.total_bytes * 8 / (4096 * 14336) == 3.25
    assert one.total_bytes * 8 / (4096 * 14336) == 1.125
    assert one.zeros == 0


@pytest.mark.parametrize(
    ("columns", "bits", "group_size", "said"),
    [
        (128, 7, 64, "7 bits"),
        (128, 0, 64, "0 bits"),
        (100, 2, 64, "100 inputs"),
        (96, 2, 48, "groups of 48"),
    ],
)
def test_impossible_shapes_are_refused(columns: int, bits: int, group_size: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        PackedShape(32, columns, bits, group_size)
