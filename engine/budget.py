"""How many bytes a model needs: weights, KV cache, workspace. Pure arithmetic, free of torch.

The planner promises with these functions what the engine then allocates, so both use the same
constants: the width of the cache's elements, the length of a prefill chunk, the layout.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.config import ModelConfig
from engine.errors import UsageError
from engine.layout import arena_layout
from engine.manifest import FULL_BITS, RestBits
from engine.tensor_names import dense_shapes

DeviceKind = Literal["cuda", "cpu"]
KvBits = Literal[8, 16]
"""Bits of a key's or value's element; 16 stands for the type of the activations."""

ExpertBits = Sequence[Sequence[int]]
"""``expert_bits[layer][expert]``, in bits."""

NOMINAL_BITS = (1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0)
"""The mean widths of the experts that are planned for, in bits; `compress.plan` says why."""

WIDE_BITS = (3.25, 3.5, 3.75, 4.0)
"""More of them, for a card with room to spare: some experts then have 4 bits."""

GROUP_SIZE = 128
"""Weights that share a scale, where nothing else is asked for."""

DEFAULT_CONTEXT = 8192
"""Tokens of context where nothing else is asked for and the model was trained for as many."""

STORED_BYTES = 2
"""Bytes of an element of the embeddings and the head, 16-bit wherever they are."""

COMPUTE_BYTES: dict[DeviceKind, int] = {"cuda": 2, "cpu": 4}
"""Bytes of an element of routers, norms, activations and the KV cache: 16-bit on a GPU, float32
on a CPU. An original checkpoint is held in this type as a whole."""

PREFILL_CHUNK: dict[DeviceKind, int] = {"cuda": 512, "cpu": 256}
"""Tokens of a prompt that go through the model at once. Longer chunks are faster, shorter ones can
be cancelled sooner: 256 tokens of the demo take 60 ms on two CPU cores."""

QUERY_BLOCK = 256
"""Queries that attend at once where a mask or a map is needed."""

MAP_ELEMENTS = 1 << 21
"""Elements of the attention map in memory at once: few enough to stay in a processor's cache."""

MAP_QUERIES = 64
"""Queries whose map is made at once before several key heads are taken at once."""

KEY_BLOCK = 1024
"""Keys of 8 bits that are made floats at once."""

_MAP_BYTES: dict[DeviceKind, int] = {"cuda": 4 + 4 + 2, "cpu": 4 + 4}
"""Bytes per element of such a map, before and after its softmax, and on a GPU again in 16 bits for
the product."""

_ROW_SUMS = 5
"""Numbers that go with every row of it: its sum, its weight, and what they are made of."""

_MASK_BYTES: dict[DeviceKind, int] = {"cuda": 1 + 1 + 2, "cpu": 0}
"""Bytes per query and key of a mask, its parts, and what torch's kernel makes of it; on a CPU less
than a map takes."""

_DEQUANTIZED_BYTES: dict[DeviceKind, int] = {"cuda": 4 + 4 + 4, "cpu": 0}
"""Bytes per weight of a matrix while it is dequantized: code, difference and product in float32.
The CPU's kernels read packed weights."""

_KV_SCALE_BYTES = 2
"""Of a key or value of 8 bits an element: one float16."""

AS_IT_IS = RestBits()
"""Router and head in 16 bits, as everything is planned that is yet to be made."""

CUDA_CONTEXT_BYTES = 512 << 20
"""What CUDA itself takes on a card for each process that uses it: context, libraries, loaded
kernels. Not part of a budget: the free memory that a process reads on its card has it deducted."""

CONTEXT_STEP = 256
"""Contexts that are proposed are multiples of this many tokens."""

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


def choose_context(config: ModelConfig, context: int | None) -> int:
    """The context to allocate, in tokens: ``context``, or a default if that is None.

    Raises UsageError for one that the model was not trained for.
    """
    if context is None:
        return min(DEFAULT_CONTEXT, config.max_context)
    if not 0 < context <= config.max_context:
        raise UsageError(
            f"a context of {context} tokens is not possible; "
            f"the model was trained for 1 to {config.max_context}"
        )
    return context


def compressed_budget(
    config: ModelConfig,
    expert_bits: ExpertBits,
    group_size: int,
    context: int,
    kind: DeviceKind,
    rest: RestBits = AS_IT_IS,
    kv_bits: KvBits = 16,
    rotated: bool = False,
) -> Budget:
    """What a compressed checkpoint with these widths takes at ``context`` tokens; where ``rotated``
    its experts are, and store no zero points."""
    layers = Counter(map(tuple, expert_bits))  # those of equal widths are counted once
    experts = sum(
        count * expert_bytes(config, bits, group_size, rotated) for bits, count in layers.items()
    )
    return Budget(
        weights=dense_bytes(config, group_size, kind, rest) + experts,
        kv_cache=kv_cache_bytes(config, context, kind, kv_bits),
        workspace=workspace_bytes(config, context, kind, rest, kv_bits),
    )


def nominal_budget(
    config: ModelConfig,
    nominal_bits: float,
    group_size: int,
    context: int,
    kind: DeviceKind,
    kv_bits: KvBits = 16,
    rotated: bool = False,
) -> Budget:
    """What a checkpoint of this mean width will take, before its allocation is known."""
    layers = (spread_bits(nominal_bits, config.num_experts),) * config.num_layers
    return compressed_budget(config, layers, group_size, context, kind, AS_IT_IS, kv_bits, rotated)


def original_budget(
    config: ModelConfig, context: int, kind: DeviceKind, kv_bits: KvBits = 16
) -> Budget:
    """What the uncompressed checkpoint takes at ``context`` tokens."""
    return Budget(
        weights=config.total_weights * COMPUTE_BYTES[kind],
        kv_cache=kv_cache_bytes(config, context, kind, kv_bits),
        workspace=workspace_bytes(config, context, kind, AS_IT_IS, kv_bits),
    )


def largest_that_fits(
    config: ModelConfig,
    group_size: int,
    context: int,
    kind: DeviceKind,
    free_bytes: int,
    below: float = math.inf,
    kv_bits: KvBits = 16,
    rotated: bool = False,
) -> float | None:
    """The largest planned width under ``below`` that fits into ``free_bytes``, None if none."""

    def need(bits: float) -> Budget:
        return nominal_budget(config, bits, group_size, context, kind, kv_bits, rotated)

    planned = [bits for bits in NOMINAL_BITS + WIDE_BITS if bits < below]
    return max((bits for bits in planned if need(bits).fits(free_bytes)), default=None)


def longest_context(
    config: ModelConfig, need: Callable[[int], Budget], free_bytes: int
) -> int | None:
    """The longest context, in tokens, at which ``need(context)`` fits; None if not even 256 do."""
    steps = range(1, config.max_context // CONTEXT_STEP + 1)
    fitting = bisect_right(steps, free_bytes, key=lambda step: need(step * CONTEXT_STEP).total)
    return fitting * CONTEXT_STEP or None


def expert_bytes(
    config: ModelConfig, bits: Sequence[int], group_size: int, rotated: bool = False
) -> int:
    """Codes, scales and zero points of one layer's experts."""
    hidden, inner = config.hidden_size, config.intermediate_size
    layout = arena_layout(tuple(bits), hidden, inner, group_size, rotated)
    return layout.code_bytes + layout.metadata_bytes


def matrix_bytes(config: ModelConfig, group_size: int) -> int:
    """One layer's matrices at 4 bits: q, k, v and o, and those of a shared expert."""
    return sum(shape.total_bytes for shape in dense_shapes(config, group_size).values())


def dense_bytes(
    config: ModelConfig, group_size: int, kind: DeviceKind, rest: RestBits = AS_IT_IS
) -> int:
    """Everything but the experts that are chosen among: attention, a shared expert, routers, norms,
    embeddings, head.

    On "cuda" also what it takes in the files, where nothing but them is wider than 16 bits.
    """
    hidden, compute = config.hidden_size, COMPUTE_BYTES[kind]
    router = rest.router_shape(config, group_size)
    router_bytes = router.total_bytes if router else config.num_experts * hidden * compute
    embeddings = config.vocab_size * hidden * STORED_BYTES
    head = rest.head_shape(config, group_size)
    head_bytes = head.total_bytes if head else 0 if config.tie_embeddings else embeddings
    small_bytes = config.small_weights * compute
    per_layer = matrix_bytes(config, group_size) + router_bytes + small_bytes
    return config.num_layers * per_layer + embeddings + head_bytes + hidden * compute


def kv_cache_bytes(
    config: ModelConfig, context: int, kind: DeviceKind, kv_bits: KvBits = 16
) -> int:
    """Keys and values of ``context`` tokens in all layers; at 8 bits a scale with each."""
    rows = 2 * config.num_layers * config.num_kv_heads * context
    if kv_bits == 8:
        return rows * (config.head_dim + _KV_SCALE_BYTES)
    return rows * config.head_dim * COMPUTE_BYTES[kind]


def workspace_bytes(
    config: ModelConfig,
    context: int,
    kind: DeviceKind,
    rest: RestBits = AS_IT_IS,
    kv_bits: KvBits = 16,
) -> int:
    """What a prefill chunk that ends a full context needs beyond weights and cache, with ODP.

    On a CPU the larger of a layer's two halves: what the first gave back the second takes. A
    GPU's allocator keeps blocks of sizes that do not match, so there both count in full, and the
    largest matrix that the reference kernels dequantize.
    """
    attention = _attention_workspace(config, context, kind, kv_bits)
    experts = _experts_workspace(config, context, kind)
    if kind == "cpu":
        return max(attention, experts)
    outputs = config.intermediate_size
    if rest.head != FULL_BITS:
        outputs = max(outputs, config.vocab_size)
    return attention + experts + config.hidden_size * outputs * _DEQUANTIZED_BYTES[kind]


def map_sizes(repeat: int, keys: int, heads: int) -> tuple[int, int]:
    """Key heads, of ``heads``, and queries of each of their ``repeat`` query heads, whose maps on
    ``keys`` keys are made at once."""
    row = repeat * keys
    count = max(1, min(heads, MAP_ELEMENTS // (row * MAP_QUERIES)))
    return count, max(1, min(QUERY_BLOCK, MAP_ELEMENTS // (row * count)))


def _attention_workspace(
    config: ModelConfig, context: int, kind: DeviceKind, kv_bits: KvBits
) -> int:
    """While the map of a block of queries is made, or a cached prefix of 8 bits is read; see
    `engine.mixing.Prompt`. A GPU's own kernels make no map: counted is what it takes without them.
    """
    compute, tokens = COMPUTE_BYTES[kind], min(PREFILL_CHUNK[kind], context)
    queries, kv_width = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
    # Residual, normed, q, what comes out, rotation; a prefix's mixed values and log-sum-exp.
    rows = 2 * config.hidden_size + 2 * queries + 2 * config.head_dim
    if context > tokens:
        rows += queries + config.num_heads
    keys = _mapped_keys(config, context, tokens, kind)
    repeat = config.num_heads // config.num_kv_heads
    heads, block = map_sizes(repeat, keys, config.num_kv_heads)
    block = min(block, tokens)
    made = heads * repeat * block  # rows of the map, and of what is mixed by it
    mapping = made * keys * _MAP_BYTES[kind] + made * (config.head_dim + _ROW_SUMS) * compute
    masking = min(QUERY_BLOCK, tokens) * context * _MASK_BYTES[kind]
    reading = 0
    if kv_bits == 8:  # keys and values are made floats
        mapping += 2 * heads * keys * config.head_dim * compute
        reading = (tokens * queries + 2 * KEY_BLOCK * kv_width) * compute
    return tokens * rows * compute + max(mapping, masking, reading)


def _mapped_keys(config: ModelConfig, context: int, tokens: int, kind: DeviceKind) -> int:
    """The keys that a chunk's map covers: all that are seen, or without a prefix split off."""
    window = config.sliding_window
    if window is not None and context > window:
        return min(context, window + QUERY_BLOCK)
    return tokens if kind == "cpu" else context


def _experts_workspace(config: ModelConfig, context: int, kind: DeviceKind) -> int:
    """While all tokens of the chunk are in one expert, the most that a router can ask for."""
    tokens = min(PREFILL_CHUNK[kind], context)
    stream = 4 * config.hidden_size + 2 * config.head_dim  # in, attended, normed, out; rotation
    widest = max(config.intermediate_size, config.traits.shared_size)
    inside = config.hidden_size + 3 * widest  # chosen rows; gate, up, product
    return (tokens * (stream + inside) + config.vocab_size) * COMPUTE_BYTES[kind]


def spread_bits(nominal_bits: float, experts: int) -> tuple[int, ...]:
    """Widths of ``experts`` experts whose mean is ``nominal_bits`` as nearly as whole bits allow.

    The evenest spread: what the planner counts before an allocation exists. One-bit experts
    store no zero points and this spread has the fewest of them, so a real allocation of the same
    mean takes at most these bytes (0 to 3 % less).
    """
    total = round(nominal_bits * experts)
    low, wider = divmod(total, experts)
    return (low + 1,) * wider + (low,) * (experts - wider)
