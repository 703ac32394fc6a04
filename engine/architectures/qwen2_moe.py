"""Qwen2-MoE (also Qwen1.5-MoE): biased queries, keys and values, and an expert that every token
passes, behind a gate of its own."""

from engine.architectures.architecture import Architecture, Traits, all_sparse, no_window
from engine.architectures.fields import Fields, count, flag, refuse


def _traits(fields: Fields) -> Traits:
    refuse(fields, "use_sliding_window", "windows in some of the layers are not supported")
    all_sparse(fields)
    return Traits(
        qkv_bias=flag(fields, "qkv_bias", True),
        renormalised=flag(fields, "norm_topk_prob", False),
        shared_size=count(fields, "shared_expert_intermediate_size"),
    )


QWEN2_MOE = Architecture(
    name="Qwen2MoeForCausalLM",
    model_type="qwen2_moe",
    block="mlp",
    matrices=("gate_proj", "up_proj", "down_proj"),
    expert_counts=("num_experts",),
    inner_size="moe_intermediate_size",
    traits=_traits,
    window=no_window,
    norm_eps=1e-6,
)
