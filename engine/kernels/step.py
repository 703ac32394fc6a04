"""Decoding one token on a CPU as one compiled call: what that needs, gathered from a model.

`step_loops` is the computation, `step_table` the tables that tell it where everything lies,
`step_parts` says which models it takes.
"""

import ctypes
import math
import operator
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.cache import KVCache
from engine.config import ModelConfig
from engine.experts import PackedExperts
from engine.kernels import step_table as at
from engine.kernels.step_parts import KINDS, linear_row, suits
from engine.layout import TILE_ROWS
from engine.linear import AdjustedLinear, Linear, product_of
from engine.pruning import NO_PRUNING, DecodeRule, Routing
from engine.threads import SMALLEST_SHARED, useful_threads

if TYPE_CHECKING:
    from engine.model import Layer, Model

_POSITIONS = 256
"""Positions whose rotation is worked out at once."""

_FEW_SEQUENCES = 4
"""So many are faster one after the other whatever the model's size: what all of them share saves
less than the general path takes for itself."""

_PLACES = [at.KEYS, at.VALUES, at.KEY_SCALES, at.VALUE_SCALES]
"""A layer's fields that say where its cache lies."""

_CACHE_LINE = 64
_FLOAT = 4  # bytes

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Decoder:
    """The step of one model, made anew when a part of the model was exchanged."""

    def __init__(self) -> None:
        self._parts: list[Any] = []
        self._step: DecodeStep | None = None

    def __reduce__(self) -> tuple[type["Decoder"], tuple[()]]:
        # A copied model lies elsewhere.
        return Decoder, ()

    def step(self, model: "Model") -> "DecodeStep | None":
        """The step of the model as it is; None where it has parts that the step does not know."""
        parts = list(_parts(model))
        if len(parts) != len(self._parts) or not all(map(operator.is_, parts, self._parts)):
            self._parts = parts
            self._step = DecodeStep(model) if suits(model) else None
        return self._step


class DecodeStep:
    """One model's decoding of single tokens.

    It reads the model's memory by address; the `Decoder` holds on to all of that. After a call,
    ``ids`` int64 and ``weights`` float32 [L, K] say which experts ran (below 0: skipped),
    ``counts`` int64 [L, 2 * E] how many slots of each expert ran, and then how many were skipped.
    """

    def __init__(self, model: "Model") -> None:
        """For a model whose parts are all known; see `Decoder`."""
        config = model.config
        layers, top_k = config.num_layers, config.top_k
        self.ids = np.zeros((layers, top_k), np.int64)
        self.weights = np.zeros((layers, top_k), np.float32)
        self.counts = np.zeros((layers, 2 * config.num_experts), np.int64)
        self._config = config
        self._rope = model.rope
        self._progress = np.zeros((2 + (at.PHASES + 1) * layers) * at.LINE, np.int64)
        self._rule = NO_PRUNING.decode_rule(layers)
        self._rule_numbers = np.zeros((layers, top_k), np.float32)
        self._price = np.zeros(1, np.float32)
        self._layers = np.array([_layer_row(layer) for layer in model.layers])
        self._model = self._model_row(model)
        self._call = np.zeros(at.CALL_FIELDS, np.int64)
        self._cache: Callable[[], KVCache | None] = lambda: None
        self._sequence = 0
        self._first_position = -_POSITIONS
        self._lock = threading.Lock()
        self._write_rule(self._rule)

    def takes(self, cache: KVCache, rule: DecodeRule) -> bool:
        """Whether it can go on from this cache, by this rule, no slower than layer by layer.

        A batch is run one sequence after the other. Layers read their weights once for all of it,
        which is worth it where the weights do not stay in the processor's cache anyway.
        """
        keys, config = cache.layers[0].keys, self._config
        known = keys.dtype in (torch.float32, torch.int8) and keys.is_cpu
        few = len(keys) <= _FEW_SEQUENCES or config.hidden_size < SMALLEST_SHARED
        return known and few and rule.fits(config.top_k)

    def run(self, token: int, cache: KVCache, rule: DecodeRule, sequence: int = 0) -> Tensor:
        """Logits float32 [V] of a token after those in the cache, where keys and values are put.

        ``sequence`` says which one of the cache's batch it continues. The cache's length is the
        caller's to move. Raises ContextFullError, and IndexError for a number that is no token's.
        """
        if not 0 <= token < self._config.vocab_size:
            raise IndexError(f"{token} is none of the {self._config.vocab_size} tokens")
        cache.reserve(1)
        logits = torch.empty(self._config.vocab_size)
        with self._lock:
            if self._cache() is not cache:
                self._find(cache)
            if sequence != self._sequence:
                self._layers[:, _PLACES] = self._places + sequence * self._strides
                self._sequence = sequence
            if rule != self._rule:
                self._write_rule(rule)
            cosines, sines = self._rotation_at(cache.length)
            self._call[:] = token, cache.length, cosines, sines, logits.data_ptr()
            self._compute(useful_threads(self._config))
        return logits

    def stamp(self) -> Ints:
        """From now on, every call notes here when each phase was over: nanoseconds, int64 [phases].

        The embedding, then of each layer q, k and v; attention; o; router; gate and up; down; then
        the head. Costs some 50 ns a phase. For POSIX systems.
        """
        self._stamps = np.zeros(2 + at.PHASES * self._config.num_layers, np.int64)
        self._model[at.CLOCK] = _address("clock_gettime")
        self._model[at.STAMPS] = self._stamps.ctypes.data
        return self._stamps

    def routings(self) -> list[Routing]:
        """Of the last call, layer by layer."""
        ids, weights = torch.from_numpy(self.ids.copy()), torch.from_numpy(self.weights.copy())
        return [Routing(*parts) for parts in zip(ids[:, None], weights[:, None], strict=True)]

    def _compute(self, threads: int) -> None:
        """Run on this thread and on others, which may come late."""
        run = compiled_step()
        self.counts.fill(0)
        self._progress.fill(0)
        if threads > self._threads:
            self._make_room(threads)
        self._model[at.THREADS] = threads
        arguments = self._model, self._layers, self._call
        others = [_pool().submit(run, *arguments, n) for n in range(1, threads)]
        run(*arguments, 0)
        for other in others:
            other.result()

    def _find(self, cache: KVCache) -> None:
        """Note where a cache lies, and make room for as many parts as it may have."""
        parts = [
            (layer.keys, layer.values, layer.key_scales, layer.value_scales)
            for layer in cache.layers
        ]
        # Of the first sequence, and in bytes how far the next one's lie from it.
        self._places = np.array([[0 if t is None else t.data_ptr() for t in row] for row in parts])
        self._strides = np.array([[0 if t is None else t[0].nbytes for t in row] for row in parts])
        self._layers[:, _PLACES] = self._places
        self._sequence = 0
        config, splits = self._config, -(-cache.capacity // at.SPLIT_KEYS)
        self._mixtures = _floats(config.num_heads * splits * config.head_dim)
        self._facts = _floats(config.num_heads * splits * 3)
        self._model[at.CAPACITY], self._model[at.SPLITS] = cache.capacity, splits
        self._model[at.MIXTURES] = self._mixtures.ctypes.data
        self._model[at.FACTS] = self._facts.ctypes.data
        self._cache = weakref.ref(cache)

    def _write_rule(self, rule: DecodeRule) -> None:
        self._rule = rule
        self._rule_numbers[:] = rule.levels(self._config.top_k)
        self._price[:] = 0.0 if rule.otp is None else rule.otp.price
        self._model[at.OTP] = 0 if rule.otp is None else rule.otp.routers.data_ptr()

    def _rotation_at(self, position: int) -> tuple[int, int]:
        """Where cosines and sines of a position lie; those of some later ones are made, too."""
        place = position - self._first_position
        if not 0 <= place < _POSITIONS:
            rotation = self._rope.at(position, _POSITIONS)
            self._rotation = rotation.cos, rotation.sin  # [positions, D]
            self._first_position, place = position, 0
        offset = place * self._config.head_dim * _FLOAT
        return self._rotation[0].data_ptr() + offset, self._rotation[1].data_ptr() + offset

    def _model_row(self, model: "Model") -> Ints:
        """The table's row of the model, without what a cache or a number of threads decides."""
        config, row = self._config, np.zeros(at.MODEL_FIELDS, np.int64)
        row[at.HEAD : at.HEAD + at.LINEAR_FIELDS] = linear_row(model.head)
        for field, size in {
            at.LAYERS: config.num_layers,
            at.HIDDEN: config.hidden_size,
            at.INNER: config.intermediate_size,
            at.HEADS: config.num_heads,
            at.KV_HEADS: config.num_kv_heads,
            at.HEAD_DIM: config.head_dim,
            at.WINDOW: config.sliding_window or np.iinfo(np.int64).max >> 1,
            at.TOP_K: config.top_k,
            at.EXPERTS: config.num_experts,
            at.NORM_ALL: config.traits.norms == "all",
            at.RENORMALISED: config.traits.renormalised,
        }.items():
            row[field] = size
        row[at.EMBED_KIND], row[at.EMBED] = KINDS[model.embed.dtype], model.embed.data_ptr()
        row[at.FINAL_NORM] = model.norm.weight.data_ptr()
        norms = [norm for layer in model.layers for norm in (layer.input_norm, layer.post_norm)]
        epsilons = [norm.eps for norm in [*norms, model.norm]]
        epsilons += [config.rms_norm_eps, config.traits.clip or math.inf]
        self._epsilons = np.array(epsilons, np.float32)
        hidden, inner = config.hidden_size, config.intermediate_size
        shared: dict[int, NDArray[Any]] = {
            at.STREAM: _floats(hidden),
            at.BETWEEN: _floats(hidden),
            at.NORMED: _floats(hidden),
            at.PROJECTED: _floats(_projected(config)),
            at.ACTIVATIONS: _floats(config.top_k * inner),
            at.EPSILONS: self._epsilons,
            at.RULE: self._rule_numbers,
            at.PRICE: self._price,
            at.IDS: self.ids,
            at.SHARES: self.weights,
            at.COUNTS: self.counts,
            at.PROGRESS: self._progress,
            at.SHARED_INPUT: _floats(hidden),
            at.SHARED_ACTIVATIONS: _floats(config.traits.shared_size),
            at.SHARED_FACTOR: _floats(1),
        }
        self._shared = list(shared.values())
        for field, array in shared.items():
            row[field] = array.ctypes.data
        row[at.YIELD] = _address("SwitchToThread" if sys.platform == "win32" else "sched_yield")
        self._lay_out(row, self._layers)
        return row

    def _lay_out(self, row: Ints, layers: Ints) -> None:
        """What a thread has for itself: how much, and where in it everything lies."""
        config = self._config
        groups = [int(layers[:, place + at.GROUP].max()) for place in at.LINEARS]
        group = max(*groups, int(layers[:, at.EXPERT_GROUP].max()), int(row[at.HEAD + at.GROUP]))
        block = max(at.COLUMN_BLOCK, group)
        sharing = config.num_heads // config.num_kv_heads
        sizes = {
            at.INPUTS: max(config.hidden_size, config.num_heads * config.head_dim),
            at.SUMS: block,
            at.PAIRS: 8 * block,
            at.QUADS: 4 * block,
            at.RESULTS: 2 * config.top_k * at.TILES * TILE_ROWS + config.num_experts + TILE_ROWS,
            at.SCORES: sharing * at.KEY_BLOCK,
            at.QUERIES: sharing * config.head_dim,
        }
        place = 0
        for field, floats in sizes.items():
            row[field] = place
            place += -(-floats * _FLOAT // _CACHE_LINE) * _CACHE_LINE
        row[at.PRIVATE_BYTES] = place
        self._threads = 0

    def _make_room(self, threads: int) -> None:
        self._threads = threads
        self._private = _floats(threads * int(self._model[at.PRIVATE_BYTES]) // _FLOAT)
        self._model[at.PRIVATE] = self._private.ctypes.data


def _parts(model: "Model") -> Iterator[Any]:
    """All that can be exchanged in a model."""
    yield from (model.embed, model.norm, model.head)
    for layer in model.layers:
        yield from vars(layer).values()


def _layer_row(layer: "Layer") -> Ints:
    """A layer's row, without its place in a cache."""
    assert isinstance(layer.experts, PackedExperts)
    row, attention, arena = (
        np.zeros(at.LAYER_FIELDS, np.int64),
        layer.attention,
        layer.experts.arena,
    )
    linears = {
        at.QUERY: product_of(attention.q),
        at.KEY: product_of(attention.k),
        at.VALUE: product_of(attention.v),
        at.OUTPUT: attention.o,
        at.ROUTER: layer.router,
    }
    if layer.shared is not None:
        linears[at.SHARED_GATE], linears[at.SHARED_UP] = layer.shared.gate, layer.shared.up
        linears[at.SHARED_DOWN], row[at.SHARE] = layer.shared.down, layer.shared.share.data_ptr()
    for place, linear in linears.items():
        row[place : place + at.LINEAR_FIELDS] = linear_row(linear)
    for field, tensor in {
        at.INPUT_NORM: layer.input_norm.weight,
        at.POST_NORM: layer.post_norm.weight,
        at.EXPERT_TABLE: arena.table,
        at.EXPERT_CODES: arena.codes,
        at.EXPERT_SCALES: arena.scales,
        at.EXPERT_ZEROS: arena.zeros,
    }.items():
        row[field] = tensor.data_ptr()
    projections = (attention.q, attention.k, attention.v)
    biases, norms = zip(*map(_adjustments, projections), strict=True)
    row[at.QUERY_BIAS : at.VALUE_BIAS + 1] = biases
    row[at.QUERY_NORM], row[at.KEY_NORM], _ = norms
    row[at.EXPERT_GROUP], row[at.ROTATED] = arena.layout.group_size, arena.layout.rotated
    return row


def _adjustments(linear: Linear) -> tuple[int, int]:
    """Where the bias and the norm of a layer's outputs lie, 0 for none."""
    if not isinstance(linear, AdjustedLinear):
        return 0, 0
    bias, norm = (0 if part is None else part.data_ptr() for part in (linear.bias, linear.norm))
    return bias, norm


def _projected(config: ModelConfig) -> int:
    """Floats of q, k and v, each padded to whole tiles."""
    rows = (heads * config.head_dim for heads in (config.num_heads, *(config.num_kv_heads,) * 2))
    return sum(-(-count // TILE_ROWS) * TILE_ROWS for count in rows)


def _floats(count: int) -> Floats:
    """Zeros that begin at a cache line."""
    room = np.zeros(count + _CACHE_LINE // _FLOAT, np.float32)
    skip = -room.ctypes.data % _CACHE_LINE // _FLOAT
    return room[skip : skip + count]


def _address(name: str) -> int:
    """Where a function of the C library lies, or of Windows' kernel."""
    if sys.platform == "win32":
        function = ctypes.WinDLL("kernel32")[name]
    else:
        function = ctypes.CDLL(None)[name]
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@cache
def compiled_step() -> Callable[..., None]:
    """`step_loops.run`. The first time numba compiles it, later it is read from a cache on disk."""
    # Imported when needed: numba is slow to load.
    from engine.kernels.step_loops import run

    compiled: Callable[..., None] = run
    return compiled


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="step")
