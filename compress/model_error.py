"""eps on the model's output (Eq. 3 of the paper as it is written): the Frobenius norm of the change
of the logits over all calibration tokens when one expert of one layer is quantized.

What `compress.significance` measures on the MoE block's output in one pass needs the whole model
in memory here, and for every expert and width a pass through all layers behind it. In return
errors of different layers are comparable as they are, and what later layers correct is not counted.

The logits themselves are never formed: with D [t, H] the change of the head's input and M [V, H]
the head, ||D M^T||_F^2 = sum(D (M^T M) * D).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compress import streams
from compress.expert_rounding import ExpertRounding
from compress.projection import FLOAT32, HALF, work_bytes
from compress.quantizers import Quantizer
from compress.routed import Expert, MoeBlock, expert_of
from compress.source import Source
from compress.streams import Stream
from engine.config import ModelConfig
from engine.devices import check_fits
from engine.experts import FloatExperts
from engine.linear import FloatLinear
from engine.model import Layer, Model, Norm
from engine.original import original_layer
from engine.protocol import Device
from engine.pruning import Routing
from engine.tensor_names import EMBEDDING, HEAD, NORM

CHUNK = 2048
"""Tokens whose expert activations are in memory at once."""

_STREAMS = 3
"""Streams in memory at once: past attention, past the layer, and at the head's input."""

_HELD, _HELD_BY_ATTENTION = 7, 4
"""Copies of a part of a stream while it goes through a layer: exact, changed and target, inside the
layer residual, normed, attention's output and the experts'; and queries before and after they are
turned, keys with values, and what is mixed."""

Errors = tuple[tuple[float, ...], ...]
"""``errors[expert][j]``: eps of one layer's experts at the j-th width."""

Listener = Callable[[int, int, float], None]
"""Hears layer, expert, and the fraction of all layer passes that are done."""


@dataclass(frozen=True)
class Cost:
    """What measuring takes: bytes at the peak, passes of all calibration tokens through one layer,
    and the floating-point operations of those passes."""

    memory_bytes: int
    layer_passes: int
    operations: float


def predict_cost(config: ModelConfig, samples: int, window: int, widths: Sequence[int]) -> Cost:
    """The cost of `model_errors` on ``samples`` windows of ``window`` tokens."""
    layers, experts, hidden = config.num_layers, config.num_experts, config.hidden_size
    tokens, heads = samples * window, config.num_heads * config.head_dim
    passes = layers + experts * len(widths) * layers * (layers - 1) // 2
    # Scores and mixing, half of them masked: 2 * window / 2 products per head element.
    dense = config.attention_weights + config.shared_weights
    weights = dense + config.top_k * config.expert_weights + window * heads
    part = min(tokens, max(streams.WINDOW_TOKENS, window))
    memory = (
        weights_bytes(config)
        + FLOAT32 * hidden * hidden  # the head's Gram matrix
        + FLOAT32 * _STREAMS * tokens * hidden
        + FLOAT32 * part * (_HELD * hidden + _HELD_BY_ATTENTION * heads)
        + work_bytes(config, len(widths))
    )
    return Cost(memory, passes, 2.0 * weights * tokens * passes)


def weights_bytes(config: ModelConfig) -> int:
    """Bytes of a model as `load_whole` holds it, its experts in 16 bits."""
    experts = config.num_layers * config.num_experts * config.expert_weights
    return HALF * experts + FLOAT32 * (config.total_weights - experts)


def check_cost(cost: Cost, device: Device) -> None:
    """Raise DoesNotFitError where the model does not go into the memory of ``device``."""
    check_fits(
        device,
        cost.memory_bytes,
        lambda: "--error model holds all of it at once; --error block takes a layer at a time",
    )


def load_whole(source: Source, device: torch.device) -> Model:
    """All of a source: experts, nearly all of it, as stored, the rest in float32. SourceError."""

    def read(name: str) -> Tensor:
        tensor = source.tensor(name).to(device)
        return tensor if ".experts." in name else tensor.float()

    outside: dict[str, Tensor] = {}

    def leave(index: int) -> None:
        for name in source.outside(index):
            outside[name] = read(name)
        source.release(index)

    def layer(index: int) -> Layer:
        found = original_layer(config, index, read)
        leave(index)
        return found

    config = source.config
    leave(-1)
    layers = [layer(index) for index in range(config.num_layers)]
    leave(config.num_layers)
    embed = outside[EMBEDDING]
    return Model(
        config=config,
        layers=layers,
        embed=embed,
        norm=Norm(outside[NORM], config.rms_norm_eps),
        head=FloatLinear(embed if config.tie_embeddings else outside[HEAD]),
    )


@torch.inference_mode()
def model_errors(
    model: Model,
    tokens: Tensor,
    quantize: Quantizer,
    group_size: int,
    widths: Sequence[int],
    listener: Listener,
) -> tuple[Errors, ...]:
    """eps of every expert of every layer of a float model at ``widths`` bits.

    ``tokens`` int64 [N, T] calibrate. Hessians are those of the full-precision stream, as for eps
    on the block's output. ``listener`` is asked often and may raise Interrupted.
    """
    run = _Run(model, tokens.shape[1], quantize, group_size, widths, listener)
    return run.all_layers(tokens)


class _Run:
    """One measuring: the passes, and how many of them are done."""

    def __init__(
        self,
        model: Model,
        window: int,
        quantize: Quantizer,
        group_size: int,
        widths: Sequence[int],
        listener: Listener,
    ) -> None:
        self._model = model
        self._rope = model.rope.at(0, window)
        self._quantize = quantize
        self._group_size = group_size
        self._widths = widths
        self._listener = listener
        (head,) = model.head.tensors()
        self._gram = head.T @ head  # [H, H]

    def all_layers(self, tokens: Tensor) -> tuple[Errors, ...]:
        """Errors layer by layer, for tokens [N, T]."""
        device = self._model.embed.device
        stream = Stream(self._model.embed_tokens(tokens.to(device)), device)
        exact = Stream(torch.empty_like(stream.tensor), stream.device)
        for part in stream.parts():
            exact.write(part, self._to_head(stream.read(part), behind=-1))
        errors = []
        for layer in self._model.layers:
            found, stream = self._layer(layer, stream, exact)
            errors.append(found)
        return tuple(errors)

    def _layer(self, layer: Layer, stream: Stream, exact: Stream) -> tuple[Errors, Stream]:
        """A layer's errors, and the stream past it; ``stream`` is used up."""
        experts = layer.experts
        if not isinstance(experts, FloatExperts):
            raise TypeError("only experts in floating point can be scored")
        streams.attend(layer, stream, stream, self._rope)
        block = MoeBlock.of(layer, stream)
        passed = self._pass_experts(block)
        errors = []
        for index in range(len(experts.gate)):
            expert = expert_of(experts, index)
            trials = self._trials(block, index, expert)
            errors.append(self._errors(block, index, expert, trials, passed, exact))
        return tuple(errors), passed

    def _pass_experts(self, block: MoeBlock) -> Stream:
        """The stream past the layer's experts."""
        passed = Stream(torch.empty_like(block.hidden.tensor), block.hidden.device)
        for part in block.hidden.parts():
            h = block.hidden.read(part)
            x = block.layer.moe_input(h)  # [n * T, H]
            rows = self._rows(part)
            ids, weights = block.routing.ids[rows], block.routing.weights[rows]
            passed.write(part, h + block.layer.mix(x, Routing(ids, weights)).view_as(h))
        return passed

    def _trials(self, block: MoeBlock, index: int, expert: Expert) -> list[Expert]:
        """The expert at each width."""
        rounding = ExpertRounding(block, index, self._quantize, self._group_size)
        gate_ups, _ = rounding.gate_up(expert, self._widths)
        downs, _ = rounding.down(expert, self._widths)
        return [
            expert.replaced(gate_up.dequantize(), down.dequantize())
            for gate_up, down in zip(gate_ups, downs, strict=True)
        ]

    def _errors(
        self,
        block: MoeBlock,
        index: int,
        expert: Expert,
        trials: Sequence[Expert],
        passed: Stream,
        exact: Stream,
    ) -> tuple[float, ...]:
        """Norm of the logits' change with each trial in the expert's place."""
        layer = block.layer.index
        tokens, weights = block.routed(index)
        squares = torch.zeros(len(trials), dtype=torch.float64, device=weights.device)
        for part in passed.parts():
            rows = self._rows(part)
            here = (tokens >= rows.start) & (tokens < rows.stop)
            if not here.any():
                continue
            base, target = passed.read(part), exact.read(part)
            for j, trial in enumerate(trials):
                self._tell(layer, index, j / len(trials))
                changed = base.clone()
                self._exchange(block, tokens[here], weights[here], expert, trial, changed, rows)
                delta = self._to_head(changed, behind=layer).sub_(target).flatten(0, 1)
                squares[j] += ((delta @ self._gram) * delta).sum(dtype=torch.float64)
        return tuple(squares.clamp(min=0).sqrt().tolist())

    def _exchange(
        self,
        block: MoeBlock,
        tokens: Tensor,
        weights: Tensor,
        expert: Expert,
        trial: Expert,
        stream: Tensor,
        rows: slice,
    ) -> None:
        """Put the trial in the expert's place, for tokens [n] with routing weights [n], in the
        stream [n', T, H] of all tokens ``rows`` past the layer."""
        flat = stream.flatten(0, 1)
        for some, x in block.inputs(tokens, CHUNK):
            change = trial.forward(x).sub_(expert.forward(x)).mul_(weights[some].unsqueeze(1))
            flat.index_add_(0, tokens[some] - rows.start, change)

    def _to_head(self, x: Tensor, behind: int) -> Tensor:
        """Windows [n, T, H] behind a layer to what comes in at the head, [n, T, H]."""
        for layer in self._model.layers[behind + 1 :]:
            x = layer.forward(x, self._rope)
        return self._model.norm.forward(x)

    def _rows(self, part: slice) -> slice:
        """Windows to tokens."""
        window = len(self._rope.cos)
        return slice(part.start * window, part.stop * window)

    def _tell(self, layer: int, expert: int, share: float) -> None:
        """Say how far it is, counted in layer passes: early layers have more behind them."""
        layers, experts = self._model.config.num_layers, self._model.config.num_experts
        behind = layers - 1 - layer
        total = layers * (layers - 1) / 2
        left = behind * (behind - 1) / 2 + behind * (1 - (expert + share) / experts)
        self._listener(layer, expert, 1 - left / total if total else (expert + share) / experts)
