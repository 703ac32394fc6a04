"""Triton's products in its interpreter, against float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="no build of triton for this platform")

from engine.errors import UsageError
from engine.experts import PackedExperts
from engine.hadamard import rotate
from engine.kernels.triton import decode, prefill
from engine.kernels.triton.blocks import group_slots
from engine.kernels.triton.plans import Plan, Work
from engine.kernels.triton.products import FEW_TOKENS, TritonKernels
from engine.kernels.triton.tuning import Launch
from engine.layout import MATRICES, Matrix, matrix_shape
from tests.unit.test_kernels import exact, plain_experts
from tests.unit.test_packing import random_packed

KERNELS = TritonKernels()
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
HIDDEN, INNER = 64, 96


def assert_near(found: Tensor, expected: Tensor, roundings: int = 1) -> None:
    """Within the rounding of the result's type, relative to the largest value.

    The interpreter cuts bfloat16 off where a GPU rounds.
    """
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error < roundings * TOLERANCE[found.dtype]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(
    ("rows", "columns", "group"), [(70, 640, 128), (33, 192, 64), (32, 96, 32)]
)
def test_one_token(bits: int, rows: int, columns: int, group: int) -> None:
    """Rows that fill no tile; lanes that meet no stretch of inputs."""
    matrix, *parts = random_packed(rows, columns, bits, group, seed=bits)
    x = torch.randn(1, columns)
    assert_near(KERNELS.matmul(x, matrix), x.double() @ exact(matrix, *parts).T)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_one_token_and_a_rotated_matrix(bits: int, group: int) -> None:
    matrix, *parts = random_packed(33, 128, bits, group, bits, rotated=True)
    x = torch.randn(1, 128)
    assert_near(KERNELS.matmul(x, matrix), x.double() @ exact(matrix, *parts).T)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_one_token_in_16_bits(dtype: torch.dtype) -> None:
    """Sums are float32: only the last rounding is that of the type."""
    matrix, *parts = random_packed(32, 256, 2, 64)
    x = torch.randn(2, 256).to(dtype)
    expected = x.double() @ exact(matrix, *parts).T
    found = torch.empty(2, 32)
    decode.packed_matvec(x, matrix, found)
    assert_near(found, expected)
    assert_near(KERNELS.matmul(x, matrix), expected)


@pytest.mark.parametrize("heights", [(40, 70), (70, 32, 33)])
def test_several_matrices_in_one_launch(
    heights: tuple[int, ...], choose: Callable[[Plan], None]
) -> None:
    """Split, too, so that each has partial sums of its own."""
    choose(split_in(2))
    made = [random_packed(rows, 128, 4, 64, seed=rows) for rows in heights]
    x = torch.randn(2, 128)
    outs = [torch.empty(2, rows) for rows in heights]
    decode.packed_matvecs(x, [matrix for matrix, *_ in made], outs)
    for found, (matrix, *parts) in zip(outs, made, strict=True):
        assert_near(found, x.double() @ exact(matrix, *parts).T)


def test_matrices_of_different_widths_do_not_go_into_one_launch() -> None:
    made = [random_packed(32, 64, bits, 64)[0] for bits in (2, 4)]
    with pytest.raises(ValueError, match="one width"):
        decode.packed_matvecs(torch.zeros(1, 64), made, [torch.empty(1, 32)] * 2)


@pytest.mark.parametrize("value", [1e-12, 1e12])
def test_inputs_far_from_one(value: float) -> None:
    """Codes are multiplied as denormals by lifted inputs: neither end of float32 may be near."""
    matrix, *parts = random_packed(32, 64, 3, 64)
    x = value * torch.randn(1, 64)
    assert_near(KERNELS.matmul(x, matrix), x.double() @ exact(matrix, *parts).T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("rotated", [False, True])
def test_many_tokens(dtype: torch.dtype, bits: int, rotated: bool) -> None:
    """A second block of tokens, a second block of rows, a second step of inputs, all ragged."""
    matrix, *parts = random_packed(70, 128, bits, 64, bits, rotated)
    x = torch.randn(18, 128).to(dtype)
    inputs = rotate(x, 64) if rotated else x
    found = prefill.packed_matmul(inputs, matrix)
    assert found.dtype == dtype
    assert_near(found, x.double() @ exact(matrix, *parts).T)


@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("rotated", [False, True])
def test_many_tokens_at_other_group_sizes(group: int, rotated: bool) -> None:
    matrix, *parts = random_packed(32, 384 if group == 128 else 96, 3, group, 0, rotated)
    x = torch.randn(FEW_TOKENS, matrix.shape.columns).half()
    assert_near(KERNELS.matmul(x, matrix), x.double() @ exact(matrix, *parts).T)


def random_experts(
    widths: tuple[int, ...],
    rotated: bool = False,
    group: int = 32,
    hidden: int = HIDDEN,
    inner: int = INNER,
) -> tuple[PackedExperts, list[dict[Matrix, Tensor]]]:
    """Packed experts and their weights in float64; gate and up have an odd number of tiles."""
    packed, weights = [], []
    for k, bits in enumerate(widths):
        made = {
            name: random_packed(*matrix_shape(name, hidden, inner), bits, group, 9 * k + i, rotated)
            for i, name in enumerate(MATRICES)
        }
        packed.append({name: parts[0] for name, parts in made.items()})
        weights.append({name: exact(*parts) for name, parts in made.items()})
    return PackedExperts.from_matrices(packed), weights


def run_experts(x: Tensor, ids: Tensor, scale: Tensor, experts: PackedExperts) -> Tensor:
    """By the kernels for as many tokens as there are, in float32, too."""
    if len(x) < FEW_TOKENS:
        return KERNELS.experts(x, ids, scale, experts.arena)
    layout = experts.arena.layout
    inputs = rotate(x, layout.group_size) if layout.rotated else x
    return prefill.experts_prefill(inputs, ids, scale, experts.arena)


@pytest.mark.parametrize(
    ("tokens", "id_type"), [(1, torch.int64), (FEW_TOKENS - 1, torch.int32), (10, torch.int64)]
)
@pytest.mark.parametrize("rotated", [False, True])
def test_experts_of_mixed_widths(tokens: int, id_type: torch.dtype, rotated: bool) -> None:
    experts, weights = random_experts((1, 2, 3, 2, 4, 8), rotated)
    x = torch.randn(tokens, HIDDEN)
    ids = torch.stack([torch.randperm(6)[:2] for _ in range(tokens)]).to(id_type)
    scale = torch.rand(tokens, 2)
    ids[1::2, 1] = -1
    scale[1::2, 1] = float("nan")  # of a skipped slot: nobody looks
    found = run_experts(x, ids, scale, experts)
    assert_near(found, plain_experts(x, ids, scale, weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize("rotated", [False, True])
def test_experts_in_16_bits(dtype: torch.dtype, tokens: int, rotated: bool) -> None:
    experts, weights = random_experts((3, 2), rotated)
    x = torch.randn(tokens, HIDDEN).to(dtype)
    ids, scale = torch.tensor([[1, 0]]).repeat(tokens, 1), torch.rand(tokens, 2)
    found = KERNELS.experts(x, ids, scale, experts.arena)
    assert found.dtype == dtype
    # Turned inputs and turned products of gate and up are rounded once more.
    assert_near(found, plain_experts(x, ids, scale, weights), roundings=2 if rotated else 1)


@pytest.mark.parametrize(("group", "lines"), [(64, 2), (64, 4), (128, 2), (128, 4)])
def test_rotated_experts_whose_groups_are_several_tiles(
    group: int, lines: int, choose: Callable[[Plan], None]
) -> None:
    """What lies between is turned by the last of a group's programs, or by the only one."""
    choose(Plan(lines=lines, warps=1, splits=1, stretch=32))
    experts, weights = random_experts((2, 1), True, group, group, 128)
    x, ids, scale = torch.randn(1, group), torch.tensor([[1, 0]]), torch.rand(1, 2)
    found = KERNELS.experts(x, ids, scale, experts.arena)
    assert_near(found, plain_experts(x, ids, scale, weights))
    assert not decode.scratch(x.device).arrived.any(), "the next launch finds them so"


@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize("rotated", [False, True])
def test_where_all_slots_are_skipped_nothing_is_added(tokens: int, rotated: bool) -> None:
    experts, _ = random_experts((1, 2), rotated)
    x, ids = torch.randn(tokens, HIDDEN), torch.full((tokens, 2), -1)
    found = run_experts(x, ids, torch.ones(tokens, 2), experts)
    assert torch.equal(found, torch.zeros_like(x))


@pytest.mark.parametrize("tokens", [1, 6])
def test_gates_far_below_zero_close(tokens: int) -> None:
    experts, weights = random_experts((2, 3))
    x = 1000 * torch.randn(tokens, HIDDEN)
    ids, scale = torch.tensor([[0, 1]]).repeat(tokens, 1), torch.full((tokens, 2), 0.5)
    found = run_experts(x, ids, scale, experts)
    assert_near(found, plain_experts(x, ids, scale, weights))


def test_one_expert_for_all_tokens_takes_several_blocks() -> None:
    experts, weights = random_experts((2, 1, 2))
    x = torch.randn(20, HIDDEN)
    ids, scale = torch.full((20, 1), 2), torch.ones(20, 1)
    found = run_experts(x, ids, scale, experts)
    assert_near(found, plain_experts(x, ids, scale, weights))


def test_grouping_reads_nothing_on_the_host() -> None:
    """Tensors of the device "meta" have no values that could be read."""
    blocks = group_slots(torch.empty(40, 2, dtype=torch.int64, device="meta"), 8, 16)
    assert blocks.expert.shape == blocks.first.shape == blocks.last.shape == (80 // 16 + 8,)


def test_many_tokens_in_float32_are_left_to_plain_products() -> None:
    """Exact ones, and no tensor cores to gain from."""
    experts, weights = random_experts((2, 3))
    x, ids, scale = (
        torch.randn(FEW_TOKENS, HIDDEN),
        torch.ones(FEW_TOKENS, 1).long(),
        torch.ones(FEW_TOKENS, 1),
    )
    assert_near(
        KERNELS.experts(x, ids, scale, experts.arena), plain_experts(x, ids, scale, weights)
    )
    gate = experts.matrix(0, "gate")
    assert_near(KERNELS.matmul(x, gate), x.double() @ weights[0]["gate"].T)


def test_blocks_of_slots_by_expert() -> None:
    """Counted by hand: expert 0 has five slots in blocks of two, 1 none, 2 one."""
    ids = torch.tensor([[0, -1], [2, 0], [0, -1], [0, 0]])
    blocks = group_slots(ids, 3, 2)
    assert blocks.order.tolist() == [1, 5, 0, 3, 4, 6, 7, 2]
    taken = blocks.expert >= 0
    assert taken.tolist() == [True] * 4 + [False] * 3
    assert blocks.expert[taken].tolist() == [0, 0, 0, 2]
    assert blocks.first[taken].tolist() == [2, 4, 6, 7]
    assert blocks.last[taken].tolist() == [4, 6, 7, 8]
    assert int(group_slots(torch.full((3, 2), -1), 3, 2).first[0]) == 6, "all are skipped"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [(7, 32), (9, 1100)])
@pytest.mark.parametrize("tokens", [1, 3, 9])
def test_products_with_16_bit_weights(
    dtype: torch.dtype, rows: int, columns: int, tokens: int
) -> None:
    weight = (torch.randn(rows, columns) * torch.logspace(-6, 1, rows)[:, None]).to(dtype)
    x = torch.randn(tokens, columns)
    expected = x.double() @ weight.double().T
    error = (KERNELS.half_matmul(x, weight).double() - expected).abs()
    assert (error <= 1e-6 * (x.double().abs() @ weight.double().abs().T)).all()


def split_in(parts: int) -> Plan:
    return Plan(lines=1, warps=1, splits=parts, stretch=32)


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Callable[[Plan], None]:
    """Makes every product take the plan that is given."""

    class Book:
        def __init__(self, plan: Plan) -> None:
            self._plan = plan

        def plan(self, work: Work, launch: Launch) -> Plan:
            return self._plan

    return lambda plan: monkeypatch.setattr(decode, "plan_book", lambda device: Book(plan))


def test_the_counters_of_split_rows_are_left_at_zero(choose: Callable[[Plan], None]) -> None:
    """The last program of a row tile resets its counter: the next launch finds it so."""
    choose(split_in(4))
    matrix, *_ = random_packed(32, 512, 2, 64)
    x = torch.randn(1, 512)
    first = KERNELS.matmul(x, matrix)
    assert torch.equal(KERNELS.matmul(x, matrix), first)
    assert not decode.scratch(x.device).arrived.any()


@pytest.mark.parametrize(
    "plan", [Plan(1, 1, 3, 128), Plan(4, 2, 2, 64), Plan(2, 2, 1, 64), Plan(2, 1, 16, 32)]
)
def test_every_plan_computes_the_same(plan: Plan, choose: Callable[[Plan], None]) -> None:
    """Splits that do not divide the inputs, more of them than there are, blocks of tiles beyond."""
    choose(plan)
    matrix, *parts = random_packed(40, 384, 3, 128)
    x = torch.randn(1, 384)
    assert_near(KERNELS.matmul(x, matrix), x.double() @ exact(matrix, *parts).T)


def test_the_split_down_product(choose: Callable[[Plan], None]) -> None:
    choose(Plan(lines=2, warps=1, splits=2, stretch=32))
    experts, weights = random_experts((3, 1))
    x = torch.randn(2, HIDDEN)
    ids, scale = torch.tensor([[1, 0], [-1, -1]]), torch.rand(2, 2)
    found = KERNELS.experts(x, ids, scale, experts.arena)
    assert_near(found, plain_experts(x, ids, scale, weights))


def test_more_tokens_than_the_buffers_hold_are_refused() -> None:
    matrix, *_ = random_packed(4096, 32, 1, 32)
    x = torch.zeros(1000, 32)
    with pytest.raises(UsageError, match="too many tokens"):
        decode.packed_matvec(x, matrix, torch.empty(1000, 4096))


def test_a_tiles_weights_are_exact() -> None:
    """With unit vectors as inputs, the product is columns of the dequantized matrix, in float32."""
    matrix, *parts = random_packed(40, 64, 4, 64)
    found = prefill.packed_matmul(torch.eye(64)[:16], matrix).T
    torch.testing.assert_close(found.double(), exact(matrix, *parts)[:, :16], rtol=1e-6, atol=1e-7)
