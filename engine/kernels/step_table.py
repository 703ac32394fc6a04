"""Where the compiled step finds everything: the columns of its tables, all int64.

A table of sizes and addresses describes any model with one compiled type. The names are constants
to numba.
"""

LINEAR_FIELDS = 8
KIND, ROWS, COLUMNS, BITS, GROUP, WEIGHTS, SCALES, ZEROS = range(LINEAR_FIELDS)
"""Of a dense layer: what its weights are, sizes, addresses. ``WEIGHTS`` may be codes."""

FLOAT_WEIGHTS, HALF_WEIGHTS, BRAIN_WEIGHTS, PACKED_WEIGHTS = range(4)
"""``KIND``: float32, float16, bfloat16, packed."""

LINEARS = tuple(LINEAR_FIELDS * place for place in range(8))
QUERY, KEY, VALUE, OUTPUT, ROUTER, *_SHARED_EXPERT = LINEARS
SHARED_GATE, SHARED_UP, SHARED_DOWN = _SHARED_EXPERT
"""Where a layer's dense layers begin in its row; those of a shared expert have no rows where there
is none."""

_LAYER_NAMES = range(8 * LINEAR_FIELDS, 8 * LINEAR_FIELDS + 19)
INPUT_NORM, POST_NORM, QUERY_NORM, KEY_NORM, EXPERT_TABLE, *_MORE, LAYER_FIELDS = _LAYER_NAMES
EXPERT_CODES, EXPERT_SCALES, EXPERT_ZEROS, EXPERT_GROUP, ROTATED, *_MORE = _MORE
QUERY_BIAS, KEY_BIAS, VALUE_BIAS, SHARE, *_CACHE = _MORE
KEYS, VALUES, KEY_SCALES, VALUE_SCALES = _CACHE
"""The rest of a layer's row; ``EXPERT_TABLE`` is the table of an `Arena`, ``ROTATED`` whether that
is, 1 or 0; ``SHARE``: weights [H] of what a shared expert counts. Norms and biases of queries, keys
and values are 0 where there are none, the scales where keys and values are float32, and not
int8."""

HEAD = 0
"""Where the head begins in the row of the model."""

_SIZES = range(LINEAR_FIELDS, LINEAR_FIELDS + 14)
THREADS, LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, WINDOW, TOP_K, EXPERTS, *_ROOMS = _SIZES
CAPACITY, SPLITS, NORM_ALL, RENORMALISED = _ROOMS
"""``WINDOW``: in tokens, beyond any context where there is none; ``CAPACITY``: tokens that the
cache has room for; ``SPLITS``: parts of their keys; ``NORM_ALL``: whether queries and keys are
normed over all heads at once, ``RENORMALISED``: whether the weights of the chosen experts are made
to sum to 1; both 1 or 0."""

_WEIGHTS = range(_SIZES.stop, _SIZES.stop + 7)
EMBED_KIND, EMBED, FINAL_NORM, EPSILONS, RULE, OTP, PRICE = _WEIGHTS
"""``EPSILONS``: float32 [2 L + 3], of the norms in order, then that of queries and keys, and last
the bound on the size of queries, keys and values, infinite where there is none; ``RULE``:
float32 [L, K], thresholds of all slots but the first, and the quantile of each layer; ``OTP``:
float32 [L, K - 1, H + K], routers that decide instead, or 0; ``PRICE``: float32 [1], a slot's."""

_SHARED = range(_WEIGHTS.stop, _WEIGHTS.stop + 14)
STREAM, BETWEEN, NORMED, PROJECTED, MIXTURES, FACTS, ACTIVATIONS, IDS, *_REST = _SHARED
SHARES, COUNTS, PROGRESS, SHARED_INPUT, SHARED_ACTIVATIONS, SHARED_FACTOR = _REST
"""What threads share: the residual stream before and after attention, the input of the experts
[H each]; q, k and v side by side; of each part of the keys what it gives every query
[KV, splits, R, D], and three numbers on that (`step_loops`); silu(gate) * up [K, I]; experts and
their weights [L, K], slots counted [L, 2 * E]; progress, a LINE for each phase, zero at first; of a
shared expert its input [H], not rotated, silu(gate) * up [S], and float32 [1], what it counts."""

_OWN = range(_SHARED.stop, _SHARED.stop + 9)
PRIVATE, PRIVATE_BYTES, INPUTS, SUMS, PAIRS, QUADS, RESULTS, SCORES, QUERIES = _OWN
"""What each thread has for itself: where the first one's begins, the bytes of each, and at which
byte there are inputs of a product, their sums by group and tables, its outputs, the scores of some
keys [R, KEY_BLOCK], and queries [R, D]."""

_SYSTEM = range(_OWN.stop, _OWN.stop + 4)
YIELD, CLOCK, STAMPS, MODEL_FIELDS = _SYSTEM
"""Functions of the system, and where the time at the end of each phase goes, int64 [phases] in
nanoseconds; 0 for none."""

TOKEN, POSITION, COSINES, SINES, LOGITS, CALL_FIELDS = range(6)
"""Of a call: rotation of the position, float32 [D] each, and float32 [V] to write."""

PHASES = 6
"""Of a layer. The embedding before them and the head after them are one phase each, and behind the
head there is one for the shared expert of each layer, gate and up, which the others go around."""

LINE = 16
"""int64 for the progress of a phase: two cache lines, one for what was taken, one for what is done.
They are fetched in pairs."""

TILES = 16
"""Row tiles that a thread takes at once, at most: they share the tables of their inputs."""

KEY_BLOCK = 128
"""Keys whose scores become weights at once."""

SPLIT_KEYS = 1024
"""Keys of one part."""

COLUMN_BLOCK = 512
"""Inputs whose tables are made at once, unless a group is larger: they fit the nearest cache."""
