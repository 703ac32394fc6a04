"""Triton's attention in its interpreter, against float64, and against the path of plain torch."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="no build of triton for this platform")

from engine import attention
from engine.cache import LayerCache, Stored, round_to_codes
from engine.kernels.triton import attention as kernels
from engine.kernels.triton import prompt_attention
from engine.mixing import Prompt
from tests.triton_compile import run_compiler

# The interpreter cuts bfloat16 off where a GPU rounds.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 3e-2}


def stored(x: Tensor, bits: int) -> tuple[Stored, Tensor]:
    """Keys or values as a cache keeps them, and what they then are in float64."""
    kept = Stored(x) if bits == 16 else Stored(*round_to_codes(x))
    return kept, kept.floats(torch.float32).double()


def exact(q: Tensor, k: Tensor, v: Tensor, start: int, window: int | None) -> tuple[Tensor, Tensor]:
    """The whole map [B, N, T, S] of q [B, N, T, D], first at ``start``, and the mixed values."""
    repeat = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(repeat, dim=1) for x in (k, v))
    scores = q.double() @ keys.transpose(-1, -2) * q.shape[-1] ** -0.5
    age = start + torch.arange(q.shape[2])[:, None] - torch.arange(k.shape[2])  # of a key, [T, S]
    hidden = (age < 0) | (age >= (window or k.shape[2]))
    attention = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
    return attention, attention @ values


def assert_near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "position", "window", "dtype", "bits"),
    [
        (2, 2, 16, 0, None, torch.float32, 16),
        (8, 2, 64, 31, None, torch.float32, 16),
        (8, 1, 128, 32, None, torch.float16, 16),
        (4, 2, 12, 1025, None, torch.float32, 16),  # a second block for each part
        (4, 1, 16, 1100, 1030, torch.bfloat16, 16),
        (4, 2, 80, 70, 3, torch.float32, 8),
        (2, 1, 16, 1100, 5000, torch.float32, 8),
    ],
)
def test_one_token(
    heads: int,
    kv_heads: int,
    dim: int,
    position: int,
    window: int | None,
    dtype: torch.dtype,
    bits: int,
) -> None:
    capacity = position + 7  # behind the token lies what must not be looked at
    q = torch.randn(heads, dim).to(dtype)
    keys, k = stored(torch.randn(1, kv_heads, capacity, dim).to(dtype), bits)
    values, v = stored(torch.randn(1, kv_heads, capacity, dim).to(dtype), bits)
    cache = LayerCache(keys.data, values.data, keys.scales, values.scales)
    scratch = kernels.DecodeScratch.allocate(heads, dim, "cpu")
    for part in (scratch.mixed, scratch.peaks, scratch.sums, scratch.own):
        part.fill_(torch.nan)  # of another token
    out, own = torch.empty(heads * dim, dtype=dtype), torch.empty(1)
    at = torch.tensor([position], dtype=torch.int32)
    kernels.decode_attention(q, cache, at, window, scratch, out, own)
    seen = slice(position + 1)
    map_, mixed = exact(q[None, :, None], k[:, :, seen], v[:, :, seen], position, window)
    assert_near(out.view(heads, dim), mixed[0, :, 0], dtype)
    torch.testing.assert_close(own.double(), map_[0, :, 0, -1].mean()[None], rtol=1e-5, atol=0)


PROMPTS = [
    # batch, query heads, key heads, dim, start, tokens, window, dtype, bits
    (1, 2, 2, 16, 0, 1, None, torch.float32, 16),
    (2, 4, 1, 16, 0, 130, None, torch.float32, 16),
    (1, 8, 1, 12, 63, 66, None, torch.float32, 16),
    (1, 4, 2, 64, 70, 64, 9, torch.float16, 16),
    (1, 2, 1, 128, 5, 65, None, torch.bfloat16, 16),
    (1, 2, 1, 16, 100, 70, 129, torch.float32, 8),
    (2, 2, 1, 16, 3, 10, 500, torch.float32, 8),
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_and_what_its_tokens_received(
    prompt: tuple[int, int, int, int, int, int, int | None, torch.dtype, int],
) -> None:
    batch, heads, kv_heads, dim, start, tokens, window, dtype, bits = prompt
    q = torch.randn(batch, tokens, heads, dim).to(dtype).transpose(1, 2)
    # A cache has room behind its last token.
    k, v = torch.randn(2, batch, kv_heads, start + tokens + 3, dim).to(dtype)
    (keys, k), (values, v) = stored(k, bits), stored(v, bits)
    keys, values = (part.part(slice(start + tokens)) for part in (keys, values))
    out, lse = prompt_attention.flash_prefill(q, keys, values, start, window)
    received, own = prompt_attention.received(q, keys, lse, start, window)
    seen = slice(start + tokens)
    map_, mixed = exact(q, k[:, :, seen], v[:, :, seen], start, window)
    assert_near(out, mixed, dtype)
    new = map_.mean(dim=1)[:, :, start:]  # [B, T, T]
    torch.testing.assert_close(received.double(), new.sum(dim=1), rtol=1e-4, atol=1e-6)
    diagonal = new.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(own.double(), diagonal, rtol=1e-4, atol=1e-6)


@pytest.fixture
def triton_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the CPU were a GPU."""
    monkeypatch.setattr(attention, "_kernels", lambda device_type: prompt_attention)


@pytest.mark.usefixtures("triton_everywhere")
@pytest.mark.parametrize("bits", [8, 16])
def test_it_takes_the_place_of_plain_torch(bits: int) -> None:
    queries = torch.randn(1, 9, 2, 3, 16).permute(0, 2, 3, 1, 4)  # [B, KV, R, T, D]
    (keys, _), (values, _) = (stored(torch.randn(1, 2, 14, 16), bits) for _ in range(2))
    prompt = Prompt(queries, keys, values, 5, None)
    plain, ours = prompt.mix_with_sums(), attention._mix_with_sums(prompt)
    for mixed in (ours.values, attention._mix(prompt)):
        torch.testing.assert_close(mixed, plain.values)
    torch.testing.assert_close(ours.received, plain.received)
    torch.testing.assert_close(ours.own, plain.own)


COMPILED = """
import dataclasses
import torch
from engine.cache import KVCache, Stored
from engine.config import MIXTRAL_8X7B
from engine.decoding.adjustments import Adjustments
from engine.kernels.triton import attention, elementwise, prompt_attention
from tests.triton_compile import CAPABILITIES, compiling

config = dataclasses.replace(MIXTRAL_8X7B, num_layers=1)
heads, dim = config.num_heads, config.head_dim
place, one = torch.zeros(1, dtype=torch.int32), torch.zeros(1)
scratch = attention.DecodeScratch.allocate(heads, dim, "cpu")
for capability, bits in zip(CAPABILITIES, (16, 8), strict=True):
    with compiling(capability) as kernels:
        cache = KVCache(config, 1024, bits=bits, dtype=torch.bfloat16).layers[0]
        x = torch.zeros(1, heads * dim, dtype=torch.bfloat16)
        k = torch.zeros(1, config.num_kv_heads * dim, dtype=torch.bfloat16)
        q = x.view(heads, dim)
        adjustments = Adjustments((x, k, k), "all", (x, k), 1e-6, 8.0)
        elementwise.rope_write(x, k, k, adjustments, place, torch.zeros(dim // 2), cache, q)
        elementwise.gate(x, x, x, x, x)
        attention.decode_attention(q, cache, place, None, scratch, x, one)
        keys = Stored(cache.keys, cache.key_scales)
        values = Stored(cache.values, cache.value_scales)
        prompt = torch.zeros(1, 512, heads, dim, dtype=torch.bfloat16).transpose(1, 2)
        _, lse = prompt_attention.flash_prefill(prompt, keys, values, 512, None)
        prompt_attention.received(prompt, keys, lse, 512, None)
        weight = torch.zeros(config.hidden_size)
        elementwise.rms_norm(x, weight, 1e-5, x, torch.zeros(1, config.hidden_size))
    assert len(kernels) == 7
    assert not any(kernel.spilled for kernel in kernels), kernels
    # What a block of threads can have: 99 KB, and 227 KB.
    assert all(kernel.shared <= (99 if capability == 86 else 227) << 10 for kernel in kernels)
"""


def test_the_kernels_compile() -> None:
    run_compiler(COMPILED)
