"""Mixtral: what the program was made for, and the others are compared with."""

from engine.architectures.architecture import AS_MIXTRAL, Architecture, own_window

MIXTRAL = Architecture(
    name="MixtralForCausalLM",
    model_type="mixtral",
    block="block_sparse_moe",
    matrices=("w1", "w3", "w2"),
    expert_counts=("num_local_experts",),
    inner_size="intermediate_size",
    traits=lambda fields: AS_MIXTRAL,
    window=own_window,
    norm_eps=1e-5,
)
