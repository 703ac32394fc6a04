"""Carries the calibration streams through the layers, and leaves scores and layer files behind."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compress import projection
from compress.allocation import (
    Budget,
    Exponents,
    LayerScores,
    ModelBudget,
    allocate,
    allocate_model,
)
from compress.data_free import data_free_scores
from compress.journal import Entry
from compress.layers import QuantizedLayer, quantize_data_free, quantize_head, quantize_layer
from compress.progress import Stage
from compress.quality import Ends, Head, stream_error
from compress.quantizers import Quantizer
from compress.reporter import Reporter
from compress.result import write_layer_file
from compress.routed import StreamedExperts
from compress.significance import score_layer
from compress.source import Source
from compress.streams import Placement, Stream, StreamStore
from compress.workspace import Workspace
from engine.attention import Rope
from engine.manifest import FULL_BITS, LayerRecord, RestBits
from engine.model import Norm
from engine.packing import PackedMatrix, dequantize
from engine.tensor_names import EMBEDDING, HEAD, NORM

ONE_PASS: tuple[tuple[Stage, ...], ...] = (("calibrate", "score", "allocate", "quantize", "write"),)
TWO_PASSES: tuple[tuple[Stage, ...], ...] = (
    ("calibrate", "score"),
    ("allocate", "quantize", "write"),
)


@dataclass(frozen=True)
class Method:
    """How a job rounds and spreads bits. ``score_with`` rounds at ``widths`` to measure eps,
    ``quantize`` makes the codes; a `ModelBudget` is spread over all layers at once. ``rest`` says
    whether router and head are rounded, too."""

    quantize: Quantizer
    score_with: Quantizer
    widths: tuple[int, ...]
    group_size: int
    allocator: str
    budget: Budget | ModelBudget
    exponents: Exponents
    seed: int
    rest: RestBits


class Passes:
    """The layers of one job, one after the other, as often as the method needs them."""

    def __init__(
        self,
        method: Method,
        source: Source,
        workspace: Workspace,
        report: Reporter,
        tokens: Tensor,
        placement: Placement,
        device: torch.device,
    ) -> None:
        """``tokens`` int64 [N, T] calibrate; the streams lie at ``placement``, ``device``
        computes."""
        self._method = method
        self._source = source
        self._workspace = workspace
        self._report = report
        self.tokens = tokens
        self._placement = placement
        self.device = device
        self._layers = range(source.config.num_layers)
        self._rope = Rope(source.config, device).at(0, tokens.shape[1])

    def one_pass(self, scores: Sequence[LayerScores] | None = None) -> None:
        """Score, spread and quantize a layer before the next. ``scores`` replace the measuring."""
        done = len(self._workspace.journal.entries)
        self._source.shards.begin_pass(1)
        self._report.resume("calibrate", done)
        if done == len(self._layers):
            return
        full, quantized = self._store("full"), self._store("quantized")
        exact = None if scores else self._stream(full, done)
        rounded = self._stream(quantized, done)
        for index in self._layers[done:]:
            if exact is None:
                assert scores is not None
                layer_scores = scores[index]
            else:
                layer_scores, exact = self._score(index, full, exact)
            self._report.layer("allocate", index, 0.0, "spreading the bits")
            widths = self._widths(index, layer_scores)
            entry, rounded = self._quantize(index, widths, layer_scores, quantized, rounded)
            self._finish(index, entry, quantized, rounded, full, exact)

    def score_all(self, errors: Sequence[tuple[tuple[float, ...], ...]] | None = None) -> None:
        """The first of two passes. ``errors`` per layer, if any, replace those of the blocks. The
        stream behind the last layer stays, to be compared with."""
        journal = self._workspace.journal
        done = len(journal.scores)
        store = self._store("full")
        if done == len(self._layers):
            store.drop_all_but(done)
            return
        self._report.resume("calibrate", done)
        self._source.shards.begin_pass(2)
        stream = self._stream(store, done)
        for index in self._layers[done:]:
            scores, stream = self._score(index, store, stream, () if errors else None)
            store.commit(stream, index + 1)
            if errors is not None:
                scores = scores.on_model(errors[index], self._method.widths)
            journal.score(scores)
            store.drop_all_but(index + 1)
            self._leave(index)

    def quantize_all(self, compared: bool) -> None:
        """The second of two passes, from the scores in the journal. ``compared``: some windows of
        the exact stream go through the layers once more, to tell how far from them each layer
        leaves the others."""
        journal = self._workspace.journal
        done = len(journal.entries)
        self._source.shards.begin_pass(1)
        self._report.resume("allocate", done)
        if done == len(self._layers):
            return
        self._report.layer("allocate", done, 0.0, "spreading the bits over all layers")
        widths = self._all_widths(journal.scores)
        some, quantized = self._store("compared", self._compared()), self._store("quantized")
        exact = self._stream(some, done) if compared else None
        rounded = self._stream(quantized, done)
        for index in self._layers[done:]:
            if exact is not None:
                exact = self._pass_exact(index, some, exact)
            scores = journal.scores[index]
            entry, rounded = self._quantize(index, widths[index], scores, quantized, rounded)
            self._finish(index, entry, quantized, rounded, some, exact)

    def data_free(self) -> None:
        """One pass that reads weights and no text."""
        journal, method = self._workspace.journal, self._method
        done = len(journal.entries)
        self._report.resume("calibrate", done)
        if done == len(self._layers):
            return
        if done:
            self._source.resume(done)
        else:
            self._leave(-1)
        for index in self._layers[done:]:
            layer = self._source.layer(index, self.device)
            experts = layer.experts
            assert isinstance(experts, StreamedExperts)
            heard = self._expert_listener("score", index, "scoring")
            scores = data_free_scores(
                _told(experts, heard), method.score_with, method.group_size, method.widths
            )
            widths = self._widths(index, scores)
            heard = self._expert_listener("quantize", index, "quantizing")
            quantized = quantize_data_free(
                layer, widths, method.quantize, method.group_size, method.rest.router, heard
            )
            journal.finish(self._write(index, widths, scores, quantized))
            self._leave(index)

    def head(self) -> PackedMatrix | None:
        """The head as it is packed, None where it stays as it is; behind all layers.

        A run that goes on makes it anew, from the stream that the last layer left.
        """
        method, config = self._method, self._source.config
        if method.rest.head == FULL_BITS:
            return None
        self._report.finish("write", 0.0, f"quantizing the head to {method.rest.head} bits")
        norm = Norm(self._keep(NORM).to(self.device, torch.float32), config.rms_norm_eps)
        stream = None
        if self.tokens.numel():
            stream = self._store("quantized").load(config.num_layers)
        weight = self._keep(HEAD).to(self.device, torch.float32)
        return quantize_head(
            weight, norm, stream, method.quantize, method.rest.head, method.group_size
        )

    def ends(self, text: str) -> Ends | None:
        """What both models make of the calibration text, called ``text``; behind all layers. None
        where one of them was not carried along."""
        layers = self._source.config.num_layers
        full, quantized = self._store("full"), self._store("quantized")
        if not (full.has(layers) and quantized.has(layers)):
            return None
        return Ends(text, False, self.tokens, full.load(layers), quantized.load(layers))

    def heads(self, packed: PackedMatrix | None) -> tuple[Head, Head]:
        """The original's head, and the compressed model's, which is ``packed`` or the same."""
        config = self._source.config
        norm = Norm(self._keep(NORM).to(self.device, torch.float32), config.rms_norm_eps)
        exact = Head(norm, self._keep(EMBEDDING if config.tie_embeddings else HEAD))
        return exact, exact if packed is None else Head(norm, dequantize(packed))

    def _all_widths(self, scores: Sequence[LayerScores]) -> Sequence[tuple[int, ...]]:
        method = self._method
        if isinstance(method.budget, ModelBudget):
            return allocate_model(method.allocator, scores, method.budget, method.exponents)
        return [self._widths(index, scores[index]) for index in self._layers]

    def _widths(self, index: int, scores: LayerScores) -> tuple[int, ...]:
        assert isinstance(self._method.budget, Budget)
        return self._within(self._method.budget, index, scores)

    def _unforced(self, index: int, scores: LayerScores) -> tuple[int, ...]:
        """What the program would choose without its forced widths, none where it has none."""
        whole = self._method.budget
        if not isinstance(whole, Budget) or not whole.forced:
            return ()
        return self._within(replace(whole, forced=()), index, scores)

    def _within(self, budget: Budget, index: int, scores: LayerScores) -> tuple[int, ...]:
        method = self._method
        seed = f"{method.seed}/{index}"
        return allocate(method.allocator, scores, budget, method.exponents, seed)

    def _score(
        self,
        index: int,
        store: StreamStore,
        stream: Stream,
        widths: tuple[int, ...] | None = None,
    ) -> tuple[LayerScores, Stream]:
        """Move the full-precision stream past a layer and judge its experts there, at the
        method's widths or others."""
        self._report.layer("calibrate", index, 0.0, "attention and routing")
        layer = self._source.layer(index, self.device)
        method = self._method
        chosen = method.widths if widths is None else widths
        heard = self._expert_listener("score", index, "scoring")
        return score_layer(
            layer, store, stream, self._rope, method.score_with, chosen, method.group_size,
            heard,
        )  # fmt: skip

    def _quantize(
        self,
        index: int,
        widths: tuple[int, ...],
        scores: LayerScores,
        store: StreamStore,
        stream: Stream,
    ) -> tuple[Entry, Stream]:
        """Quantize a layer, write its file, and move the quantized stream past it."""
        self._report.layer("quantize", index, 0.0, "attention to 4 bits")
        layer = self._source.layer(index, self.device)
        method = self._method
        heard = self._expert_listener("quantize", index, "quantizing")
        quantized, stream = quantize_layer(
            layer, widths, store, stream, self._rope, method.quantize, method.group_size,
            method.rest.router, heard,
        )  # fmt: skip
        return self._write(index, widths, scores, quantized), stream

    def _pass_exact(self, index: int, store: StreamStore, stream: Stream) -> Stream:
        """Move the full-precision stream past a layer, and judge nothing."""
        message = "the original's layer, to compare with"

        def tell(expert: int) -> None:
            self._report.layer("quantize", index, 0.0, message)

        layer = self._source.layer(index, self.device)
        method = self._method
        _, stream = score_layer(
            layer, store, stream, self._rope, method.score_with, (), method.group_size, tell
        )
        return stream

    def _finish(
        self,
        index: int,
        entry: Entry,
        quantized: StreamStore,
        rounded: Stream,
        full: StreamStore,
        exact: Stream | None,
    ) -> None:
        """Have a layer that is written, and the streams behind it, on the disk for good. ``exact``
        may be of the first windows only; None: the quantized one alone was carried."""
        quantized.commit(rounded, index + 1)
        if exact is not None:
            full.commit(exact, index + 1)
            error = stream_error(exact, rounded.first(len(exact.tensor)))
            entry = replace(entry, stream_error=error)
        self._workspace.journal.finish(entry)
        for store in (full, quantized):
            store.drop_all_but(index + 1)
        self._leave(index)

    def _write(
        self, index: int, widths: tuple[int, ...], scores: LayerScores, quantized: QuantizedLayer
    ) -> Entry:
        self._report.layer("write", index, 0.0, "writing the layer")
        folder = self._workspace.folder
        file = write_layer_file(folder, self._source, index, quantized)
        record = LayerRecord(
            expert_bits=widths,
            odp_threshold=next(iter(quantized.odp_thresholds), 0.0),
            odp_ranks=quantized.odp_thresholds[1:],
            odp_quantile=quantized.odp_quantile,
            frequency=scores.frequency,
            routing_weight=scores.routing_weight,
            errors=scores.errors,
            trace_errors=scores.trace_errors,
            stream_norm=scores.stream_norm,
            widths=scores.widths,
            unforced_bits=self._unforced(index, scores),
        )
        return Entry(record, file)

    def _compared(self) -> int:
        """Windows that are compared in the second of two passes."""
        return projection.compared_windows(*self.tokens.shape)

    def _store(self, name: str, windows: int | None = None) -> StreamStore:
        """Of the first ``windows`` calibration windows, None: of all."""
        count, tokens = self.tokens.shape
        shape = (windows or count, tokens, self._source.config.hidden_size)
        return StreamStore(self._workspace.folder, name, shape, self._placement, self.device)

    def _stream(self, store: StreamStore, done: int) -> Stream:
        """The stream behind the finished layers, or before the first."""
        store.drop_all_but(done)
        if done:
            self._source.resume(done)
            return store.load(done)
        self._leave(-1)
        return store.begin(self.tokens[: store.shape[0]], self._keep(EMBEDDING))

    def _keep(self, name: str) -> Tensor:
        return self._workspace.keep(name, lambda: self._source.half(name))

    def _leave(self, layer: int) -> None:
        """A layer is done with: keep what lies beside it in its shards, let these go."""
        for name in self._source.outside(layer):
            self._keep(name)
        self._source.release(layer)

    def _expert_listener(self, stage: Stage, layer: int, doing: str) -> Callable[[int], None]:
        experts = self._source.config.num_experts

        def tell(expert: int) -> None:
            message = f"{doing} expert {expert + 1} of {experts}"
            self._report.layer(stage, layer, expert / experts, message)

        return tell


def _told(
    experts: StreamedExperts, listener: Callable[[int], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The matrices of each expert, the listener told before its turn."""
    for index in range(experts.count):
        listener(index)
        expert = experts.read(index)
        yield expert.gate_up.float(), expert.down.float()
