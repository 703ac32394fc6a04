"""Triton's norms, rotary positions and routing in its interpreter, against the general path."""

import dataclasses
import math

import pytest
import torch

pytest.importorskip("triton", reason="no build of triton for this platform")

from engine.attention import AttentionStatistics, Rope
from engine.cache import KVCache
from engine.config import MIXTRAL_8X7B
from engine.kernels.triton import elementwise, routing
from engine.pruning import NO_PRUNING, OdpPruning, Pruning, route


@pytest.mark.parametrize("size", [64, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rms_norm_after_an_addition(size: int, dtype: torch.dtype) -> None:
    x, added, weight = torch.randn(3, size).to(dtype), torch.randn(3, size), torch.rand(size)
    stream, out = (x + added).to(dtype), torch.empty(3, size)
    elementwise.rms_norm(x, weight, 1e-5, out, added)
    torch.testing.assert_close(x, stream)
    norm = (x.double().square().mean(dim=1, keepdim=True) + 1e-5).rsqrt()
    torch.testing.assert_close(out.double(), x * norm * weight, rtol=1e-6, atol=1e-7)
    elementwise.rms_norm(x, weight, 1e-5, out)
    torch.testing.assert_close(x, stream, msg="without an addition the stream stays as it is")


@pytest.mark.parametrize(
    ("dim", "position", "bits"), [(128, 32_767, 16), (12, 0, 16), (12, 5, 8), (64, 1000, 8)]
)
def test_rope_write_is_a_rotation_and_a_write(dim: int, position: int, bits: int) -> None:
    config = dataclasses.replace(
        MIXTRAL_8X7B, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=dim
    )
    ours, plain = (KVCache(config, position + 1, bits=bits).layers[0] for _ in range(2))
    rope = Rope(config)
    q, k, v = torch.randn(4, dim), torch.randn(2, dim), torch.randn(2, dim)
    k[1] = 0  # of which no scale can be made
    out, at = torch.empty(4, dim), torch.tensor([position], dtype=torch.int32)
    elementwise.rope_write(q, k, v, at, rope.frequencies, ours, out)
    rotation = rope.at(position, 1)
    plain.write(position, rotation.apply(k[None, :, None]), v[None, :, None])
    torch.testing.assert_close(out, rotation.apply(q[None, :, None])[0, :, 0])
    one_code = 1 if bits == 8 else None  # a last bit may tip a code
    torch.testing.assert_close(ours.keys, plain.keys, rtol=None if bits == 16 else 0, atol=one_code)
    assert torch.equal(ours.values, plain.values)
    if bits == 8:
        torch.testing.assert_close(ours.key_scales, plain.key_scales)
        torch.testing.assert_close(ours.value_scales, plain.value_scales)


@pytest.mark.parametrize(
    ("experts", "top_k", "pruning"),
    [
        (8, 2, OdpPruning((0.6,), (40.0,))),
        (8, 2, NO_PRUNING),
        (5, 2, OdpPruning((2.0,), (math.inf,))),  # skips every second slot
        (4, 1, NO_PRUNING),
        (6, 3, NO_PRUNING),
        (1, 1, NO_PRUNING),
    ],
)
def test_route(experts: int, top_k: int, pruning: Pruning) -> None:
    counts = torch.zeros(2 * experts, dtype=torch.int64)
    expected_counts = counts.clone()
    choice = routing.Choice(torch.empty(1, top_k, dtype=torch.int32), torch.empty(1, top_k), counts)
    weight = torch.randn(experts, 70) * 0.1
    rule = pruning.decode_rule(1)
    assert rule is not None
    threshold, quantile = torch.tensor(rule.thresholds), torch.tensor(rule.quantiles)
    for _ in range(6):
        x, own = torch.randn(1, 70), torch.rand(1)
        routing.route(x, weight, threshold, quantile, own, choice)
        seen = AttentionStatistics(own[None], own[None], decoding=True)
        expected = pruning.prune(0, route(x @ weight.T, top_k), x, seen)
        assert torch.equal(choice.ids.long(), expected.ids)
        torch.testing.assert_close(choice.weights, expected.weights)
        for expert in expected.ids.flatten().tolist():
            expected_counts[expert if expert >= 0 else experts - 1 - expert] += 1
    assert torch.equal(counts, expected_counts)
    if top_k == 2 and pruning is not NO_PRUNING:
        assert 0 < counts[experts:].sum() <= 6, "some are skipped"


def test_of_equal_logits_the_lower_expert_comes_first() -> None:
    choice = routing.Choice(
        torch.empty(1, 2, dtype=torch.int64), torch.empty(1, 2), torch.zeros(8, dtype=torch.int64)
    )
    rule = torch.zeros(1), torch.full((1,), math.inf), torch.zeros(1)
    routing.route(torch.ones(1, 8), torch.zeros(4, 8), *rule, choice)
    assert choice.ids.tolist() == [[0, 1]]
    assert choice.weights.tolist() == [[0.5, 0.5]]


def test_what_is_no_number_goes_to_an_expert_that_there_is() -> None:
    choice = routing.Choice(
        torch.empty(1, 2, dtype=torch.int64), torch.empty(1, 2), torch.zeros(6, dtype=torch.int64)
    )
    rule = torch.zeros(1), torch.full((1,), math.inf), torch.zeros(1)
    routing.route(torch.full((1, 8), torch.nan), torch.ones(3, 8), *rule, choice)
    assert all(-3 <= expert < 3 for expert in choice.ids[0].tolist())
