"""The KV cache of 8 bits: how exact it is, and that nothing is rounded twice."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine import budget, mixing
from engine.attention import Attention, Rope
from engine.budget import KvBits
from engine.cache import MAX_CODE, MIN_SCALE, KVCache, Stored, round_to_codes
from engine.config import ModelConfig
from engine.linear import FloatLinear
from tests.unit.test_attention import CONFIG, make_attention, plain_map

WIDTH = 32
"""Of `CONFIG`'s residual stream."""


@given(
    values=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=9),
    magnitude=st.integers(-30, 22),
)
def test_codes_are_off_by_half_a_step_at_most(values: list[float], magnitude: int) -> None:
    x = torch.tensor([values]) * 2.0**magnitude
    codes, scales = round_to_codes(x)
    assert codes.dtype == torch.int8
    assert scales.dtype == torch.float16
    assert codes.abs().max() <= MAX_CODE
    found = Stored(codes[None, None], scales[None, None]).floats(torch.float32)[0, 0]
    error, steps = (found.double() - x.double()).abs(), scales.double()[:, None]
    assert (error <= 0.5001 * steps).all()
    largest = x.abs().max().item() / MAX_CODE
    assert scales.item() == pytest.approx(max(largest, MIN_SCALE), rel=2.0**-11)


def run(attention: Attention, x: Tensor, chunks: tuple[int, ...], bits: KvBits) -> Tensor:
    """What comes out of a prompt in chunks, and of every path that a chunk can take."""
    caches = [KVCache(CONFIG, capacity=64, batch=len(x), bits=bits).layers[0] for _ in range(2)]
    outs: list[list[Tensor]] = [[], []]
    start = 0
    for size in chunks:
        rope = Rope(CONFIG).at(start, size)
        part = x[:, start : start + size]
        outs[0].append(attention.forward(part, rope, caches[0]))
        outs[1].append(attention.forward_with_statistics(part, rope, caches[1])[0])
        start += size
    plain, with_statistics = (torch.cat(parts, dim=1) for parts in outs)
    torch.testing.assert_close(plain, with_statistics, rtol=1e-4, atol=1e-5)
    return plain


@pytest.mark.parametrize("window", [None, 7])
def test_attention_is_near_and_does_not_depend_on_chunks(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixing, "KEY_BLOCK", 4)  # several, in a prefix and under one token
    attention = make_attention(window)
    x = torch.randn(2, 23, WIDTH)
    exact = plain_map(attention, x)[1]
    whole = run(attention, x, (23,), 8)
    for chunks in ((9, 14), (1,) * 23, (11, 1, 11)):
        torch.testing.assert_close(run(attention, x, chunks, 8), whole, rtol=1e-4, atol=1e-5)
    scale = exact.abs().max()
    assert (run(attention, x, (9, 14), 16) - exact).abs().max() < 1e-5 * scale
    assert 1e-4 * scale < (whole - exact).abs().max() < 2e-2 * scale


def test_a_token_cut_off_leaves_nothing() -> None:
    """A shorter token in its place gets a scale of its own."""
    cache = KVCache(CONFIG, capacity=2, bits=8)
    layer = cache.layers[0]
    big, small = (torch.full((1, 2, 1, CONFIG.head_dim), value) for value in (100.0, 0.5))
    layer.write(0, big, big)
    cache.length = 1
    cache.truncate(0)
    keys, values = layer.write(0, small, small)
    for stored in (keys, values):
        torch.testing.assert_close(stored.floats(torch.float32), small, rtol=1e-3, atol=0)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_cache_takes_what_is_counted(bits: KvBits) -> None:
    cache = KVCache(CONFIG, capacity=33, bits=bits)
    assert cache.memory_bytes() == budget.kv_cache_bytes(CONFIG, 33, "cpu", bits)
    half = KVCache(CONFIG, capacity=33, dtype=torch.float16, bits=bits)
    assert half.memory_bytes() == budget.kv_cache_bytes(CONFIG, 33, "cuda", bits)


def test_a_long_prefix_is_never_all_made_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(**{**CONFIG.__dict__, "max_context": 4096})
    cache, most = KVCache(config, capacity=3000, bits=8).layers[0], [0]
    floats = Stored.floats

    def watched(self: Stored, dtype: torch.dtype) -> Tensor:
        most.append(self.tokens)
        return floats(self, dtype)

    monkeypatch.setattr(Stored, "floats", watched)
    sizes = ((72, WIDTH), (24, WIDTH), (24, WIDTH), (WIDTH, 72))
    attention = Attention(*(FloatLinear(torch.randn(*size)) for size in sizes), CONFIG.head_dim)
    for start, size in ((0, 2500), (2500, 1), (2501, 20)):
        most.clear()
        rope = Rope(config).at(start, size)
        attention.forward(torch.randn(1, size, WIDTH), rope, cache)
        attention.forward_with_statistics(torch.randn(1, size, WIDTH), rope, cache)
        if start:
            assert max(most) <= budget.KEY_BLOCK
