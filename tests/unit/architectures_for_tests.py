"""Tiny random models of every kind that can be compressed, made by transformers."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tests.unit.models_for_tests import save_tiny_mixtral

COMMON: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "num_experts_per_tok": 3,
}
NARROW: dict[str, Any] = {**COMMON, "num_experts": 8, "moe_intermediate_size": 96}

MAKERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "olmoe": (
        OlmoeForCausalLM,
        OlmoeConfig,
        {**COMMON, "num_experts": 8, "intermediate_size": 96, "eos_token_id": 2},
    ),
    "qwen3_moe": (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig,
        {**NARROW, "head_dim": 24, "norm_topk_prob": True},
    ),
    "qwen2_moe": (
        Qwen2MoeForCausalLM,
        Qwen2MoeConfig,
        {**NARROW, "shared_expert_intermediate_size": 128},
    ),
}
KINDS = tuple(MAKERS)


def save_tiny(kind: str, folder: Path, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Save a random model in ``folder`` as transformers does, and return it."""
    if kind == "mixtral":
        return save_tiny_mixtral(folder, seed, **changes)
    make, configure, base = MAKERS[kind]
    torch.manual_seed(seed)
    model: PreTrainedModel = make(configure(**{**base, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.5)
    model.save_pretrained(folder)
    return model
