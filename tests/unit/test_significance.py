"""Scores and Hessians of a layer's experts against plain float64 loops."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compress.allocation import LayerScores
from compress.expert_rounding import expert_hessian
from compress.projection import FEWEST_OTHERS
from compress.quantizers import Quantizer, quantizer
from compress.quantizers.hessian import Hessian
from compress.routed import WEIGHT_POWER, MoeBlock, StreamedExperts, expert_of
from compress.significance import frequencies, routing_weights, score_layer
from compress.streams import Placement, Stream, StreamStore
from engine.attention import Attention, Rope
from engine.config import ModelConfig
from engine.experts import FloatExperts
from engine.layout import EXPERT_WIDTHS
from engine.linear import FloatLinear
from engine.model import Layer, Norm
from engine.pruning import Routing

HIDDEN, INNER, EXPERTS = 64, 96, 4
CONFIG = ModelConfig(
    vocab_size=50, hidden_size=HIDDEN, intermediate_size=INNER, num_layers=1, num_heads=2,
    num_kv_heads=1, head_dim=32, num_experts=EXPERTS, top_k=2, rope_theta=1e4, rms_norm_eps=1e-5,
    max_context=64,
)  # fmt: skip
GROUP = 32


def random_layer(seed: int = 0) -> Layer:
    torch.manual_seed(seed)
    return Layer(
        index=0,
        input_norm=Norm(torch.rand(HIDDEN) + 0.5, 1e-5),
        attention=Attention(
            q=FloatLinear(torch.randn(64, HIDDEN) / 8),
            k=FloatLinear(torch.randn(32, HIDDEN) / 8),
            v=FloatLinear(torch.randn(32, HIDDEN) / 8),
            o=FloatLinear(torch.randn(HIDDEN, 64) / 8),
            head_dim=32,
        ),
        post_norm=Norm(torch.rand(HIDDEN) + 0.5, 1e-5),
        router=FloatLinear(torch.randn(EXPERTS, HIDDEN) / 4),
        experts=FloatExperts(
            gate=torch.randn(EXPERTS, INNER, HIDDEN) / 8,
            up=torch.randn(EXPERTS, INNER, HIDDEN) / 8,
            down=torch.randn(EXPERTS, HIDDEN, INNER) / 8,
        ),
        top_k=2,
    )


def as_read(layer: Layer) -> Layer:
    """The layer with experts that are read one by one, as from a source."""
    experts = layer.experts
    assert isinstance(experts, FloatExperts)
    read = StreamedExperts(len(experts.gate), lambda index: expert_of(experts, index))
    return replace(layer, experts=read)


def store_of(stream: Tensor, folder: Path, placement: Placement = "host") -> StreamStore:
    windows, tokens, width = stream.shape
    return StreamStore(folder, "full", (windows, tokens, width), placement, torch.device("cpu"))


def scored(
    layer: Layer, x: Tensor, folder: Path, quantize: Quantizer, widths: Sequence[int]
) -> tuple[LayerScores, Tensor]:
    """The scores, and the stream [N, T, H] behind the layer."""
    rope = Rope(CONFIG).at(0, x.shape[1])
    stream = Stream(x.clone(), torch.device("cpu"))
    store = store_of(x, folder)
    scores, behind = score_layer(
        as_read(layer), store, stream, rope, quantize, widths, GROUP, lambda index: None
    )
    return scores, behind.tensor


def moe_output(experts: FloatExperts, x: Tensor, routing: Routing) -> Tensor:
    """The MoE block, token by token in float64."""
    out = torch.zeros_like(x, dtype=torch.float64)
    for t in range(len(x)):
        for slot in range(routing.ids.shape[1]):
            gate, up, down = (m[routing.ids[t, slot]].double() for m in experts.tensors())
            token = x[t].double()
            out[t] += routing.weights[t, slot] * (down @ (F.silu(gate @ token) * (up @ token)))
    return out


crude = quantizer("minmax")
"""It needs no Hessian, so that the reference is easy."""


def test_errors_are_the_change_of_the_block_output(tmp_path: Path) -> None:
    layer = random_layer()
    experts = layer.experts
    assert isinstance(experts, FloatExperts)
    stream = torch.randn(3, 20, HIDDEN)
    rope = Rope(CONFIG).at(0, 20)
    h = layer.attend(stream, rope)
    x = layer.moe_input(h)
    routing = layer.route(x)
    exact = moe_output(experts, x, routing)
    scores, behind = scored(layer, stream, tmp_path, crude, EXPERT_WIDTHS)
    for index in range(EXPERTS):
        for j, bits in enumerate(EXPERT_WIDTHS):
            changed = FloatExperts(*(m.clone() for m in experts.tensors()))
            for matrix in changed.tensors():
                eye = Hessian(torch.eye(matrix.shape[-1]))
                (codes,) = crude(matrix[index], eye, (bits,), GROUP)
                matrix[index] = codes.dequantize()
            norm = float((moe_output(changed, x, routing) - exact).norm())
            assert scores.errors[index][j] == pytest.approx(norm, rel=1e-4)
    # The stream has moved past the layer.
    expected = h.flatten(0, 1) + exact.float()
    torch.testing.assert_close(behind.flatten(0, 1), expected)
    assert scores.stream_norm == pytest.approx(float(expected.norm()), rel=1e-5)


def test_trace_errors_are_mean_traces_times_squared_errors(tmp_path: Path) -> None:
    layer = random_layer(2)
    stream = torch.randn(8, 64, HIDDEN)
    scores, _ = scored(layer, stream, tmp_path, crude, (1, 3))
    experts = layer.experts
    assert isinstance(experts, FloatExperts)
    block = block_of(layer, layer.attend(stream, Rope(CONFIG).at(0, 64)))
    for index in range(EXPERTS):
        expert = expert_of(experts, index)
        outer = expert_hessian(block, index, HIDDEN, 512, torch.clone).matrix.diagonal().mean()
        inner = expert_hessian(block, index, INNER, 512, expert.inner).matrix.diagonal().mean()
        for j, bits in enumerate((1, 3)):
            total = 0.0
            for matrix, trace in ((expert.gate_up, outer), (expert.down, inner)):
                (codes,) = crude(matrix, Hessian(torch.eye(matrix.shape[-1])), (bits,), GROUP)
                total += float(trace * (matrix - codes.dequantize()).double().square().sum())
            assert scores.trace_errors[index][j] == pytest.approx(total, rel=1e-4)


def test_without_widths_nothing_is_rounded(tmp_path: Path) -> None:
    layer, stream = random_layer(), torch.randn(3, 20, HIDDEN)

    def refuse(*_: object) -> NoReturn:
        raise AssertionError

    scores, behind = scored(layer, stream, tmp_path, Quantizer(refuse), ())
    measured, expected = scored(layer, stream, tmp_path, crude, (2,))
    assert scores.frequency == measured.frequency
    assert scores.errors == ((),) * EXPERTS
    torch.testing.assert_close(behind, expected)


def test_frequency_and_weight_count_the_routing() -> None:
    routing = Routing(
        ids=torch.tensor([[0, 1], [2, 0], [0, 2]]),
        weights=torch.tensor([[0.75, 0.25], [0.5, 0.5], [1.0, 0.0]]),
    )
    assert frequencies(routing, 4) == pytest.approx((3 / 6, 1 / 6, 2 / 6, 0))
    assert routing_weights(routing, 4) == pytest.approx((2.25 / 3, 0.25 / 3, 0.5 / 3, 0))


@pytest.mark.parametrize("name", ["refined", "gptq", "rtn"])
def test_more_bits_cost_less(name: str, tmp_path: Path) -> None:
    stream = torch.randn(16, 32, HIDDEN)
    scores, _ = scored(random_layer(1), stream, tmp_path, quantizer(name), EXPERT_WIDTHS)
    assert sum(scores.frequency) == pytest.approx(1)
    assert sum(scores.routing_weight) == pytest.approx(1)
    for errors in scores.errors:
        assert errors[0] > 1.3 * errors[1] > 1.3 * 1.3 * errors[2] > 0


def block_of(layer: Layer, hidden: Tensor, routing: Routing | None = None) -> MoeBlock:
    """The block over hidden [N, T, H]."""
    block = MoeBlock.of(layer, Stream(hidden, torch.device("cpu")))
    return block if routing is None else replace(block, routing=routing)


def routed_hessian(block: MoeBlock, expert: int) -> Tensor:
    return expert_hessian(block, expert, HIDDEN, 50, torch.clone).matrix


def test_hessians_of_rare_experts_shrink_to_the_layers() -> None:
    """The documented formula, with 0, few and enough tokens."""
    layer = random_layer()
    hidden = torch.randn(600, HIDDEN)
    x = layer.post_norm.forward(hidden)
    shared = x.T @ x / len(x)
    ids = torch.zeros(600, 2, dtype=torch.int64)
    ids[:, 1] = 3
    ids[:30, 1] = 1
    routing = Routing(ids, torch.full(ids.shape, 0.5))
    block = block_of(layer, hidden.unsqueeze(0), routing)
    torch.testing.assert_close(routed_hessian(block, 0), shared)
    enough = 2 * HIDDEN
    few = x[:30].T @ x[:30] / 30
    spread = x[torch.linspace(0, 599, enough - 30, dtype=torch.float64).round().long()]
    sampled = spread.T @ spread / len(spread)
    expected = 30 / enough * few + (1 - 30 / enough) * sampled
    torch.testing.assert_close(routed_hessian(block, 1), expected)
    none = x[torch.linspace(0, 599, enough, dtype=torch.float64).round().long()]
    torch.testing.assert_close(routed_hessian(block, 2), none.T @ none / enough)


def test_hessians_count_tokens_by_their_routing_weight() -> None:
    layer = random_layer()
    hidden = torch.randn(300, HIDDEN)
    weights = torch.rand(300, 1)
    routing = Routing(torch.zeros(300, 1, dtype=torch.int64), weights)
    x = layer.post_norm.forward(hidden)
    expected = (x * weights**WEIGHT_POWER).T @ x / (weights**WEIGHT_POWER).sum()
    found = routed_hessian(block_of(layer, hidden.unsqueeze(0), routing), 0)
    torch.testing.assert_close(found, expected)


def test_few_tokens_of_other_experts_stand_for_all() -> None:
    """A wide Hessian of a rare expert is made from a bounded number of tokens, which count for
    the ones that are missing."""
    layer = random_layer()
    ids = torch.ones(4000, 1, dtype=torch.int64)
    ids[:100] = 0
    routing = Routing(ids, torch.rand(4000, 1))
    block = block_of(layer, torch.randn(1, 4000, HIDDEN), routing)
    tokens, counts = block.calibration_tokens(0, 5000)
    assert len(tokens) == 100 + FEWEST_OTHERS
    assert float(counts.mean()) == pytest.approx(1.0)
    assert float(counts[100:].sum() / counts.sum()) == pytest.approx(1 - 100 / 10_000)
    tokens, _ = block.calibration_tokens(1, 5000)
    assert len(tokens) == 3900 + 3900


def test_moe_block_routes_as_the_layer_does() -> None:
    layer = random_layer()
    stream = torch.randn(5, 12, HIDDEN)
    block = block_of(layer, stream)
    expected = layer.route(layer.moe_input(stream))
    assert torch.equal(block.routing.ids, expected.ids)
    tokens, weights = block.routed(2)
    assert ((expected.ids == 2).any(-1)).nonzero()[:, 0].tolist() == sorted(tokens.tolist())
    assert weights.shape == tokens.shape
    inputs = torch.cat([x for _, x in block.inputs(tokens, 7)])
    torch.testing.assert_close(inputs, layer.moe_input(stream)[tokens])


def test_one_expert_computes_what_all_of_them_do() -> None:
    layer = random_layer()
    experts = layer.experts
    assert isinstance(experts, FloatExperts)
    x = torch.randn(7, HIDDEN)
    only = torch.full((7, 1), 3)
    whole = experts.forward(x, only, torch.ones(7, 1))
    torch.testing.assert_close(expert_of(experts, 3).forward(x), whole)


def test_experts_read_one_by_one_compute_what_all_of_them_do() -> None:
    layer = random_layer()
    x = torch.randn(9, HIDDEN)
    routing = layer.route(x)
    expected = layer.experts.forward(x, routing.ids, routing.weights)
    found = as_read(layer).experts.forward(x, routing.ids, routing.weights)
    torch.testing.assert_close(found, expected)
