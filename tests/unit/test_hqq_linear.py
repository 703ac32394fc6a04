"""One matrix in hqq's packing: hqq itself packs, unpacks and dequantizes beside us."""

from typing import Any

import numpy as np
import pytest
import torch
from hqq.core.bitpack import BitPack
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from compress.interchange.hqq_linear import from_hqq, state_bytes, state_shapes, to_hqq
from engine.errors import CheckpointError, UsageError
from engine.layout import PackedShape
from engine.packing import PackedMatrix, dequantize, group_parameters, pack, unpack_codes

UNPACK = {
    1: BitPack.unpack_1bit_u8,
    2: BitPack.unpack_2bit_u8,
    3: BitPack.unpack_3bit_32,
    4: BitPack.unpack_4bit_u8,
    8: BitPack.unpack_8bit_u8,
}
ROWS_TO_A_WORD = {1: 8, 2: 4, 3: 1, 4: 2, 8: 1}
"""What the groups must divide by; at 3 bits hqq pads."""


def random_matrix(rows: int, groups: int, group_size: int, bits: int, seed: int) -> PackedMatrix:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 1 << bits, (rows, groups * group_size), generator=generator)
    scale = torch.rand(rows, groups, generator=generator) + 0.01
    zero = (1 << bits) * torch.rand(rows, groups, generator=generator) - 0.5
    return pack(codes.to(torch.uint8), scale, None if bits == 1 else zero, bits, group_size)


def stored(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state after a file: hqq's loader takes its argument apart."""
    return load(save({key: tensor.contiguous() for key, tensor in state.items()}))


def hqq_of(state: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> HQQLinear:
    linear = HQQLinear(None, None, compute_dtype=dtype, device="cpu")
    linear.load_state_dict(stored(state))
    return linear


def hqq_state(
    weight: Tensor, bits: int, dtype: torch.dtype = torch.float16, **changes: Any
) -> tuple[HQQLinear, dict[str, Tensor]]:
    """A layer that hqq quantized by itself, and its state as hqq saves it."""
    config = BaseQuantizeConfig(nbits=bits, **{"group_size": 64, "axis": 1, **changes})
    linear = HQQLinear.from_weights(weight, None, config, compute_dtype=dtype, device="cpu")
    return linear, stored(linear.state_dict())


matrices = st.builds(
    lambda bits, rows, groups, group_size, seed: random_matrix(
        ROWS_TO_A_WORD[bits] * rows, groups, group_size, bits, seed
    ),
    bits=st.sampled_from([1, 2, 3, 4, 8]),
    rows=st.integers(1, 37),
    groups=st.integers(1, 3),
    group_size=st.sampled_from([32, 64, 128]),
    seed=st.integers(0, 2**32),
)


@settings(max_examples=60, deadline=None)
@given(matrix=matrices)
def test_hqq_reads_the_same_codes_and_the_same_weights(matrix: PackedMatrix) -> None:
    state = to_hqq(matrix)
    shape = matrix.shape
    codes = UNPACK[shape.bits](state["W_q"]).view(-1)[: shape.rows * shape.columns]
    assert torch.equal(codes.view(shape.rows, shape.columns), unpack_codes(matrix))
    linear = hqq_of(state)
    assert torch.equal(linear.dequantize(), dequantize(matrix))
    assert (linear.out_features, linear.in_features) == (shape.rows, shape.columns)


@settings(max_examples=60, deadline=None)
@given(matrix=matrices)
def test_out_and_in_again_is_the_same_matrix(matrix: PackedMatrix) -> None:
    found = from_hqq(stored(to_hqq(matrix)), "x")
    assert found.shape == matrix.shape
    for name in ("codes", "scales", "zeros"):
        assert torch.equal(getattr(found, name), getattr(matrix, name)), name


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_float16_is_hqqs_rounding_of_the_same_numbers(bits: int) -> None:
    matrix = random_matrix(48, 2, 64, bits, seed=bits)
    scale, zero = group_parameters(matrix)
    offset = np.float16(0.5) if zero is None else zero.numpy()[..., None]
    codes = unpack_codes(matrix).numpy().reshape(48, 2, 64).astype(np.float16)
    expected = ((codes - offset) * scale.numpy()[..., None]).reshape(48, 128)
    assert expected.dtype == np.float16
    assert np.array_equal(hqq_of(to_hqq(matrix), torch.float16).dequantize().numpy(), expected)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_sizes_are_known_beforehand(bits: int) -> None:
    matrix = random_matrix(24, 3, 64, bits, seed=0)
    state = to_hqq(matrix)
    sizes = {name: (tuple(state[name].shape), state[name].dtype) for name in ("W_q", "scale")}
    assert sizes.items() <= state_shapes(matrix.shape).items()
    assert state_bytes(matrix.shape) == sum(state[key].nbytes for key in ("W_q", "scale", "zero"))


def test_the_state_has_the_keys_that_hqq_writes() -> None:
    _, expected = hqq_state(torch.randn(8, 64), 2)
    found = to_hqq(random_matrix(8, 1, 64, 2, seed=0))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape), key


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("rows", "group_size"), [(96, 64), (33, 128), (5, 64)])
@pytest.mark.parametrize("view_as_float", [False, True])
def test_what_hqq_quantized_itself_comes_in(
    bits: int, rows: int, group_size: int, view_as_float: bool
) -> None:
    weight = torch.randn(rows, 512, generator=torch.Generator().manual_seed(rows))
    linear, state = hqq_state(weight, bits, group_size=group_size, view_as_float=view_as_float)
    matrix = from_hqq(state, "x")
    assert matrix.shape == PackedShape(rows, 512, bits, group_size)
    wide = HQQLinear(None, None, compute_dtype=torch.float32, device="cpu")
    wide.load_state_dict(dict(state))
    assert torch.equal(dequantize(matrix), wide.dequantize())
    torch.testing.assert_close(dequantize(matrix).half(), linear.dequantize(), rtol=2e-3, atol=2e-3)


def test_bfloat16_scales_that_float16_can_hold_come_in_exactly() -> None:
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(1))
    _, state = hqq_state(weight, 4, torch.bfloat16)
    assert state["scale"].dtype == torch.bfloat16
    wide = HQQLinear(None, None, compute_dtype=torch.float32, device="cpu")
    wide.load_state_dict(dict(state))
    assert torch.equal(dequantize(from_hqq(state, "x")), wide.dequantize())


@pytest.mark.parametrize(
    ("bits", "changes", "dtype", "said"),
    [
        (2, {"axis": 0}, torch.float16, "groups along axis 0; .* axis=1"),
        (5, {}, torch.float16, "5 bits; only 1, 2, 3, 4, 8"),
        (1, {}, torch.float16, "zero points other than 0.5"),
        (2, {"group_size": 8}, torch.float16, "groups of 8"),
        (2, {}, torch.float32, "float16 would change"),
    ],
)
def test_what_cannot_be_kept_exactly_is_refused(
    bits: int, changes: dict[str, Any], dtype: torch.dtype, said: str
) -> None:
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(1))
    _, state = hqq_state(weight, bits, dtype, **changes)
    with pytest.raises(CheckpointError, match=said):
        from_hqq(state, "the layer")


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    state = to_hqq(random_matrix(16, 2, 64, 2, seed=0)) | changes
    return {key: tensor for key, tensor in state.items() if tensor is not None}


ONE = torch.tensor(1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"W_q": None}, "it has no W_q"),
        ({"scale": None, "axis": None}, "it has no scale, axis"),
        ({"bias": torch.zeros(16)}, "has a bias"),
        ({"quant_zero": ONE}, "scales or zero points quantized"),
        ({"zero": None, "zero_q": torch.zeros(4)}, "scales or zero points quantized"),
        ({"offload_meta": ONE}, "quantized or moved away"),
        ({"nbits": torch.tensor(2.0)}, "nbits is not a whole number"),
        ({"nbits": torch.tensor([2, 2])}, "nbits is not a whole number"),
        ({"nbits": torch.tensor(3)}, "packed as '2bit_u8' instead of '3bit_32'"),
        ({"packing": torch.full((1000,), 65, dtype=torch.uint8)}, "packed as ''"),
        ({"shape": torch.tensor([16, 128, 1])}, "not the two sides"),
        ({"shape": torch.tensor([-16, -128])}, "not the two sides"),
        ({"shape": torch.tensor([16.0, 128.0])}, "not the two sides"),
        ({"shape": torch.tensor([2**40, 2**40])}, "words do not fit its shape"),
        ({"shape": torch.tensor([16, 192])}, "words do not fit its shape"),
        ({"shape": torch.tensor([3, 192])}, "do not divide by 4"),
        ({"group_size": torch.tensor(0)}, "groups of 0"),
        ({"group_size": torch.tensor(-64)}, "groups of -64"),
        ({"W_q": torch.zeros(8, 64)}, "words do not fit its shape"),
        ({"W_q": torch.zeros(3), "view_as_float": ONE}, "words do not fit its shape"),
        ({"W_q": torch.zeros(()), "view_as_float": ONE}, "no float view"),
        ({"scale": torch.ones(31, 1).half()}, "one float16 for each of 32 groups"),
        ({"scale": torch.ones(32, 1).int()}, "one float16 for each of 32 groups"),
        ({"scale": torch.full((32, 1), float("nan")).half()}, "float16 would change"),
        ({"zero": torch.full((32, 1), 1e6)}, "float16 would change"),
    ],
)
def test_what_does_not_fit_together_is_one_line(
    changes: dict[str, Tensor | None], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        from_hqq(changed(**changes), "the layer")
    assert str(caught.value).startswith("the layer")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("bits", "rows"), [(1, 9), (2, 6), (4, 3)])
def test_a_matrix_that_does_not_fill_hqqs_words_is_refused(bits: int, rows: int) -> None:
    with pytest.raises(UsageError, match=f"hqq cannot hold a matrix of {rows} x 64 at {bits}"):
        to_hqq(random_matrix(rows, 1, 64, bits, seed=0))
