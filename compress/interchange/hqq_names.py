"""What an export to hqq is made of: its files, and the name of every tensor in them.

    model-00001-of-00033.safetensors ...   a decoder layer each, the last one what is in no layer
    model.safetensors.index.json           the file of each tensor
    hqq.json                               what is what, for whoever reads the layers with hqq
    exported-mc.json                       the checkpoint's manifest, for the way back
    config.json, tokenizer files           as they are

Tensors are called what they are called in the original checkpoint. A projection is the state of an
`HQQLinear` under its name (`...self_attn.q_proj.W_q`, `.scale`, `.zero`, ...), as are routers and
the head where they are packed; all others are the 16-bit tensors that they were.
"""

from engine.architectures.mixtral import MIXTRAL
from engine.checkpoint import PROJECTIONS, Projection
from engine.config import ModelConfig
from engine.errors import UsageError
from engine.layout import MATRICES, Matrix
from engine.original import INDEX_FILE

DESCRIPTION = "hqq.json"
MANIFEST_COPY = "exported-mc.json"
FORMAT_VERSION = 1
INDEX = INDEX_FILE

DENSE = {
    "embed.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
"""What belongs to no layer: our name, and the original's."""

PACKED_HEAD = "lm_head"
"""The name of the head where it is packed."""

_REST = {
    "router.weight": "block_sparse_moe.gate.weight",
    "input_norm.weight": "input_layernorm.weight",
    "post_norm.weight": "post_attention_layernorm.weight",
}


def check_architecture(config: ModelConfig) -> None:
    """Raise UsageError for a model that has more than these names."""
    if config.architecture != MIXTRAL:
        raise UsageError(
            f"hqq's layers are written and read for {MIXTRAL.name} only, not for "
            f"{config.architecture.name}"
        )


def file_name(number: int, count: int) -> str:
    """File ``number`` of ``count``, from 1."""
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def attention(layer: int) -> dict[Projection, str]:
    """The name of each projection of a layer's attention."""
    return {name: f"model.layers.{layer}.self_attn.{name}_proj" for name in PROJECTIONS}


def expert(layer: int, index: int) -> dict[Matrix, str]:
    """The name of each matrix of an expert."""
    prefix = f"model.layers.{layer}.block_sparse_moe.experts.{index}"
    return {ours: f"{prefix}.{name}" for ours, name in zip(MATRICES, MIXTRAL.matrices, strict=True)}


def rest(layer: int) -> dict[str, str]:
    """What of a layer is not quantized, unless its router is: our name, and the original's."""
    return {ours: f"model.layers.{layer}.{name}" for ours, name in _REST.items()}


def router(layer: int) -> str:
    """The name of a layer's router where it is packed."""
    return rest(layer)["router.weight"].removesuffix(".weight")
