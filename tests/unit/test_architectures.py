"""Models of other kinds than Mixtral, against transformers' own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.source import open_folder, tensor_names
from engine.cache import KVCache
from engine.checkpoint import load_model
from engine.config import ModelConfig
from engine.counters import Counters
from engine.errors import SourceError
from tests.unit.architectures_for_tests import KINDS, save_tiny

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "olmoe": ("olmoe", {}),
    "olmoe, clipped": ("olmoe", {"clip_qkv": 0.4}),
    "olmoe, renormalised, one head for all": (
        "olmoe",
        {"norm_topk_prob": True, "num_key_value_heads": 1},
    ),
    "olmoe, top-8 of 64": ("olmoe", {"num_experts": 64, "num_experts_per_tok": 8}),
    "qwen3": ("qwen3_moe", {}),
    "qwen3, windowed": ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 5}),
    "qwen3, tied, not renormalised": (
        "qwen3_moe",
        {"tie_word_embeddings": True, "norm_topk_prob": False},
    ),
    "qwen2": ("qwen2_moe", {}),
    "qwen2, top-4 of 60": ("qwen2_moe", {"num_experts": 60, "num_experts_per_tok": 4}),
    "qwen2, without biases, renormalised": (
        "qwen2_moe",
        {"qkv_bias": False, "norm_topk_prob": True, "rms_norm_eps": 1e-4},
    ),
}


def pieces(tokens: torch.Tensor) -> list[torch.Tensor]:
    """A prompt in two chunks, and then token by token."""
    return list(torch.split(tokens, [6, 9, *[1] * (tokens.shape[1] - 15)], dim=1))


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_prompts_and_single_tokens_match_transformers(name: str, tmp_path: Path) -> None:
    kind, changes = VARIANTS[name]
    reference = save_tiny(kind, tmp_path, seed=len(name), **changes)
    model = load_model(tmp_path)
    tokens = torch.randint(0, 96, (2, 21))
    expected = reference(tokens).logits
    torch.testing.assert_close(model.forward(tokens), expected, rtol=1e-4, atol=1e-4)
    cache = KVCache(model.config, capacity=21, batch=2)
    cached = torch.cat([model.forward(part, cache) for part in pieces(tokens)], dim=1)
    torch.testing.assert_close(cached, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_trait_matters(kind: str, tmp_path: Path) -> None:
    """The tests above could not fail if the random models hardly used what they are about."""
    save_tiny(kind, tmp_path)
    tokens = torch.randint(0, 96, (1, 21))
    exact = load_model(tmp_path).forward(tokens)
    weights = load_file(tmp_path / "model.safetensors")
    traits = ("q_norm", "k_norm", "bias", "shared")
    special = [name for name in weights if any(trait in name for trait in traits)]
    assert special
    for name in special:
        changed = weights | {name: weights[name] * 1.5}
        save_file(changed, tmp_path / "model.safetensors")
        assert (load_model(tmp_path).forward(tokens) - exact).abs().max() > 1e-3, name


@pytest.mark.parametrize("kind", ["mixtral", *KINDS])
@pytest.mark.parametrize("tied", [False, True])
def test_names_and_weights_are_those_of_the_file(kind: str, tied: bool, tmp_path: Path) -> None:
    reference = save_tiny(kind, tmp_path, tie_word_embeddings=tied)
    source, model = open_folder(tmp_path), load_model(tmp_path)
    assert sorted(tensor_names(source.config)) == sorted(load_file(tmp_path / "model.safetensors"))
    assert source.config.total_weights == reference.num_parameters()
    assert model.memory_bytes() == 4 * source.config.total_weights


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_a_token_is_counted_with_all_that_it_passes(kind: str, tmp_path: Path) -> None:
    reference = save_tiny(kind, tmp_path)
    model = load_model(tmp_path)
    counters = Counters(model)
    model.forward(torch.arange(7)[None], counters=counters)
    seen = counters.read()
    config = model.config
    unused = config.num_layers * (config.num_experts - config.top_k) * config.expert_weights
    embeddings = (config.vocab_size - 1) * config.hidden_size  # a token's own row alone
    assert seen.tokens == 7
    assert seen.activated_params == reference.num_parameters() - unused - embeddings
    assert seen.activated_bytes == 4 * seen.activated_params


def fields(kind: str, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    save_tiny(kind, tmp_path)
    raw: dict[str, Any] = json.loads((tmp_path / "config.json").read_text())
    return raw | changes


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("qwen3_moe", {"mlp_only_layers": [0]}, "every layer must have experts"),
        ("qwen2_moe", {"decoder_sparse_step": 2}, "every layer must have experts"),
        ("qwen3_moe", {"attention_bias": True}, "Qwen3-MoE with biases"),
        ("olmoe", {"attention_bias": True}, "OLMoE with biases"),
        ("qwen2_moe", {"use_sliding_window": True}, "windows in some of the layers"),
        ("olmoe", {"clip_qkv": -1}, "clip_qkv is -1, not a number above 0"),
        ("olmoe", {"norm_topk_prob": 1}, "norm_topk_prob is 1, not true or false"),
        ("olmoe", {"hidden_act": "gelu"}, "'gelu' are not supported"),
        ("qwen2_moe", {"shared_expert_intermediate_size": 0}, "shared_expert_intermediate_size"),
        ("qwen3_moe", {"moe_intermediate_size": None}, "moe_intermediate_size"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    kind: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=said) as refused:
        ModelConfig.from_dict(fields(kind, tmp_path, **changes))
    assert "\n" not in str(refused.value)


def test_an_unknown_kind_is_told_which_ones_are_known(tmp_path: Path) -> None:
    raw = fields("olmoe", tmp_path, architectures=["DbrxForCausalLM"], model_type="dbrx")
    with pytest.raises(SourceError) as refused:
        ModelConfig.from_dict(raw)
    said = str(refused.value)
    assert said.startswith("the architecture DbrxForCausalLM is not supported")
    for name in ("Mixtral", "Olmoe", "Qwen3Moe", "Qwen2Moe"):
        assert f"{name}ForCausalLM" in said


def test_configurations_of_the_hub_are_read() -> None:
    """Keys of older transformers, some of them unused; the sums are those of the model cards."""
    olmoe = ModelConfig.from_dict(OLMOE_1B_7B)
    assert round(olmoe.total_weights / 1e9, 2) == 6.92
    assert (olmoe.num_experts, olmoe.top_k, olmoe.sliding_window) == (64, 8, None)
    qwen3 = ModelConfig.from_dict(QWEN3_30B_A3B)
    assert round(qwen3.total_weights / 1e9, 2) == 30.53
    assert (qwen3.num_experts, qwen3.intermediate_size, qwen3.sliding_window) == (128, 768, None)
    qwen2 = ModelConfig.from_dict(QWEN1_5_MOE)
    assert round(qwen2.total_weights / 1e9, 2) == 14.32
    assert (qwen2.traits.shared_size, qwen2.traits.qkv_bias) == (5632, True)


OLMOE_1B_7B: dict[str, Any] = {
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "attention_bias": False,
    "clip_qkv": None,
    "eos_token_id": 50279,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "max_position_embeddings": 4096,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 16,
    "num_key_value_heads": 16,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 50304,
}
QWEN3_30B_A3B: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN1_5_MOE: dict[str, Any] = {
    "architectures": ["Qwen2MoeForCausalLM"],
    "model_type": "qwen2_moe",
    "decoder_sparse_step": 1,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "max_position_embeddings": 8192,
    "max_window_layers": 21,
    "moe_intermediate_size": 1408,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 16,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "shared_expert_intermediate_size": 5632,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
