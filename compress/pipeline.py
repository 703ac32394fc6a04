"""From an original checkpoint to a compressed one, a layer at a time.

For each layer: read it, move the full-precision stream through it and score its experts, solve
the integer program, quantize it on the quantized stream, write its file, note it in the journal.
One layer of original weights is in memory at a time, and the two calibration streams. An
interrupted job goes on behind the last layer in the journal, from the streams saved there; the
result is the same, byte for byte.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from compress.allocation import Budget, Exponents, LayerScores, allocate, plan_budget
from compress.calibration import Calibration, CalibrationSize, calibrate, calibration_size
from compress.journal import Entry
from compress.layers import quantize_layer
from compress.progress import Listener, Stage
from compress.quantizers import Quantizer, quantizer, scoring_quantizer
from compress.reporter import Reporter
from compress.result import write_layer_file, write_rest
from compress.significance import score_layer
from compress.source import Source, open_source
from compress.streams import Streams
from compress.workspace import Workspace, check_free, open_workspace, say_when_full
from engine import budget as byte_counts
from engine import manifest
from engine.attention import Rope, Rotation
from engine.config import ModelConfig
from engine.errors import UsageError
from engine.layout import PackedShape
from engine.manifest import DENSE_BITS, FORMAT_VERSION, LayerRecord, Recipe, layer_file
from engine.model import Layer
from engine.threads import threads_for

GROUP_SIZES = (64, 128)
ERRORS = ("block",)
"""Where eps is measured: at the MoE block's output."""


@dataclass(frozen=True)
class CompressJob:
    """What to compress and how; `mc-chat compress` has an option for each.

    ``source`` and ``out`` are folders. ``text`` calibrates, None for the demo's own corpus;
    ``samples`` windows of ``window`` tokens, None for the source's default. ``restart`` discards
    an unfinished run and replaces what is at ``out``.
    """

    source: Path
    out: Path
    bits: float = 2.5
    allocator: str = "pmq"
    quantizer: str = "refined"
    group_size: int = 128
    text: Path | None = None
    samples: int | None = None
    window: int | None = None
    error: str = "block"
    seed: int = 0
    exponents: Exponents = field(default_factory=Exponents)
    restart: bool = False


def compress(
    job: CompressJob, listener: Listener, scores: Sequence[LayerScores] | None = None
) -> Path:
    """Run a job; returns the folder of the finished checkpoint.

    ``scores``, one per layer, replace the measuring when an earlier run on the same source,
    quantizer and calibration has made them. The listener may raise Interrupted: what is on the
    disk can be resumed. Raises UsageError, SourceError, AllocationError, DiskFullError.
    """
    source = open_source(job.source)
    with torch.inference_mode(), threads_for(source.config):
        return _compress(job, source, Reporter(listener, source.config.num_layers), scores)


def _compress(
    job: CompressJob, source: Source, report: Reporter, scores: Sequence[LayerScores] | None
) -> Path:
    report.check(0.0, f"reading {source.repository}")
    size = calibration_size(source, job.samples, job.window)
    budget = _check(job, source.config, size)
    provenance = source.provenance(lambda done: report.check(done, "hashing the source"))
    calibration = calibrate(source, job.text, size, job.seed)
    recipe = _recipe(job, budget, size, calibration)
    fingerprint = _fingerprint(recipe, provenance, calibration)
    with (
        say_when_full(job.out.parent),
        open_workspace(job.out, fingerprint, job.restart) as workspace,
    ):
        _Run(job, source, budget, workspace, report, scores).all_layers(calibration)
        report.finish("write", 0.0, "writing what lies outside the layers")
        done = {
            layer_file(layer): (entry.record, entry.file)
            for layer, entry in enumerate(workspace.journal.entries)
        }
        write_rest(workspace.folder, job.out.name, source, provenance, recipe, done)
        report.finish("verify", 0.5, "checking the result")
        manifest.open_manifest(workspace.folder)
        workspace.publish()
    report.finish("verify", 1.0, f"{job.out.name} is ready")
    return job.out


class _Run:
    """The layers of one job, one after the other."""

    def __init__(
        self,
        job: CompressJob,
        source: Source,
        budget: Budget,
        workspace: Workspace,
        report: Reporter,
        scores: Sequence[LayerScores] | None,
    ) -> None:
        self._job = job
        self._source = source
        self._budget = budget
        self._workspace = workspace
        self._report = report
        self._scores = scores
        self._quantize: Quantizer = quantizer(job.quantizer)
        self._score_with: Quantizer = scoring_quantizer(job.quantizer)

    def all_layers(self, calibration: Calibration) -> None:
        """Every layer that the journal does not have yet."""
        done = len(self._workspace.journal.entries)
        self._report.resume(done)
        if done == self._source.config.num_layers:
            return
        flow = self._workspace.load_streams()
        if flow is None:
            embedding = self._source.tensor("model.embed_tokens.weight")
            flow = Streams.embed(calibration.tokens, embedding)
        rope = Rope(self._source.config).at(0, flow.full.shape[1])
        for index in range(done, self._source.config.num_layers):
            self._layer(index, flow, rope)

    def _layer(self, index: int, flow: Streams, rope: Rotation) -> None:
        layer = self._source.layer(index)
        scores = self._score(index, layer, flow, rope)
        self._report.layer("allocate", index, 0.0, "spreading the bits")
        seed = f"{self._job.seed}/{index}"
        widths = allocate(self._job.allocator, scores, self._budget, self._job.exponents, seed)
        self._report.layer("quantize", index, 0.0, "attention to 4 bits")
        quantized = quantize_layer(
            layer,
            widths,
            flow.quantized,
            rope,
            self._quantize,
            self._job.group_size,
            self._expert_listener("quantize", index, "quantizing"),
        )
        self._report.layer("write", index, 0.0, "writing the layer")
        file = write_layer_file(
            self._workspace.folder, self._source, index, quantized.attention, quantized.experts
        )
        record = LayerRecord(
            expert_bits=widths,
            odp_threshold=quantized.odp_threshold,
            odp_quantile=quantized.odp_quantile,
            frequency=scores.frequency,
            routing_weight=scores.routing_weight,
            errors=scores.errors,
        )
        self._workspace.finish_layer(Entry(record, file), flow)

    def _score(self, index: int, layer: Layer, flow: Streams, rope: Rotation) -> LayerScores:
        """Move the full-precision stream past the layer and judge its experts there."""
        if self._scores is not None:
            return self._scores[index]
        self._report.layer("calibrate", index, 0.0, "calibrating")
        listener = self._expert_listener("score", index, "scoring")
        group_size = self._job.group_size
        return score_layer(layer, flow.full, rope, self._score_with, group_size, listener)

    def _expert_listener(self, stage: Stage, layer: int, doing: str) -> Callable[[int], None]:
        experts = self._source.config.num_experts

        def tell(expert: int) -> None:
            message = f"{doing} expert {expert + 1} of {experts}"
            self._report.layer(stage, layer, expert / experts, message)

        return tell


def _check(job: CompressJob, config: ModelConfig, size: CalibrationSize) -> Budget:
    """Everything that can be known to fail before the long work does so here."""
    quantizer(job.quantizer)
    if job.error not in ERRORS:
        raise UsageError(f"no --error {job.error!r}; available: {', '.join(ERRORS)}")
    if job.group_size not in GROUP_SIZES:
        named = " or ".join(map(str, GROUP_SIZES))
        raise UsageError(f"--group-size {job.group_size} is not possible: choose {named}")
    attention = config.num_heads * config.head_dim
    for columns in (config.hidden_size, config.intermediate_size, attention):
        PackedShape(1, columns, DENSE_BITS, job.group_size)
    budget = plan_budget(job.allocator, job.bits, config.num_experts)
    widths = byte_counts.spread_bits(budget.total / config.num_experts, config.num_experts)
    result = byte_counts.compressed_budget(
        config, [widths] * config.num_layers, job.group_size, context=0, kind="cpu"
    ).weights
    # Two streams, in two generations while one replaces the other.
    scratch = 4 * size.samples * size.window * config.hidden_size * torch.float32.itemsize
    check_free(job.out, result + scratch, job.restart)
    return budget


def _recipe(
    job: CompressJob, budget: Budget, size: CalibrationSize, calibration: Calibration
) -> Recipe:
    return Recipe(
        bits=job.bits,
        quantizer=job.quantizer,
        allocator=job.allocator,
        group_size=job.group_size,
        calibration=calibration.origin,
        samples=size.samples,
        window=size.window,
        seed=job.seed,
        alpha=job.exponents.alpha,
        beta=job.exponents.beta,
        gamma=job.exponents.gamma,
        notes=budget.notes,
    )


def _fingerprint(recipe: Recipe, provenance: manifest.Source, calibration: Calibration) -> str:
    """What must be the same for one run to go on where another stopped."""
    what = [FORMAT_VERSION, asdict(recipe), asdict(provenance)]
    digest = hashlib.sha256(json.dumps(what).encode())
    digest.update(calibration.tokens.numpy().tobytes())
    return digest.hexdigest()
