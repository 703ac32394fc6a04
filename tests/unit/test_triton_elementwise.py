"""Triton's norms and rotary positions in its interpreter, against the general path."""

import dataclasses

import pytest
import torch

pytest.importorskip("triton", reason="no build of triton for this platform")

from engine.attention import Rope
from engine.cache import KVCache
from engine.config import MIXTRAL_8X7B
from engine.decoding.adjustments import Adjustments
from engine.kernels.triton import elementwise


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
    elementwise.rope_write(q, k, v, Adjustments(), at, rope.frequencies, ours, out)
    rotation = rope.at(position, 1)
    plain.write(position, rotation.apply(k[None, :, None]), v[None, :, None])
    torch.testing.assert_close(out, rotation.apply(q[None, :, None])[0, :, 0])
    one_code = 1 if bits == 8 else None  # a last bit may tip a code
    torch.testing.assert_close(ours.keys, plain.keys, rtol=None if bits == 16 else 0, atol=one_code)
    assert torch.equal(ours.values, plain.values)
    if bits == 8:
        torch.testing.assert_close(ours.key_scales, plain.key_scales)
        torch.testing.assert_close(ours.value_scales, plain.value_scales)


ADJUSTMENTS = {
    "biases": Adjustments((torch.randn(48), torch.randn(24), torch.randn(24))),
    "a norm of every head": Adjustments(
        norms="head", gains=(torch.rand(12) + 0.5, torch.rand(12) + 0.5), eps=1e-2
    ),
    "all heads normed at once, clipped": Adjustments(
        norms="all", gains=(torch.rand(48) + 0.5, torch.rand(24) + 0.5), eps=1e-2, clip=0.8
    ),
    "everything": Adjustments(
        (torch.randn(48), torch.randn(24), torch.randn(24)),
        "head",
        (torch.rand(12) + 0.5, torch.rand(12) + 0.5),
        1e-2,
        1.2,
    ),
}


@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_queries_keys_and_values_are_adjusted_before(name: str) -> None:
    """In float64; at position 0 nothing is rotated."""
    adjustments = ADJUSTMENTS[name]
    config = dataclasses.replace(
        MIXTRAL_8X7B, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=12
    )
    given = [torch.randn(1, size) for size in (48, 24, 24)]
    cache, out = KVCache(config, 1).layers[0], torch.empty(4, 12)
    at = torch.zeros(1, dtype=torch.int32)
    elementwise.rope_write(*given, adjustments, at, Rope(config).frequencies, cache, out)
    expected = [x[0].double() for x in given]
    if adjustments.biases is not None:
        expected = [x + bias for x, bias in zip(expected, adjustments.biases, strict=True)]
    for index, gain in enumerate(adjustments.gains or ()):
        rows = expected[index].view(-1, len(gain))
        scale = (rows.square().mean(dim=1, keepdim=True) + adjustments.eps).rsqrt()
        expected[index] = (rows * scale * gain).flatten()
    if adjustments.clip is not None:
        bound = adjustments.clip
        expected = [x.clamp(-bound, bound) for x in expected]
        assert all((x.abs() == bound).any() for x in expected)
    found = (out, cache.keys[0, :, 0], cache.values[0, :, 0])
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double().flatten(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shared_expert_is_gated(dtype: torch.dtype) -> None:
    gate, up = torch.randn(1, 300), torch.randn(1, 300)
    x, share = torch.randn(1, 1100).to(dtype), torch.randn(1, 1100).to(dtype) * 0.05
    out = torch.empty(1, 300)
    elementwise.gate(gate, up, x, share, out)
    factor = 1 / (1 + (-(x.double() @ share.double().T)).exp())
    exact = gate.double() / (1 + (-gate.double()).exp()) * up * factor
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-6)
