"""Triton's norms and rotary positions in its interpreter, against the general path."""

import dataclasses

import pytest
import torch

pytest.importorskip("triton", reason="no build of triton for this platform")

from engine.attention import Rope
from engine.cache import KVCache
from engine.config import MIXTRAL_8X7B
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
