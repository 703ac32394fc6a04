from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.cache import KVCache
from engine.checkpoint import load_model
from engine.counters import Counters
from engine.errors import ContextFullError, SourceError
from engine.model import Model
from engine.pruning import OdpPruning, Routing
from tests.unit.models_for_tests import save_tiny_mixtral

VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "no-gqa": {"num_key_value_heads": 4},
    "one-kv-head": {"num_key_value_heads": 1},
    "rope-theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "wide-heads": {"head_dim": 24},
    "narrow-heads": {"head_dim": 8, "num_attention_heads": 6},
    "tied": {"tie_word_embeddings": True},
    "window": {"sliding_window": 5},
    "window-longer-than-text": {"sliding_window": 64, "head_dim": 32},
    "top-1": {"num_experts_per_tok": 1},
    "top-3-of-7": {"num_experts_per_tok": 3, "num_local_experts": 7},
    "all-experts": {"num_experts_per_tok": 4},
    "everything": {
        "tie_word_embeddings": True,
        "sliding_window": 6,
        "head_dim": 40,
        "num_key_value_heads": 1,
        "num_local_experts": 5,
        "num_hidden_layers": 3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 321.0},
    },
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("base")
    save_tiny_mixtral(folder)
    return load_model(folder)


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_forward_matches_transformers_and_the_cache_changes_nothing(
    name: str, tmp_path: Path
) -> None:
    reference = save_tiny_mixtral(tmp_path, seed=len(name), **VARIANTS[name])
    model = load_model(tmp_path)
    tokens = torch.randint(0, 96, (2, 21))
    expected = reference(tokens).logits
    found = model.forward(tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    cache = KVCache(model.config, capacity=21, batch=2)
    parts = [tokens[:, :6], tokens[:, 6:15], *tokens[:, 15:].split(1, dim=1)]
    cached = torch.cat([model.forward(part, cache) for part in parts], dim=1)
    torch.testing.assert_close(cached, found, rtol=1e-4, atol=1e-4)


def test_sharded_originals_load_alike(tmp_path: Path) -> None:
    reference = save_tiny_mixtral(tmp_path / "one")
    reference.save_pretrained(tmp_path / "many", max_shard_size="100KB")
    assert (tmp_path / "many" / "model.safetensors.index.json").is_file()
    tokens = torch.arange(10)[None]
    one, many = (load_model(tmp_path / name).forward(tokens) for name in ("one", "many"))
    assert torch.equal(one, many)


def test_last_only_is_the_last_row(model: Model) -> None:
    tokens = torch.arange(12)[None]
    whole = model.forward(tokens)
    torch.testing.assert_close(model.forward(tokens, last_only=True), whole[:, -1:])


def test_a_truncated_cache_continues_elsewhere(model: Model) -> None:
    cache = KVCache(model.config, capacity=16)
    model.forward(torch.arange(10)[None], cache)
    cache.truncate(4)
    tokens = torch.tensor([[0, 1, 2, 3, 50, 51]])
    continued = model.forward(tokens[:, 4:], cache)
    torch.testing.assert_close(continued, model.forward(tokens)[:, 4:], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="cannot keep 9 of 6"):
        cache.truncate(9)


def test_a_full_context_is_refused_in_one_line(model: Model) -> None:
    cache = KVCache(model.config, capacity=8)
    model.forward(torch.arange(5)[None], cache)
    with pytest.raises(ContextFullError, match="9 tokens do not fit into a context of 8"):
        model.forward(torch.arange(4)[None], cache)
    assert cache.length == 5


def test_pruning_all_seconds_is_the_top_1_model(model: Model) -> None:
    """With a threshold nothing reaches and decoding quantiles nothing reaches, one expert runs."""
    everything = OdpPruning(thresholds=(1.1, 1.1), quantiles=(1e9, 1e9))
    single = Model(
        model.config,
        [replace(layer, top_k=1) for layer in model.layers],
        model.embed,
        model.norm,
        model.head,
    )
    # One-token prompts keep both slots, so start the comparison from a prefix run unpruned.
    caches = [KVCache(model.config, capacity=8) for _ in range(2)]
    for cache in caches:
        model.forward(torch.arange(5)[None], cache)
    token = torch.tensor([[7]])
    pruned = model.forward(token, caches[0], everything)
    torch.testing.assert_close(pruned, single.forward(token, caches[1]), rtol=1e-4, atol=1e-5)


def test_pruning_can_change_between_tokens_and_the_counters_follow(model: Model) -> None:
    everything = OdpPruning(thresholds=(1.1, 1.1), quantiles=(1e9, 1e9))
    counters = Counters(model)
    cache = KVCache(model.config, capacity=32)
    model.forward(torch.arange(10)[None], cache, counters=counters)
    before = counters.read()
    assert before.tokens == 10
    assert before.routed == (20, 20)
    assert before.prune_ratio == 0
    for token in (1, 2, 3):
        model.forward(torch.tensor([[token]]), cache, everything, counters)
    now = counters.read().since(before)
    assert now.tokens == 3
    assert now.prune_ratio_layers == (0.5, 0.5)
    config = model.config
    dense = config.total_weights - config.vocab_size * config.hidden_size + config.hidden_size
    dense -= config.num_layers * config.num_experts * config.expert_weights
    assert before.activated_params == dense + 2 * config.num_layers * config.expert_weights
    assert now.activated_params == dense + config.num_layers * config.expert_weights
    assert now.activated_bytes == 4 * now.activated_params
    assert now.activated_fraction == now.activated_params / config.total_weights


def test_memory_counts_each_tensor_once(model: Model, tmp_path: Path) -> None:
    assert model.memory_bytes() == 4 * model.config.total_weights
    save_tiny_mixtral(tmp_path, tie_word_embeddings=True)
    tied = load_model(tmp_path)
    assert tied.memory_bytes() == 4 * tied.config.total_weights


def test_broken_originals_are_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no config\.json"):
        load_model(tmp_path)
    save_tiny_mixtral(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="not a whole safetensors file"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(SourceError, match="it holds no weights"):
        load_model(tmp_path)
    weights.write_bytes(whole)
    config = tmp_path / "config.json"
    config.write_text(
        config.read_text().replace('"intermediate_size": 96', '"intermediate_size": 64')
    )
    with pytest.raises(SourceError, match=r"has shape \(96, 64\), config.json says \(64, 64\)"):
        load_model(tmp_path)


@torch.inference_mode()
def test_odp_protects_what_transformers_own_attention_map_says(tmp_path: Path) -> None:
    """The first layer of a whole model, against Eq. 6 on the eager L x L map."""
    reference = save_tiny_mixtral(tmp_path, seed=2, max_position_embeddings=512)
    reference.set_attn_implementation("eager")
    moe_inputs: list[Tensor] = []
    norm = reference.model.layers[0].post_attention_layernorm
    norm.register_forward_hook(lambda module, inputs, output: moe_inputs.append(output))
    length = 150
    tokens = torch.randint(0, 96, (1, length))
    received = reference(tokens, output_attentions=True).attentions[0][0].mean(dim=0).sum(dim=0)
    scores = moe_inputs[0][0].abs().sum(dim=-1) * received / torch.arange(length, 0, -1)
    expected = set(scores.topk(3).indices.tolist())  # 2 % of 150

    routings: list[Routing] = []

    class Listener:
        def record(self, layer: int, routing: Routing) -> None:
            routings.append(routing)

    prune_all = OdpPruning(thresholds=(1.1, 1.1), quantiles=(0.0, 0.0))
    load_model(tmp_path).forward(tokens, pruning=prune_all, counters=Listener())
    kept = (routings[0].ids[:, 1] >= 0).nonzero().flatten().tolist()
    assert set(kept) == expected
