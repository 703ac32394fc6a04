"""Every tensor of a layer: its names in a compressed checkpoint and in the original, its shape.

Free of torch. Readers, writers, planners and those who count bytes all go by these tables.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from engine.config import ModelConfig
from engine.layout import MATRICES, Matrix, PackedShape, matrix_shape
from engine.manifest import DENSE_BITS

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@dataclass(frozen=True)
class Original:
    """A tensor as the original stores it."""

    name: str
    shape: tuple[int, ...]


def expert_matrix(config: ModelConfig, layer: int, expert: int, matrix: Matrix) -> Original:
    """A matrix of an expert."""
    kind = config.architecture
    name = kind.matrices[MATRICES.index(matrix)]
    shape = matrix_shape(matrix, config.hidden_size, config.intermediate_size)
    return Original(f"{_block(config, layer)}.experts.{expert}.{name}.weight", shape)


def dense_matrices(config: ModelConfig, layer: int) -> dict[str, Original]:
    """What is packed at 4 bits: q, k, v, o, and the matrices of a shared expert, by our names."""
    attention, hidden = _attention(layer), config.hidden_size
    queries, keys = _widths(config)
    shapes = {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden)}
    shapes["o"] = (hidden, queries)
    found = {
        f"attention.{name}": Original(f"{attention}.{name}_proj.weight", shape)
        for name, shape in shapes.items()
    }
    size = config.traits.shared_size
    if size:
        prefix = f"{_block(config, layer)}.shared_expert"
        for matrix, name in zip(MATRICES, config.architecture.matrices, strict=True):
            shape = matrix_shape(matrix, hidden, size)
            found[f"shared.{matrix}"] = Original(f"{prefix}.{name}.weight", shape)
    return found


def dense_shapes(config: ModelConfig, group_size: int) -> dict[str, PackedShape]:
    """The packed shapes of a layer's `dense_matrices`. Raises UsageError where groups of this size
    do not fit."""
    sides = {name: original.shape for name, original in dense_matrices(config, 0).items()}
    return {
        name: PackedShape(rows, columns, DENSE_BITS, group_size)
        for name, (rows, columns) in sides.items()
    }


def small_tensors(config: ModelConfig, layer: int) -> dict[str, Original]:
    """What stays as it is, by our names: norms, biases, the router and a shared expert's gate."""
    prefix, block, attention = _layer(layer), _block(config, layer), _attention(layer)
    hidden, traits = config.hidden_size, config.traits
    queries, keys = _widths(config)
    found = {
        "router.weight": Original(f"{block}.gate.weight", (config.num_experts, hidden)),
        "input_norm.weight": Original(f"{prefix}.input_layernorm.weight", (hidden,)),
        "post_norm.weight": Original(f"{prefix}.post_attention_layernorm.weight", (hidden,)),
    }
    if traits.norms != "none":
        for name, size in zip("qk", config.norm_sizes, strict=True):
            found[f"attention.{name}.norm"] = Original(f"{attention}.{name}_norm.weight", (size,))
    if traits.qkv_bias:
        for name, size in {"q": queries, "k": keys, "v": keys}.items():
            found[f"attention.{name}.bias"] = Original(f"{attention}.{name}_proj.bias", (size,))
    if traits.shared_size:
        found["shared.share"] = Original(f"{block}.shared_expert_gate.weight", (1, hidden))
    return found


def layer_names(config: ModelConfig, layer: int) -> Iterator[str]:
    """The names of all tensors of a layer of the original."""
    for table in (dense_matrices(config, layer), small_tensors(config, layer)):
        yield from (original.name for original in table.values())
    for expert in range(config.num_experts):
        for matrix in MATRICES:
            yield expert_matrix(config, layer, expert, matrix).name


def _widths(config: ModelConfig) -> tuple[int, int]:
    """Outputs of the queries' projection, and of the keys' and values'."""
    return config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim


def _layer(layer: int) -> str:
    return f"model.layers.{layer}"


def _attention(layer: int) -> str:
    return f"{_layer(layer)}.self_attn"


def _block(config: ModelConfig, layer: int) -> str:
    return f"{_layer(layer)}.{config.architecture.block}"
