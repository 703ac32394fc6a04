"""Tiny random Mixtrals, made by transformers, for tests that need a whole model."""

from pathlib import Path
from typing import Any

import torch
from transformers import MixtralConfig, MixtralForCausalLM

BASE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}


def save_tiny_mixtral(folder: Path, seed: int = 0, **changes: Any) -> MixtralForCausalLM:
    """Save a random model in ``folder`` as transformers does, and return it."""
    torch.manual_seed(seed)
    model = MixtralForCausalLM(MixtralConfig(**{**BASE, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return model
