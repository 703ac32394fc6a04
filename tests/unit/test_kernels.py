"""Every implementation against float64, on the same random packed matrices."""

import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from engine.experts import PackedExperts
from engine.kernels import Kernels, _select, cpu, describe, loops, select
from engine.kernels.cpu import CpuKernels
from engine.kernels.reference import ReferenceKernels
from engine.layout import MATRICES, Matrix, matrix_shape
from engine.packing import PackedMatrix
from tests.unit.test_packing import random_packed

KERNELS = {"reference": ReferenceKernels(), "cpu": CpuKernels()}
HIDDEN, INNER, GROUP = 64, 96, 32


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    chosen: Kernels = KERNELS[request.param]
    return chosen


@pytest.fixture(params=["serial", "threads"])
def work(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as small products run, once spread over threads as large ones are."""
    if request.param == "threads":
        monkeypatch.setattr(cpu, "SERIAL_WEIGHTS", 1)


def exact(matrix: PackedMatrix, codes: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """The weights in float64 from the codes, not through the packed form."""
    group, middle = matrix.shape.group_size, (2**matrix.shape.bits - 1) / 2
    zeros = middle if zero is None else zero.half().double().repeat_interleave(group, dim=1)
    weights = (codes.double() - zeros) * scale.half().double().repeat_interleave(group, dim=1)
    return turned(weights, group) if matrix.shape.rotated else weights


def turned(weights: Tensor, group: int) -> Tensor:
    """Each group of columns times Sylvester's matrix, (-1)^(ones that i and j share)."""
    ones = [[(i & j).bit_count() for j in range(group)] for i in range(group)]
    matrix = (-1.0) ** torch.tensor(ones).double() / group**0.5
    return (weights.view(len(weights), -1, group) @ matrix).flatten(1)


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Within float32's rounding, relative to the largest value."""
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error < 2e-6


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("rows", "columns", "group"), [(32, 32, 32), (70, 256, 128)])
@pytest.mark.parametrize("tokens", [1, 7, 8, 19])
@pytest.mark.parametrize("rotated", [False, True])
def test_matmul(
    kernels: Kernels, bits: int, rows: int, columns: int, group: int, tokens: int, rotated: bool
) -> None:
    matrix, *parts = random_packed(rows, columns, bits, group, bits, rotated)
    x = torch.randn(tokens, columns)
    found = kernels.matmul(x, matrix)
    assert found.dtype == torch.float32
    assert_near(found, x.double() @ exact(matrix, *parts).T)


def random_experts(
    widths: tuple[int, ...], rotated: bool = False
) -> tuple[PackedExperts, list[dict[Matrix, Tensor]]]:
    """Packed experts and their weights in float64."""
    packed, weights = [], []
    for k, bits in enumerate(widths):
        made = {
            name: random_packed(*matrix_shape(name, HIDDEN, INNER), bits, GROUP, 9 * k + i, rotated)
            for i, name in enumerate(MATRICES)
        }
        packed.append({name: parts[0] for name, parts in made.items()})
        weights.append({name: exact(*parts) for name, parts in made.items()})
    return PackedExperts.from_matrices(packed), weights


def plain_experts(
    x: Tensor, ids: Tensor, scale: Tensor, weights: list[dict[Matrix, Tensor]]
) -> Tensor:
    """The sum over slots, slot by slot in float64."""
    out = torch.zeros(x.shape, dtype=torch.float64)
    for token in range(len(x)):
        for slot, expert in enumerate(ids[token].tolist()):
            if expert >= 0:
                gate, up, down = (weights[expert][name] for name in MATRICES)
                value = x[token].double()
                inner = torch.nn.functional.silu(gate @ value) * (up @ value)
                out[token] += scale[token, slot].double() * (down @ inner)
    return out


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("tokens", [1, 2, 5, 40])
@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("rotated", [False, True])
def test_experts_of_mixed_widths(
    kernels: Kernels, tokens: int, pruned: bool, rotated: bool
) -> None:
    experts, weights = random_experts((1, 2, 3, 2, 4), rotated)
    torch.manual_seed(tokens)
    x = torch.randn(tokens, HIDDEN)
    ids = torch.stack([torch.randperm(5)[:2] for _ in range(tokens)])
    scale = torch.rand(tokens, 2)
    if pruned:
        ids[::2, 1] = -1
        ids[-1, 0] = -1
    if pruned and tokens == 1:
        assert torch.equal(kernels.experts(x, ids, scale, experts.arena), torch.zeros_like(x))
        return
    assert_near(
        kernels.experts(x, ids, scale, experts.arena), plain_experts(x, ids, scale, weights)
    )


@pytest.mark.parametrize("tokens", [1, 8])
def test_gates_far_below_zero_close(kernels: Kernels, tokens: int) -> None:
    """exp(-gate) overflows float32 there, and the product must be 0, not NaN."""
    experts, weights = random_experts((2, 3))
    x = 1000 * torch.randn(tokens, HIDDEN)
    ids, scale = torch.tensor([[0, 1]]).expand(tokens, 2), torch.full((tokens, 2), 0.5)
    assert_near(
        kernels.experts(x, ids, scale, experts.arena), plain_experts(x, ids, scale, weights)
    )


def test_a_skipped_slots_weight_does_not_matter(kernels: Kernels) -> None:
    experts, _ = random_experts((2, 3))
    x = torch.randn(1, HIDDEN)
    ids = torch.tensor([[1, -1]])
    first, second = (
        kernels.experts(x, ids, torch.tensor([[1.0, weight]]), experts.arena)
        for weight in (0.0, float("nan"))
    )
    assert torch.equal(first, second)


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [(7, 32), (33, 160), (5, 40)])
@pytest.mark.parametrize("tokens", [1, 9, 40])
def test_products_with_16_bit_weights(
    kernels: Kernels, dtype: torch.dtype, rows: int, columns: int, tokens: int
) -> None:
    weight = (torch.randn(rows, columns) * torch.logspace(-6, 1, rows)[:, None]).to(dtype)
    x = torch.randn(tokens, columns)
    expected = x.double() @ weight.double().T
    error = (kernels.half_matmul(x, weight).double() - expected).abs()
    assert (error <= 1e-6 * (x.double().abs() @ weight.double().abs().T)).all()


def test_the_smallest_and_negative_halves_are_read_right() -> None:
    """Subnormal scales and negative zero points go through the integer conversion."""
    matrix, codes, _, _ = random_packed(32, 32, 2, 32)
    scale = torch.linspace(1e-7, 6e-5, 32)[:, None]
    zero = torch.linspace(-3, 3, 32)[:, None]
    odd = PackedMatrix(matrix.shape, matrix.codes, scale.half().flatten(), zero.half().flatten())
    x = torch.randn(1, 32)
    expected = x.double() @ exact(odd, codes, scale, zero).T
    assert_near(KERNELS["cpu"].matmul(x, odd), expected)


def test_a_cpu_gets_the_cpu_kernels() -> None:
    assert isinstance(select(torch.device("cpu")), CpuKernels)
    assert describe(torch.device("cpu")) == "numba"


@pytest.fixture
def undecided() -> Iterator[None]:
    """Nothing selected before is remembered, nor what is selected now."""
    _select.cache_clear()
    yield
    _select.cache_clear()


@pytest.mark.usefixtures("undecided")
def test_a_gpu_gets_triton() -> None:
    pytest.importorskip("triton", reason="no build of triton for this platform")
    assert type(select(torch.device("cuda"))).__name__ == "TritonKernels"
    assert describe(torch.device("cuda")) == "triton"


@pytest.mark.usefixtures("undecided")
def test_without_triton_a_gpu_is_slow_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "engine.kernels.triton.products", None)
    assert isinstance(select(torch.device("cuda")), ReferenceKernels)
    assert describe(torch.device("cuda")).startswith("plain torch, slow, for want of triton (")


def test_warming_leaves_nothing_to_compile() -> None:
    kernels = CpuKernels()
    kernels.warm()
    compiled = [
        loop
        for loop in vars(loops).values()
        if hasattr(loop, "signatures") and not loop.__name__.startswith("_")
    ]
    before = [list(loop.signatures) for loop in compiled]
    experts, _ = random_experts((1, 2, 3))
    for tokens in (1, 3, 9):
        x = torch.randn(tokens, HIDDEN)
        kernels.experts(x, torch.ones(tokens, 2).long(), torch.ones(tokens, 2), experts.arena)
        kernels.matmul(x, experts.matrix(2, "gate"))
        kernels.half_matmul(x, torch.randn(8, HIDDEN).bfloat16())
    assert [list(loop.signatures) for loop in compiled] == before
    assert all(before)
