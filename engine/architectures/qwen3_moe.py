"""Qwen3-MoE: queries and keys normed head by head."""

from engine.architectures.architecture import Architecture, Traits, all_sparse, switched_window
from engine.architectures.fields import Fields, flag, refuse


def _traits(fields: Fields) -> Traits:
    refuse(fields, "attention_bias", "Qwen3-MoE with biases is not supported")
    all_sparse(fields)
    return Traits(norms="head", renormalised=flag(fields, "norm_topk_prob", False))


QWEN3_MOE = Architecture(
    name="Qwen3MoeForCausalLM",
    model_type="qwen3_moe",
    block="mlp",
    matrices=("gate_proj", "up_proj", "down_proj"),
    expert_counts=("num_experts", "num_local_experts"),  # transformers 5 writes the latter
    inner_size="moe_intermediate_size",
    traits=_traits,
    window=switched_window,
    norm_eps=1e-6,
)
