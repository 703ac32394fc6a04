"""The compiled step of one token, against the layers it stands in for and against float64."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import float32, njit
from torch import Tensor

from benchmarks.kinds import LayerByLayer
from engine import threads
from engine.architectures.architecture import Traits
from engine.budget import KvBits
from engine.cache import KVCache
from engine.counters import Counters
from engine.errors import ContextFullError, UsageError
from engine.experts import SharedExpert
from engine.kernels import step as step_module
from engine.kernels import step_memory as memory
from engine.kernels import step_vectors as vectors
from engine.kernels.step import Decoder
from engine.kernels.step_products import PERMUTING, block_product, table_maker
from engine.kernels.step_table import KEY_BLOCK, SPLIT_KEYS
from engine.linear import AdjustedLinear, FloatLinear
from engine.model import Model
from engine.pruning import NO_PRUNING, DecodeRule, NoPruning, OdpPruning, Pruning, Routing
from tests.unit.packed_models_for_tests import Shape, exact_logits, random_model
from tests.unit.test_kernels import exact
from tests.unit.test_packing import random_packed

SHARED = Traits(qkv_bias=True, renormalised=False, shared_size=640)
SHAPES = {
    "plain": Shape(),
    "one query a key": Shape(heads=2, kv_heads=2, head_dim=32),
    "one key head": Shape(heads=6, kv_heads=1, head_dim=16, hidden=96),
    "five queries a key": Shape(heads=10, kv_heads=2, head_dim=16),
    "wide heads": Shape(heads=2, kv_heads=1, head_dim=48),
    "window": Shape(window=3),
    "window longer than the text": Shape(window=100),
    "groups of 64": Shape(hidden=128, inner=192, heads=4, head_dim=32, group=64),
    "groups of 128": Shape(hidden=256, inner=128, heads=8, head_dim=32, group=128, layers=1),
    "packed router and head": Shape(router_bits=4, head_bits=4),
    "8-bit head": Shape(head_bits=8, vocab=33),
    "float head, halves embedded": Shape(head_bits=32, embed_type=torch.float16, vocab=31),
    "16-bit router": Shape(router_bits=16, embed_type=torch.float32),
    "tied": Shape(tied=True),
    "top 1": Shape(top_k=1, expert_bits=(3, 1, 2)),
    "top 3 of 7": Shape(top_k=3, expert_bits=(1, 1, 2, 2, 3, 3, 4)),
    "only odd widths": Shape(expert_bits=(1, 3, 1)),
    "many inputs": Shape(hidden=1056, inner=1120, heads=2, head_dim=32, layers=1, vocab=5),
    "rotated": Shape(rotated=True),
    "rotated, groups of 64": Shape(
        hidden=128, inner=192, heads=4, head_dim=32, group=64, rotated=True
    ),
    "rotated, groups of 128": Shape(
        hidden=256, inner=640, heads=8, head_dim=32, group=128, layers=1, rotated=True
    ),
    "many experts": Shape(expert_bits=(1,) * 40, inner=32),
    "heads normed": Shape(heads=4, kv_heads=2, head_dim=32, traits=Traits(norms="head")),
    "all heads normed, weights as they are": Shape(
        heads=6,
        kv_heads=3,
        hidden=96,
        top_k=3,
        expert_bits=(1, 2, 3, 2, 1, 3),
        traits=Traits(norms="all", renormalised=False),
    ),
    "bounded": Shape(traits=Traits(norms="all", clip=0.7)),
    "biases and a shared expert": Shape(traits=SHARED, head_dim=48, heads=2, kv_heads=1),
    "biases and a shared expert, rotated": Shape(
        hidden=128, inner=128, group=64, rotated=True, top_k=3, traits=SHARED
    ),
}
OF_FLOAT64 = [
    "plain",
    "five queries a key",
    "window",
    "8-bit head",
    "top 1",
    "heads normed",
    "all heads normed, weights as they are",
    "bounded",
    "biases and a shared expert",
]


class Listener:
    """Hears the routings of a call."""

    def __init__(self) -> None:
        self.routings: list[Routing] = []

    def record(self, layer: int, routing: Routing) -> None:
        assert layer == len(self.routings)
        self.routings.append(routing)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def half_pruned(model: Model) -> Pruning:
    """Skips some second slots, and protects some tokens."""
    return OdpPruning((0.5,) * model.config.num_layers, (40.0,) * model.config.num_layers)


def prefilled(model: Model, length: int, capacity: int = 32) -> KVCache:
    cache = KVCache(model.config, capacity)
    model.forward(torch.arange(length)[None] % model.config.vocab_size, cache)
    return cache


def decoded(
    model: Model, token: int, cache: KVCache, pruning: Pruning = NO_PRUNING
) -> tuple[Tensor, list[Routing]]:
    listener = Listener()
    logits = model.forward(torch.tensor([[token]]), cache, pruning, listener)
    return logits[0, 0], listener.routings


def assert_near(found: Tensor, expected: Tensor) -> None:
    error = (found.double() - expected.double()).abs().max() / expected.abs().max()
    assert error < 1e-5


def assert_same_caches(found: KVCache, expected: KVCache) -> None:
    assert found.length == expected.length
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        assert_near(ours.keys, theirs.keys)
        assert_near(ours.values, theirs.values)
        for cache in (ours, theirs):
            assert not cache.keys[:, :, found.length :].any()
            assert not cache.values[:, :, found.length :].any()


def is_compiled(model: Model, cache: KVCache, pruning: Pruning = NO_PRUNING) -> bool:
    """Whether the step takes this; the layers say otherwise when they have run."""
    step = Decoder().step(model)
    rule = pruning.decode_rule(model.config.num_layers)
    return step is not None and rule is not None and step.takes(cache, rule)


@pytest.mark.parametrize("name", SHAPES)
def test_agrees_with_the_layers(name: str) -> None:
    model = random_model(SHAPES[name], seed=len(name))
    pruning = half_pruned(model) if model.config.top_k == 2 else NO_PRUNING
    ours, theirs = prefilled(model, 4), prefilled(model, 4)
    assert is_compiled(model, ours, pruning)
    skipped = 0
    for token in (0, 3, 1, 4, 2):
        found, routings = decoded(model, token, ours, pruning)
        expected, reference = decoded(model, token, theirs, LayerByLayer(pruning))
        assert_near(found, expected)
        for routing, other in zip(routings, reference, strict=True):
            assert torch.equal(routing.ids, other.ids)
            torch.testing.assert_close(routing.weights, other.weights, rtol=1e-4, atol=1e-6)
            skipped += int((routing.ids < 0).sum())
    assert_same_caches(ours, theirs)
    if model.config.top_k == 2:
        assert 0 < skipped < 5 * model.config.num_layers


@pytest.mark.parametrize("name", OF_FLOAT64)
@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_agrees_with_float64(name: str, threshold: float) -> None:
    model = random_model(SHAPES[name], seed=3)
    if threshold and model.config.top_k != 2:
        return
    rule = OdpPruning((threshold,) * 2, (math.inf,) * 2) if threshold else NO_PRUNING
    tokens = torch.tensor([0, 1, 2, 3, 9, 20])
    cache = prefilled(model, 4)
    decoded(model, 9, cache)
    found, routings = decoded(model, 20, cache, rule)
    skipped = torch.tensor([bool((routing.ids < 0).any()) for routing in routings])
    assert_near(found, exact_logits(model, tokens, skipped))


@pytest.mark.parametrize("count", [1, KEY_BLOCK - 1, KEY_BLOCK, SPLIT_KEYS, SPLIT_KEYS * 2 + 300])
@pytest.mark.parametrize("window", [None, SPLIT_KEYS + 7])
def test_many_keys(count: int, window: int | None) -> None:
    """The token's own key is the last of a block, or the first, or in a part of its own."""
    model = random_model(Shape(layers=1, heads=5, kv_heads=1, head_dim=32, window=window))
    caches = [KVCache(model.config, count + 2) for _ in range(2)]
    for cache in caches:
        torch.manual_seed(0)
        cache.layers[0].keys[:, :, :count].normal_(std=2)
        cache.layers[0].values[:, :, :count].normal_()
        cache.length = count
    for token in (5, 6):
        found, ours = decoded(model, token, caches[0], half_pruned(model))
        expected, theirs = decoded(model, token, caches[1], LayerByLayer(half_pruned(model)))
        assert_near(found, expected)
        assert torch.equal(ours[0].ids, theirs[0].ids)


def test_attention_to_itself_protects_a_token() -> None:
    """The quantile that just does not protect, and the one that just does."""
    model = random_model(Shape(layers=1, heads=6, kv_heads=2, hidden=96))
    seen: list[float] = []

    class Spy(OdpPruning):
        def prune(self, layer, routing, tokens, attention):  # type: ignore[no-untyped-def]
            seen.append(float(tokens.abs().sum() * attention.own))
            return super().prune(layer, routing, tokens, attention)

    decoded(model, 7, prefilled(model, 5), LayerByLayer(Spy((1.1,), (0.0,))))
    for factor, expected in ((1.001, 1), (0.999, 2)):
        pruning = OdpPruning((1.1,), (factor * seen[0],))
        _, (routing,) = decoded(model, 7, prefilled(model, 5), pruning)
        assert int((routing.ids >= 0).sum()) == expected


@pytest.mark.parametrize("count", [2, 3])
def test_threads_change_no_bit(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(hidden=256, inner=1120, heads=8, head_dim=32, vocab=700, traits=SHARED)
    model = random_model(shape)
    before = torch.get_num_threads()

    def outcome(number: int) -> list[Tensor]:
        torch.set_num_threads(number)
        cache = KVCache(model.config, 2 * SPLIT_KEYS)
        for layer in cache.layers:
            torch.manual_seed(1)
            layer.keys[:, :, : SPLIT_KEYS + 5].normal_()
            layer.values[:, :, : SPLIT_KEYS + 5].normal_()
        cache.length = SPLIT_KEYS + 5
        assert is_compiled(model, cache, half_pruned(model))
        logits = [decoded(model, token, cache, half_pruned(model))[0] for token in range(4)]
        return [*logits, *(part for layer in cache.layers for part in (layer.keys, layer.values))]

    monkeypatch.setattr(threads, "SMALLEST_SHARED", 1)
    try:
        alone, together = outcome(1), outcome(count)
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, alone, together))


def test_counters_add_up() -> None:
    model = random_model(Shape())
    ours, theirs = Counters(model), Counters(model)
    caches = prefilled(model, 4), prefilled(model, 4)
    for token in range(9):
        tokens = torch.tensor([[token]])
        model.forward(tokens, caches[0], half_pruned(model), ours)
        model.forward(tokens, caches[1], LayerByLayer(half_pruned(model)), theirs)
    assert ours.read() == theirs.read()
    assert 0 < ours.read().prune_ratio < 0.5


def test_an_exchanged_part_is_never_ignored() -> None:
    model, other = (random_model(Shape(), seed) for seed in (0, 1))
    cache = prefilled(model, 4)

    def check() -> Tensor:
        cache.truncate(4)
        found, _ = decoded(model, 5, cache)
        cache.truncate(4)
        assert_near(found, decoded(model, 5, cache, LayerByLayer(NO_PRUNING))[0])
        return found

    seen = [check()]
    layer, theirs = model.layers[1], other.layers[1]
    layer.experts = theirs.experts
    seen.append(check())
    layer.attention = replace(layer.attention, o=theirs.attention.o)
    seen.append(check())
    layer.router, layer.post_norm = theirs.router, theirs.post_norm
    seen.append(check())
    model.layers[0] = other.layers[0]
    seen.append(check())
    layer.experts = theirs.experts.dequantize()  # type: ignore[attr-defined]
    seen.append(check())
    layer.experts = theirs.experts
    seen.append(check())
    for number, logits in enumerate(seen[:-2]):
        assert not any(torch.equal(logits, earlier) for earlier in seen[:number])
    assert torch.equal(seen[-1], seen[-3])


def test_another_cache_and_another_rule_are_noticed() -> None:
    model = random_model(Shape())
    short, long = prefilled(model, 4), prefilled(model, 9, capacity=40)
    for cache in (short, long, short):
        for pruning in (NO_PRUNING, half_pruned(model)):
            length = cache.length
            found, _ = decoded(model, 5, cache, pruning)
            cache.truncate(length)
            assert_near(found, decoded(model, 5, cache, LayerByLayer(pruning))[0])


def test_what_the_step_does_not_know_goes_through_the_layers() -> None:
    odd = random_model(Shape(head_dim=24, hidden=96))
    assert not is_compiled(odd, prefilled(odd, 2))


@pytest.mark.parametrize(
    "part", ["16-bit bias", "clip", "norm of values", "shared expert", "routing"]
)
def test_parts_of_other_kinds_of_models_go_through_the_layers(part: str) -> None:
    model = random_model(Shape())
    layer = model.layers[1]
    attention = layer.attention
    if part == "16-bit bias":
        biased = AdjustedLinear(attention.q, bias=torch.ones(64).half())
        layer.attention = replace(attention, q=biased)
    elif part == "clip":
        layer.attention = replace(attention, k=AdjustedLinear(attention.k, clip=1.0))
    elif part == "norm of values":
        normed = AdjustedLinear(attention.v, norm=torch.ones(32), eps=1e-5)
        layer.attention = replace(attention, v=normed)
    elif part == "shared expert":
        gate, up, down = (FloatLinear(torch.zeros(64, 64)) for _ in range(3))
        layer.shared = SharedExpert(gate, up, down, torch.zeros(1, 64))
    else:
        layer.renormalised = False
    assert not is_compiled(model, prefilled(model, 2))


@pytest.mark.parametrize("bits", [16, 8])
def test_a_batch_is_what_its_sequences_are_in_the_layers(bits: KvBits) -> None:
    model = random_model(Shape(layers=3))
    size = 6
    caches = [KVCache(model.config, 12, size, bits=bits) for _ in range(2)]
    prompt = torch.randint(model.config.vocab_size, (size, 5))
    for cache in caches:
        model.forward(prompt, cache)
    counters = [Counters(model) for _ in caches]
    for step in range(4):
        tokens = (prompt[:, :1] + 7 * step) % model.config.vocab_size
        heard = Listener(), Listener()
        pruning = half_pruned(model)
        assert is_compiled(model, caches[0], pruning)
        for each in (heard, counters):
            ours = model.forward(tokens, caches[0], pruning, each[0])
            theirs = model.forward(tokens, caches[1], LayerByLayer(pruning), each[1])
            for cache in caches:
                cache.truncate(5 + step)  # the same token again
        assert ours.shape == (size, 1, model.config.vocab_size)
        for one, other in zip(ours, theirs, strict=True):
            assert (one - other).abs().max() < (1e-5 if bits == 16 else 1e-2) * other.abs().max()
        for mine, exact_ones in zip(heard[0].routings, heard[1].routings, strict=True):
            assert torch.equal(mine.ids, exact_ones.ids)
            torch.testing.assert_close(mine.weights, exact_ones.weights, atol=1e-3, rtol=1e-3)
        for cache in caches:
            cache.length += 1
    assert counters[0].read() == counters[1].read()


def test_many_sequences_of_a_wide_model_share_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(Shape())
    monkeypatch.setattr(step_module, "SMALLEST_SHARED", 1)
    assert is_compiled(model, KVCache(model.config, 8, batch=4))
    assert not is_compiled(model, KVCache(model.config, 8, batch=5))
    cache = KVCache(model.config, 8, batch=5)
    tokens = torch.arange(3).expand(5, 3)
    model.forward(tokens, cache)
    assert model.forward(tokens[:, :1], cache).isfinite().all()
    assert cache.length == 4


@pytest.mark.parametrize("count", [4, KEY_BLOCK + 3, SPLIT_KEYS + 40])
@pytest.mark.parametrize("sharing", [1, 5])
def test_a_cache_of_8_bits(count: int, sharing: int) -> None:
    """Codes and scales are those of the layers but where rounding was about to tip over."""
    model = random_model(Shape(heads=2 * sharing, head_dim=32))
    caches = [KVCache(model.config, count + 4, bits=8) for _ in range(2)]
    for cache in caches:
        torch.manual_seed(0)
        for layer in cache.layers:
            assert layer.key_scales is not None
            assert layer.value_scales is not None
            for codes, scales in (
                (layer.keys, layer.key_scales),
                (layer.values, layer.value_scales),
            ):
                codes[:, :, :count].random_(-127, 128)
                scales[:, :, :count].uniform_(0.005, 0.03)
        cache.length = count
    assert is_compiled(model, caches[0])
    for token in range(4):
        found, _ = decoded(model, token, caches[0])
        expected, _ = decoded(model, token, caches[1], LayerByLayer(NO_PRUNING))
        error = (found - expected).abs().max() / expected.abs().max()
        assert error < 1e-3  # a code that tips over moves a value by a 127th
    for ours, theirs in zip(caches[0].layers, caches[1].layers, strict=True):
        for name in ("keys", "values"):
            moved = (getattr(ours, name).int() - getattr(theirs, name).int()).abs()
            assert moved.max() <= 1
            assert (moved > 0).sum() <= 4
        for name in ("key_scales", "value_scales"):
            torch.testing.assert_close(
                getattr(ours, name), getattr(theirs, name), rtol=1e-3, atol=0
            )


@settings(deadline=None)  # the first example compiles
@given(value=st.floats(2.0**-14, 65500, width=32))
def test_positive_numbers_round_to_halves_as_torch_rounds(value: float) -> None:
    place = torch.zeros(1, dtype=torch.float16)
    expected = torch.tensor(value, dtype=torch.float32).half()
    back = rounded_to_half(place.data_ptr(), value)
    assert torch.equal(place[0], expected)
    assert back == float(expected)


@njit(error_model="numpy")
def rounded_to_half(address, value):  # type: ignore[no-untyped-def]
    memory.put_half(address, 0, float32(value))
    return memory.half_at(address, 0)


def test_the_first_token_is_a_prompt() -> None:
    """ODP protects it, whatever a decoding rule would say."""
    model = random_model(Shape())
    _, routings = decoded(model, 3, KVCache(model.config, 4), OdpPruning((1.1,) * 2, (1e9,) * 2))
    assert all((routing.ids >= 0).all() for routing in routings)


def test_errors_are_those_of_the_layers() -> None:
    model = random_model(Shape(top_k=3))
    cache = prefilled(model, 4, capacity=5)
    with pytest.raises(UsageError, match="ODP has learned thresholds for top-2 routing"):
        decoded(model, 1, cache, half_pruned(model))
    cache.truncate(4)
    for token in (-1, 70):
        with pytest.raises(IndexError):
            decoded(model, token, cache)
    assert cache.length == 4
    decoded(model, 1, cache)
    with pytest.raises(ContextFullError, match="6 tokens do not fit into a context of 5"):
        decoded(model, 1, cache)


def test_no_pruning_is_a_rule_of_nothing() -> None:
    assert NoPruning().decode_rule(2) == DecodeRule((0.0, 0.0), (math.inf, math.inf))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("permuting", [PERMUTING, False])
@pytest.mark.parametrize("group", [32, 96, 128])
def test_products_of_every_machine(bits: int, permuting: bool, group: int) -> None:
    """With `vpermps` where this machine has it, and as the others do it."""
    matrix, codes, scale, zero = random_packed(64, 3 * group, bits, group, seed=bits)
    tables = {width: table_maker(width, permuting) for width in (1, 2)}
    make_pairs, make_quads, add = tables[2], tables[1], block_product(bits, permuting)

    @njit(error_model="numpy")
    def product(codes, scales, zeros, x, columns, group, tile, sums, pairs, quads, out):  # type: ignore[no-untyped-def]
        make_pairs(x, columns, pairs)
        make_quads(x, columns, quads)
        groups = columns // group
        place = 64 * tile * groups
        add(
            codes, 2, columns, tile, 0, groups, group, pairs, quads,
            scales + place, zeros + place, sums, out,
        )  # fmt: skip

    x = torch.randn(3 * group)
    sums = x.view(3, group).sum(dim=1)
    pairs, quads = torch.empty(8 * len(x)), torch.empty(4 * len(x))
    out = torch.ones(64)
    inputs = [tensor.data_ptr() for tensor in (matrix.codes, matrix.scales, matrix.zeros, x)]
    scratch = [tensor.data_ptr() for tensor in (sums, pairs, quads)]
    for tile in range(2):
        product(*inputs, len(x), group, tile, *scratch, out.data_ptr() + 128 * tile)
    assert_near(out - 1, exact(matrix, codes, scale, zero) @ x.double())


def test_exponentials_and_gates() -> None:
    """To the last bits of float32, from where they vanish to where they overflow."""

    @njit(error_model="numpy")
    def run(x, gate, up, count, out):  # type: ignore[no-untyped-def]
        vectors.gated(gate, up, count, out)
        return vectors.exponentials(x, float32(0), count)

    x = torch.linspace(-86, 80, 4096)
    gate = torch.cat([torch.linspace(-90, 90, 4090), torch.tensor([-1e4, 1e4, 0, -0.0, 1e-30, 3])])
    up, out, expected = torch.randn(4096), torch.empty(4096), x.double().exp()
    total = run(*(tensor.data_ptr() for tensor in (x, gate, up)), 4096, out.data_ptr())
    torch.testing.assert_close(x.double(), expected, rtol=3e-7, atol=0)
    assert abs(total / float(expected.sum()) - 1) < 1e-6
    silu = gate.double() * gate.double().sigmoid() * up.double()
    torch.testing.assert_close(out.double(), silu, rtol=1e-6, atol=1e-34)
    nothing = torch.full((16,), math.nan)
    run(*(tensor.data_ptr() for tensor in (x, nothing, up)), 16, out.data_ptr())
    assert out[:16].isnan().all()
