"""From an original checkpoint to a compressed one, a layer at a time.

One pass reads each layer, moves the full-precision stream through it and scores its experts; the
integer program spreads the bits over all of them; a second pass quantizes each layer on the
quantized stream, writes its file and notes it in the journal. Where the program decides layer by
layer it is all one pass. One expert of original weights is in memory at a time, and the calibration
streams. An interrupted job goes on behind the last step in the journal, from the streams saved
there; the result is the same, byte for byte.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from compress import data_free, model_error, opening, projection
from compress.allocation import (
    Budget,
    Exponents,
    LayerScores,
    ModelBudget,
    default_exponents,
    plan_budget,
    plan_model_budget,
    widths_for,
)
from compress.allocator_names import default_allocator, needs_all_layers
from compress.calibration import Calibration, CalibrationSize, calibrate, calibration_size
from compress.passes import ONE_PASS, TWO_PASSES, Method, Passes
from compress.placement import (
    check_memory,
    choose_placement,
    element_bytes,
    say_when_out_of_memory,
)
from compress.progress import Listener, Stage
from compress.projection import Stay
from compress.quality import agreement, heldout_ends
from compress.quantizer_names import DEFAULT_QUANTIZER, reads_no_text, sweeps_of
from compress.quantizers import quantizer, scoring_quantizer
from compress.reporter import Reporter
from compress.result import write_manifest, write_rest
from compress.source import Source
from compress.speed import measure_speed, seconds_of
from compress.workspace import (
    Workspace,
    check_free,
    check_out,
    finish_publishing,
    free_bytes,
    open_workspace,
    say_when_full,
)
from engine import devices, manifest
from engine.config import ModelConfig
from engine.errors import UsageError
from engine.layout import PackedShape
from engine.manifest import (
    DENSE_BITS,
    FORMAT_VERSION,
    FULL_BITS,
    MANIFEST_NAME,
    Manifest,
    Recipe,
    RestBits,
    layer_file,
)
from engine.packing import PackedMatrix
from engine.quality import Quality
from engine.threads import SMALLEST_SHARED, threads_for

NO_TEXT = CalibrationSize(samples=0, window=0)
GROUP_SIZES = (64, 128)
ERRORS = ("block", "model")
"""Where eps is measured: at the MoE block's output, or at the model's."""


@dataclass(frozen=True)
class CompressJob:
    """What to compress and how; `mc-chat compress` has an option for each.

    ``source`` is a folder or a repository of the hub, ``owner/name``. ``allocator`` None is
    `default_allocator`'s. ``text`` calibrates, None for the source's default; ``samples`` windows
    of ``window`` tokens, None for the device's default; ``exponents`` None are the allocator's.
    ``expert_bytes`` is what the global program may spend, None for what ``bits`` take.
    ``router_bits`` and ``head_bits`` 16 leave both alone. ``device`` is `auto`, `cpu` or `cuda:N`.
    ``keep_source`` keeps what is downloaded; ``offline`` makes no connection. ``restart`` discards
    an unfinished run and replaces what is at ``out``.
    """

    source: Path | str
    out: Path
    bits: float = 2.5
    allocator: str | None = None
    quantizer: str = DEFAULT_QUANTIZER
    group_size: int = 128
    text: Path | None = None
    samples: int | None = None
    window: int | None = None
    error: str = "block"
    seed: int = 0
    exponents: Exponents | None = None
    restart: bool = False
    device: str = "auto"
    keep_source: bool = False
    offline: bool = False
    expert_bytes: int | None = None
    router_bits: int = FULL_BITS
    head_bits: int = FULL_BITS

    @property
    def is_data_free(self) -> bool:
        """Whether no text is read: the quick build by hqq."""
        return reads_no_text(self.quantizer, self.text is not None)

    @property
    def spread_by(self) -> str:
        """The allocator's name."""
        return self.allocator or default_allocator(self.is_data_free)

    @property
    def passes(self) -> int:
        """How often the calibration streams go through the layers."""
        return 2 if needs_all_layers(self.spread_by) or self.error == "model" else 1

    @property
    def reads(self) -> int:
        """How often the source is read: for errors on the model's output once more, as a whole."""
        return self.passes + (self.error == "model")


def compress(
    job: CompressJob, listener: Listener, scores: Sequence[LayerScores] | None = None
) -> Path:
    """Run a job; returns the folder of the finished checkpoint.

    ``scores``, one per layer, replace the measuring when an earlier run on the same source,
    quantizer and calibration has made them. The listener may raise Interrupted: what is on the
    disk can be resumed. Raises UsageError, SourceError, AllocationError, DiskFullError,
    NetworkError, HubError.
    """
    _check_words(job)
    if finish_publishing(job.out) and not job.restart:
        return job.out
    check_out(job.out, job.restart)
    report = Reporter(listener)
    report.check(0.0, f"opening {Path(job.source).name}")
    with (
        torch.inference_mode(),
        say_when_full(job.out.parent),
        say_when_out_of_memory(),
        open_workspace(job.out, job.restart) as workspace,
        opening.opened_source(
            job.source,
            opening.source_folder(job.source, job.out, job.keep_source),
            job.reads,
            job.keep_source,
            job.offline,
            lambda transfer: report.aside("download", transfer.message),
        ) as source,
        threads_for(source.config),
    ):
        _Compression(job, source, workspace, report).run(scores)
    report.finish("verify", 1.0, f"{job.out.name} is ready")
    return job.out


class _Compression:
    """One job on an open source in a locked workspace."""

    def __init__(
        self, job: CompressJob, source: Source, workspace: Workspace, report: Reporter
    ) -> None:
        self._job = job
        self._source = source
        self._workspace = workspace
        self._report = report
        self._device = devices.choose(job.device)
        self._size = NO_TEXT
        if not job.is_data_free:
            kind = self._device.kind
            self._size = calibration_size(source, job.samples, job.window, kind)
        _check_shapes(job, source.config)
        self._method = _method(job, source.config)

    def run(self, scores: Sequence[LayerScores] | None) -> None:
        """From the first check to the published checkpoint."""
        job, source = self._job, self._source
        check_memory(source.config, len(self._method.widths), self._device, job.head_bits)
        self._check_disk()
        seconds = self._forecast()
        provenance = source.provenance(lambda done: self._report.check(done, "hashing the source"))
        calibration = self._calibration()
        recipe = _recipe(job, self._method, self._size, calibration)
        self._workspace.begin(_fingerprint(recipe, provenance, calibration))
        self._report.begin(source.config.num_layers, _passes(job), seconds)
        passes = self._make_passes(calibration.tokens)
        self._all_layers(passes, scores)
        head = passes.head()
        self._report.finish("write", 0.0, "writing what lies outside the layers")
        whole = self._write_rest(provenance, recipe, head)
        whole = replace(whole, quality=self._quality(passes, whole, head))
        write_manifest(self._workspace.folder, whole)
        self._report.finish("verify", 0.9, "checking the result")
        manifest.open_manifest(self._workspace.folder)
        self._workspace.publish((*whole.files, MANIFEST_NAME))

    def _calibration(self) -> Calibration:
        job = self._job
        if job.is_data_free:
            return Calibration(torch.empty(0, 0, dtype=torch.int64), data_free.CALIBRATION)
        self._report.check(1.0, "reading the calibration text")
        return calibrate(self._source, job.text, self._size, job.seed, job.offline)

    def _check_disk(self) -> None:
        """See that the job fits, and have shards stay between two passes where they fit, too."""
        job, source = self._job, self._source
        download = opening.download_of(source)
        tokens, rest = self._size.samples * self._size.window, self._method.rest
        experts = self._expert_bytes()

        def needed(stay: Stay) -> int:
            return projection.disk_bytes(
                source.config, experts, job.group_size, tokens, download, stay, rest
            )

        stay: Stay = "kept" if job.keep_source else "streamed"
        is_kept = job.keep_source and download.total
        free = free_bytes(job.out, source.folder if is_kept else None)
        check_free(job.out, needed(stay), free)
        if job.reads == 1 or not download.total:
            return
        missing = projection.missing_bytes(needed("held"), free)
        if stay == "streamed" and not missing:
            stay = "held"
            opening.hold(source)
        self._report.check(0.0, opening.passes_message(download, job.reads, stay, missing))

    def _expert_bytes(self) -> int:
        """What the experts of all layers will take."""
        job, method = self._job, self._method
        if isinstance(method.budget, ModelBudget):
            return method.budget.bytes
        rotated = method.quantize.rotated
        return projection.expert_bytes(self._source.config, job.bits, job.group_size, rotated)

    def _forecast(self) -> dict[Stage, float]:
        """Seconds of each stage of a layer; says what the job will take."""
        config, job, method = self._source.config, self._job, self._method
        samples, window = self._size.samples, self._size.window
        work = projection.layer_work(
            config, samples, window, len(method.widths), sweeps_of(job.quantizer), job.passes
        )
        if config.hidden_size < SMALLEST_SHARED:
            # It would be done before the machine has been measured.
            return seconds_of(work, projection.TYPICAL_SPEED)
        self._report.check(0.0, "measuring this machine")
        device = torch.device(self._device.id)
        seconds = seconds_of(work, measure_speed(config, method.quantize, device))
        kind = self._device.kind
        element = element_bytes(config, kind)
        memory = projection.host_bytes(
            config, samples * window, kind, len(method.widths), job.head_bits, element
        )
        hours = config.num_layers * sum(seconds.values()) / 3600
        self._report.check(
            0.0,
            f"{config.num_layers} layers, {samples} x {window} calibration tokens, on "
            f"{self._device.name}: about {hours:.1f} hours of computing, "
            f"{memory / 1e9:.1f} GB of memory",
        )
        return seconds

    def _make_passes(self, tokens: Tensor) -> Passes:
        config, widths = self._source.config, len(self._method.widths)
        placement = choose_placement(
            config, tokens.numel(), widths, self._device, self._job.head_bits
        )
        return Passes(
            self._method, self._source, self._workspace, self._report, tokens, placement,
            torch.device(self._device.id),
        )  # fmt: skip

    def _all_layers(self, passes: Passes, scores: Sequence[LayerScores] | None) -> None:
        job = self._job
        if job.is_data_free:
            passes.data_free()
        elif job.passes == 1:
            passes.one_pass(scores)
        else:
            if scores is not None:
                self._workspace.journal.use(scores)
            elif job.error == "model":
                passes.score_all(self._model_errors(passes.tokens))
            else:
                passes.score_all()
            passes.quantize_all(compared=scores is None)

    def _model_errors(self, tokens: Tensor) -> Sequence[model_error.Errors] | None:
        """eps on the model's output, None where a run before this one has noted all of it."""
        config, method = self._source.config, self._method
        if len(self._workspace.journal.scores) == config.num_layers:
            return None
        windows, window = self._size.samples, self._size.window
        cost = model_error.predict_cost(config, windows, window, method.widths)
        model_error.check_cost(cost, self._device)
        self._report.check(1.0, "reading the whole model")
        model = model_error.load_whole(self._source, torch.device(self._device.id))

        def tell(layer: int, expert: int, share: float) -> None:
            where = f"layer {layer + 1} of {config.num_layers}, expert {expert + 1}"
            self._report.aside("score", f"errors on the model's output, {where}: {share:.0%}")

        score_with, size = method.score_with, method.group_size
        return model_error.model_errors(model, tokens, score_with, size, method.widths, tell)

    def _write_rest(
        self, provenance: manifest.Source, recipe: Recipe, head: PackedMatrix | None
    ) -> Manifest:
        workspace, source = self._workspace, self._source
        done = {
            layer_file(layer): (entry.record, entry.file)
            for layer, entry in enumerate(workspace.journal.entries)
        }
        name = self._job.out.name

        def read(tensor: str) -> Tensor:
            return workspace.keep(tensor, lambda: source.half(tensor))

        return write_rest(workspace.folder, name, source, read, provenance, recipe, done, head)

    def _quality(
        self, passes: Passes, whole: Manifest, head: PackedMatrix | None
    ) -> Quality | None:
        """What was changed, as far as both models can be seen side by side."""
        ends = None
        if not opening.is_on_hub(self._job.source):
            self._report.finish("verify", 0.0, "comparing with the original")
            ends = heldout_ends(self._source, self._workspace.folder, whole, passes.device)
        ends = ends or passes.ends(whole.recipe.calibration)

        def tell(share: float) -> None:
            self._report.finish("verify", 0.9 * share, "comparing with the original")

        errors = [entry.stream_error for entry in self._workspace.journal.entries]
        known = tuple(error for error in errors if error is not None)
        if len(known) < len(errors):  # a run by an earlier version began it
            known = ()
        if ends is None:
            return Quality(known) if known else None
        return Quality(known, agreement(ends, *passes.heads(head), tell))


def _passes(job: CompressJob) -> tuple[tuple[Stage, ...], ...]:
    return ONE_PASS if job.passes == 1 else TWO_PASSES


def _check_words(job: CompressJob) -> None:
    """Everything that can be known to fail without looking at the source does so here."""
    quantizer(job.quantizer)
    widths_for(job.spread_by, job.bits)
    if job.error not in ERRORS:
        raise UsageError(f"no --error {job.error!r}; available: {', '.join(ERRORS)}")
    if job.group_size not in GROUP_SIZES:
        named = " or ".join(map(str, GROUP_SIZES))
        raise UsageError(f"--group-size {job.group_size} is not possible: choose {named}")
    if job.is_data_free and job.passes > 1:
        raise UsageError(
            f"--quantizer hqq without --text measures no activations, which --allocator "
            f"{job.spread_by} --error {job.error} needs: give a text"
        )
    if job.is_data_free and job.spread_by == "hessian":
        raise UsageError("--allocator hessian needs activations: give a --text, or choose fnorm")
    for option, bits, widths in (
        ("--router-bits", job.router_bits, manifest.ROUTER_WIDTHS),
        ("--head-bits", job.head_bits, manifest.HEAD_WIDTHS),
    ):
        if bits not in widths:
            named = " or ".join(map(str, widths))
            raise UsageError(f"{option} {bits} is not possible: choose {named}")
    if job.expert_bytes is not None and not needs_all_layers(job.spread_by):
        raise UsageError("--expert-bytes is a budget for --allocator global only")


def _check_shapes(job: CompressJob, config: ModelConfig) -> None:
    """Raise UsageError for a model that the packed layout cannot hold."""
    attention = config.num_heads * config.head_dim
    shared = config.traits.shared_size
    for columns in (config.hidden_size, config.intermediate_size, attention, shared):
        PackedShape(1, columns, DENSE_BITS, job.group_size)
    if config.tie_embeddings and job.head_bits != FULL_BITS:
        raise UsageError(
            f"--head-bits {job.head_bits} is not possible: this model's head is its embeddings, "
            "which stay in 16 bits"
        )


def _method(job: CompressJob, config: ModelConfig) -> Method:
    """Raises UsageError, AllocationError."""
    spread: Budget | ModelBudget
    if needs_all_layers(job.spread_by):
        spread = plan_model_budget(
            job.spread_by,
            job.bits,
            config,
            job.group_size,
            job.expert_bytes,
            quantizer(job.quantizer).rotated,
        )
    else:
        spread = plan_budget(job.spread_by, job.bits, config.num_experts)
    return Method(
        quantize=quantizer(job.quantizer),
        score_with=scoring_quantizer(job.quantizer),
        widths=widths_for(job.spread_by, job.bits),
        group_size=job.group_size,
        allocator=job.spread_by,
        budget=spread,
        exponents=job.exponents or default_exponents(job.spread_by),
        seed=job.seed,
        rest=RestBits(job.router_bits, job.head_bits),
    )


def _recipe(
    job: CompressJob, method: Method, size: CalibrationSize, calibration: Calibration
) -> Recipe:
    return Recipe(
        bits=job.bits,
        quantizer=job.quantizer,
        allocator=job.spread_by,
        group_size=job.group_size,
        calibration=calibration.origin,
        samples=size.samples,
        window=size.window,
        seed=job.seed,
        alpha=method.exponents.alpha,
        beta=method.exponents.beta,
        gamma=method.exponents.gamma,
        error=job.error,
        router_bits=job.router_bits,
        head_bits=job.head_bits,
        rotated=method.quantize.rotated,
        notes=method.budget.notes + (data_free.NOTES if job.is_data_free else ()),
    )


def _fingerprint(recipe: Recipe, provenance: manifest.Source, calibration: Calibration) -> str:
    """What must be the same for one run to go on where another stopped."""
    what = [FORMAT_VERSION, recipe.to_dict(), asdict(provenance)]
    digest = hashlib.sha256(json.dumps(what).encode())
    digest.update(calibration.tokens.numpy().tobytes())
    return digest.hexdigest()
