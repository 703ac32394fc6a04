"""How many bytes a model needs: weights, KV cache, workspace. Pure arithmetic, free of torch.

The planner promises with these functions what the engine then allocates, so both use the same
constants: the width of the cache's elements, the length of a prefill chunk, the layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.config import ModelConfig
from engine.layout import PackedShape, arena_layout
from engine.manifest import DENSE_BITS

DeviceKind = Literal["cuda", "cpu"]
ExpertBits = Sequence[Sequence[int]]
"""``expert_bits[layer][expert]``, in bits."""

SOURCE_BYTES = 2
"""Bytes of an element that is not quantized: router, norms, embeddings, head."""

CACHE_BYTES: dict[DeviceKind, int] = {"cuda": 2, "cpu": 4}
"""Bytes of an element of the KV cache: 16-bit on a GPU; float32, the compute type, on a CPU."""

ACTIVATION_BYTES: dict[DeviceKind, int] = {"cuda": 2, "cpu": 4}
"""Bytes of an element of an activation."""

PREFILL_CHUNK = 512
"""Tokens of a prompt that go through the model at once."""

COMFORT = 0.9
"""A model that needs more than this share of the free memory fits, but tightly: allocators
fragment, and the desktop or another program may want memory while the chat runs."""


@dataclass(frozen=True)
class Budget:
    """Bytes by part."""

    weights: int
    kv_cache: int
    workspace: int

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return self.weights + self.kv_cache + self.workspace

    def fits(self, free_bytes: int) -> bool:
        """Whether all of it goes into ``free_bytes``."""
        return self.total <= free_bytes

    def is_tight(self, free_bytes: int) -> bool:
        """Whether it fits but leaves less than a tenth of ``free_bytes``."""
        return self.fits(free_bytes) and self.total > COMFORT * free_bytes


def compressed_budget(
    config: ModelConfig, expert_bits: ExpertBits, group_size: int, context: int, kind: DeviceKind
) -> Budget:
    """What a compressed checkpoint with these widths takes at ``context`` tokens."""
    weights = dense_bytes(config, group_size) + sum(
        expert_bytes(config, bits, group_size) for bits in expert_bits
    )
    return Budget(weights, kv_cache_bytes(config, context, kind), workspace_bytes(config, kind))


def original_budget(config: ModelConfig, context: int, kind: DeviceKind) -> Budget:
    """What the uncompressed 16-bit checkpoint takes at ``context`` tokens."""
    weights = config.total_weights * SOURCE_BYTES
    return Budget(weights, kv_cache_bytes(config, context, kind), workspace_bytes(config, kind))


def expert_bytes(config: ModelConfig, bits: Sequence[int], group_size: int) -> int:
    """Codes, scales and zero points of one layer's experts."""
    layout = arena_layout(tuple(bits), config.hidden_size, config.intermediate_size, group_size)
    return layout.code_bytes + layout.metadata_bytes


def attention_bytes(config: ModelConfig, group_size: int) -> int:
    """One layer's q, k, v and o projections, packed."""
    hidden = config.hidden_size
    queries = config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    shapes = [(queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries)]
    return sum(
        PackedShape(rows, columns, DENSE_BITS, group_size).total_bytes for rows, columns in shapes
    )


def dense_bytes(config: ModelConfig, group_size: int) -> int:
    """Everything but the experts: attention, routers, norms, embeddings, head."""
    hidden = config.hidden_size
    router_and_norms = (config.num_experts + 2) * hidden * SOURCE_BYTES
    embeddings = config.vocab_size * hidden * (1 if config.tie_embeddings else 2) * SOURCE_BYTES
    per_layer = attention_bytes(config, group_size) + router_and_norms
    return config.num_layers * per_layer + embeddings + hidden * SOURCE_BYTES


def kv_cache_bytes(config: ModelConfig, context: int, kind: DeviceKind) -> int:
    """Keys and values of ``context`` tokens in all layers."""
    per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    return per_token * context * CACHE_BYTES[kind]


def workspace_bytes(config: ModelConfig, kind: DeviceKind) -> int:
    """Activations of one prefill chunk, at their peak inside a layer, and the logits."""
    hidden, inner = config.hidden_size, config.intermediate_size
    stream = 4 * hidden  # residual, normed, attention or MoE output, their sum
    experts = config.top_k * (2 * inner + hidden)  # gate, up, and what comes out
    heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    elements = PREFILL_CHUNK * (stream + max(experts, heads)) + 2 * config.vocab_size
    return elements * ACTIVATION_BYTES[kind]


def spread_bits(nominal_bits: float, experts: int) -> tuple[int, ...]:
    """Widths of ``experts`` experts whose mean is ``nominal_bits`` as nearly as whole bits allow.

    The evenest spread: what the planner counts before an allocation exists. One-bit experts
    store no zero points and this spread has the fewest of them, so a real allocation of the same
    mean takes at most these bytes (0 to 3 % less).
    """
    total = round(nominal_bits * experts)
    low, wider = divmod(total, experts)
    return (low + 1,) * wider + (low,) * (experts - wider)
