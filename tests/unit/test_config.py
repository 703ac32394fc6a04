"""Reading `config.json`, as old and new transformers write it."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import MixtralConfig, MixtralForCausalLM

from engine.config import MIXTRAL_8X7B, ModelConfig
from engine.errors import SourceError

OLD: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-05,
    "max_position_embeddings": 32768,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}


def test_the_original_file_is_the_built_in_shape() -> None:
    assert ModelConfig.from_dict(OLD) == MIXTRAL_8X7B
    assert MIXTRAL_8X7B.total_weights == 46_702_792_704  # 46.7 B, as published


def test_what_transformers_writes_today_reads_the_same(tmp_path: Path) -> None:
    changes = {"rope_theta", "architectures", "model_type"}
    config = MixtralConfig(
        **{key: value for key, value in OLD.items() if key not in changes},
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        architectures=["MixtralForCausalLM"],
    )
    config.save_pretrained(tmp_path)
    assert ModelConfig.from_folder(tmp_path) == MIXTRAL_8X7B


@pytest.mark.parametrize("tied", [False, True])
def test_weights_are_counted_as_transformers_has_them(tied: bool) -> None:
    small = {
        "vocab_size": 50,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "num_local_experts": 5,
        "tie_word_embeddings": tied,
    }
    theirs = MixtralForCausalLM(MixtralConfig(**small))
    ours = ModelConfig.from_dict({**OLD, **small})
    assert ours.total_weights == sum(tensor.numel() for tensor in theirs.parameters())


def test_defaults_and_optional_keys() -> None:
    raw = {key: value for key, value in OLD.items() if key not in {"num_key_value_heads"}}
    raw |= {"eos_token_id": [2, 7], "head_dim": 96, "sliding_window": 4096}
    config = ModelConfig.from_dict(raw)
    assert config.num_kv_heads == config.num_heads
    assert (config.head_dim, config.sliding_window, config.eos_ids) == (96, 4096, (2, 7))
    assert ModelConfig.from_dict({**OLD, "eos_token_id": None}).eos_ids == ()
    without = {key: value for key, value in OLD.items() if key != "rope_theta"}
    assert ModelConfig.from_dict(without).rope_theta == 10_000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "LlamaForCausalLM"),
        ({"architectures": None, "model_type": None}, "unnamed"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "yarn"),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SourceError, match=said):
        ModelConfig.from_dict({**OLD, **changes})


@pytest.mark.parametrize("key", ["hidden_size", "num_local_experts", "max_position_embeddings"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(SourceError, match=key):
        ModelConfig.from_dict({name: value for name, value in OLD.items() if name != key})


@pytest.mark.parametrize("text", ["", "{", "[1]", '"mixtral"', "\x00"])
def test_a_damaged_file_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SourceError, match=r"config\.json"):
        ModelConfig.from_folder(tmp_path)


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a model folder"):
        ModelConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(OLD))
    assert ModelConfig.from_folder(tmp_path) == MIXTRAL_8X7B
