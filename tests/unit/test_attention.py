import math

import pytest
import torch
from torch import Tensor

from engine import budget, mixing
from engine.attention import Attention, Rope, Rotation
from engine.cache import KVCache
from engine.config import ModelConfig
from engine.linear import FloatLinear

CONFIG = ModelConfig(
    vocab_size=8,
    hidden_size=32,
    intermediate_size=32,
    num_layers=1,
    num_heads=6,
    num_kv_heads=2,
    head_dim=12,
    num_experts=2,
    top_k=2,
    rope_theta=100.0,
    rms_norm_eps=1e-5,
    max_context=64,
)
ROPE = Rope(CONFIG)


def make_attention(window: int | None) -> Attention:
    torch.manual_seed(1)
    queries, keys = CONFIG.num_heads * CONFIG.head_dim, CONFIG.num_kv_heads * CONFIG.head_dim
    sizes = ((queries, 32), (keys, 32), (keys, 32), (32, queries))
    q, k, v, o = (FloatLinear(torch.randn(*size) * 0.3) for size in sizes)
    return Attention(q, k, v, o, CONFIG.head_dim, window)


def plain_map(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor]:
    """The whole L x L map of every head in float64 [B, N, L, L], and the output [B, L, H]."""
    batch, length, _ = x.shape
    q, k, v, o = (
        linear.weight.double()  # type: ignore[attr-defined]
        for linear in (attention.q, attention.k, attention.v, attention.o)
    )
    heads = [
        (x.double() @ weight.T).view(batch, length, -1, CONFIG.head_dim).transpose(1, 2)
        for weight in (q, k, v)
    ]
    repeat = CONFIG.num_heads // CONFIG.num_kv_heads
    queries = plain_rotate(heads[0])
    keys = plain_rotate(heads[1]).repeat_interleave(repeat, dim=1)
    values = heads[2].repeat_interleave(repeat, dim=1)
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(CONFIG.head_dim)
    for i in range(length):
        for j in range(length):
            hidden = j > i or (attention.window is not None and j <= i - attention.window)
            if hidden:
                scores[:, :, i, j] = -torch.inf
    probabilities = scores.softmax(dim=-1)
    mixed = (probabilities @ values).transpose(1, 2).reshape(batch, length, -1)
    return probabilities, mixed @ o.T


def plain_rotate(x: Tensor) -> Tensor:
    """Rotate pairs (i, i + D / 2) by position * theta^(-2i / D), one by one."""
    half = CONFIG.head_dim // 2
    out = x.clone()
    for position in range(x.shape[2]):
        for i in range(half):
            angle = position * CONFIG.rope_theta ** (-2 * i / CONFIG.head_dim)
            a, b = x[:, :, position, i], x[:, :, position, i + half]
            out[:, :, position, i] = a * math.cos(angle) - b * math.sin(angle)
            out[:, :, position, i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


@pytest.fixture(autouse=True, params=["by queries", "by elements of the map"])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks even in short sequences."""
    if request.param == "by elements of the map":
        rows = 2 * CONFIG.num_heads * 23
        monkeypatch.setattr(budget, "MAP_ELEMENTS", 3 * rows)
    for module in (budget, mixing):
        monkeypatch.setattr(module, "QUERY_BLOCK", 5)


@pytest.mark.parametrize("window", [None, 4, 30])
@pytest.mark.parametrize("length", [1, 7, 23])
def test_both_paths_match_the_plain_map(window: int | None, length: int) -> None:
    attention = make_attention(window)
    x = torch.randn(2, length, 32)
    probabilities, expected = plain_map(attention, x)
    rope = ROPE.at(0, length)
    out, statistics = attention.forward_with_statistics(x, rope)
    for found in (attention.forward(x, rope), out):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    mean = probabilities.mean(dim=1)  # [B, L, L]
    received = mean.sum(dim=1)
    own = mean.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(statistics.received.double(), received, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(statistics.own.double(), own, rtol=1e-4, atol=1e-5)
    assert not statistics.decoding


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("chunks", [(9, 14), (3, 1, 12, 7), (1,) * 23])
def test_a_chunk_reports_its_own_queries_and_keys(
    window: int | None, chunks: tuple[int, ...]
) -> None:
    attention = make_attention(window)
    x = torch.randn(2, sum(chunks), 32)
    probabilities, expected = plain_map(attention, x)
    mean = probabilities.mean(dim=1)  # [B, L, L]
    cache = KVCache(CONFIG, capacity=32, batch=2)
    start = 0
    for size in chunks:
        part = slice(start, start + size)
        rope = ROPE.at(start, size)
        out, statistics = attention.forward_with_statistics(x[:, part], rope, cache.layers[0])
        plain = attention.forward(x[:, part], rope, cache.layers[0])
        for found in (out, plain):
            torch.testing.assert_close(found.double(), expected[:, part], rtol=1e-4, atol=1e-5)
        chunk = mean[:, part, part]
        torch.testing.assert_close(statistics.received.double(), chunk.sum(1), rtol=1e-4, atol=1e-5)
        own = chunk.diagonal(dim1=1, dim2=2)
        torch.testing.assert_close(statistics.own.double(), own, rtol=1e-4, atol=1e-5)
        assert statistics.decoding == (size == 1 and start > 0)
        start += size


def test_rotation_depends_on_distance_only() -> None:
    q, k = torch.randn(2, 1, 1, 1, CONFIG.head_dim).unbind()

    def score(first: Rotation, second: Rotation) -> Tensor:
        return (first.apply(q) * second.apply(k)).sum()

    near = score(ROPE.at(3, 1), ROPE.at(1, 1))
    far = score(ROPE.at(43, 1), ROPE.at(41, 1))
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-5)
