"""OLMoE: queries and keys normed over all heads at once, routing weights left as they are."""

from engine.architectures.architecture import Architecture, Traits, no_window
from engine.architectures.fields import Fields, flag, positive, refuse


def _traits(fields: Fields) -> Traits:
    refuse(fields, "attention_bias", "OLMoE with biases is not supported")
    clip = fields.get("clip_qkv")
    return Traits(
        norms="all",
        clip=None if clip is None else positive(clip, "clip_qkv"),
        renormalised=flag(fields, "norm_topk_prob", False),
    )


OLMOE = Architecture(
    name="OlmoeForCausalLM",
    model_type="olmoe",
    block="mlp",
    matrices=("gate_proj", "up_proj", "down_proj"),
    expert_counts=("num_experts",),
    inner_size="intermediate_size",
    traits=_traits,
    window=no_window,
    norm_eps=1e-5,
)
