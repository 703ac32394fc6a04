import pytest
import torch
from torch import Tensor

from engine.experts import FloatExperts, PackedExperts
from engine.grouping import run_by_expert
from engine.layout import MATRICES, Matrix, matrix_shape
from engine.packing import PackedMatrix, dequantize
from tests.unit.test_packing import random_packed

HIDDEN, INNER, GROUP = 64, 96, 32


def packed_matrices(widths: tuple[int, ...]) -> list[dict[Matrix, PackedMatrix]]:
    return [
        {
            name: random_packed(*matrix_shape(name, HIDDEN, INNER), bits, GROUP, seed=k)[0]
            for name in MATRICES
        }
        for k, bits in enumerate(widths)
    ]


def float_experts(count: int) -> FloatExperts:
    torch.manual_seed(count)
    return FloatExperts(
        torch.randn(count, INNER, HIDDEN),
        torch.randn(count, INNER, HIDDEN),
        torch.randn(count, HIDDEN, INNER),
    )


def test_float_experts_slot_by_slot() -> None:
    experts = float_experts(4)
    x, scale = torch.randn(9, HIDDEN), torch.rand(9, 3)
    ids = torch.stack([torch.randperm(4)[:3] for _ in range(9)])
    ids[2, 1] = ids[5, 0] = -1
    expected = torch.zeros(9, HIDDEN, dtype=torch.float64)
    for token in range(9):
        for slot, k in enumerate(ids[token].tolist()):
            if k < 0:
                continue
            gate, up, down = (
                matrix[k].double() for matrix in (experts.gate, experts.up, experts.down)
            )
            value = x[token].double()
            inner = torch.nn.functional.silu(gate @ value) * (up @ value)
            expected[token] += scale[token, slot].double() * (down @ inner)
    found = experts.forward(x, ids, scale)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-2)


def test_every_expert_sees_its_tokens_once() -> None:
    seen: dict[int, list[int]] = {}

    def note(expert: int, part: Tensor) -> Tensor:
        seen[expert] = part[:, 0].int().tolist()
        return part

    x = torch.arange(6.0)[:, None].expand(6, 2).contiguous()
    ids = torch.tensor([[0, 2], [2, -1], [2, 0], [-1, -1], [3, 2], [0, 3]])
    out = run_by_expert(x, ids, torch.full((6, 2), 0.5), 4, note)
    assert seen == {0: [0, 2, 5], 2: [0, 1, 2, 4], 3: [4, 5]}
    assert out[:, 0].tolist() == [0.0, 0.5, 2.0, 0.0, 4.0, 5.0]


@pytest.mark.parametrize("tokens", [1, 6])
def test_packed_experts_equal_their_dequantized_selves(tokens: int) -> None:
    packed = PackedExperts.from_matrices(packed_matrices((3, 1, 2)))
    x, scale = torch.randn(tokens, HIDDEN), torch.rand(tokens, 2)
    ids = torch.tensor([[0, 2], [1, -1], [2, 1], [0, 1], [1, 0], [-1, -1]])[:tokens]
    expected = packed.dequantize().forward(x, ids, scale)
    torch.testing.assert_close(packed.forward(x, ids, scale), expected, rtol=1e-4, atol=1e-4)


def test_matrices_come_out_of_the_arena_as_they_went_in() -> None:
    matrices = packed_matrices((2, 1, 3, 2))
    packed = PackedExperts.from_matrices(matrices)
    for k, expert in enumerate(matrices):
        for name in MATRICES:
            found = packed.matrix(k, name)
            assert found.shape == expert[name].shape
            assert torch.equal(dequantize(found), dequantize(expert[name]))


def test_each_expert_costs_the_bytes_of_its_width() -> None:
    matrices = packed_matrices((1, 2, 3))
    packed = PackedExperts.from_matrices(matrices)
    expected = tuple(sum(m.shape.total_bytes for m in expert.values()) for expert in matrices)
    assert packed.expert_bytes() == expected
    assert sum(expected) == sum(tensor.nbytes for tensor in packed.tensors())
    floats = float_experts(3)
    assert floats.expert_bytes() == (4 * 3 * HIDDEN * INNER,) * 3


def test_experts_of_different_sizes_are_refused() -> None:
    matrices = packed_matrices((2, 2))
    matrices[1]["up"] = random_packed(INNER + 32, HIDDEN, 2, GROUP)[0]
    with pytest.raises(ValueError, match="differ in more than their width"):
        PackedExperts.from_matrices(matrices)
