"""Teaches OTP to a finished checkpoint: measures, fits, and writes what it learned beside it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from compress.calibration import CalibrationSize, calibrate, calibration_size
from compress.pruning.damage import measure_damage
from compress.pruning.otp import check_share, fit_router, price_for, skipped_share
from compress.result import file_record, write_manifest
from compress.workspace import say_when_full
from engine.checkpoint import load_model, open_checkpoint, save_tensors
from engine.config import ModelConfig
from engine.counters import ActivationCosts
from engine.devices import choose
from engine.errors import UsageError
from engine.manifest import OTP_FILE, Manifest, OtpRecord, open_manifest
from engine.otp import OtpPruning

DEFAULT_SKIPPED = 0.25
"""As many slots as ODP's medians skip of a top-2 model."""

_MOST_TOKENS = 1 << 16
"""Sixteen to a feature of Mixtral 8x7B; their stream and one layer's inputs take 1.1 GB there."""


@dataclass(frozen=True)
class PruneJob:
    """What to teach, and on what. ``folder`` is a finished checkpoint; ``skipped`` the share of
    the expert slots to be skipped, unless it is said how many ``fewer`` activated parameters there
    are to be, as a share of them; the others as in `CompressJob`."""

    folder: Path
    skipped: float = DEFAULT_SKIPPED
    text: Path | None = None
    samples: int | None = None
    window: int | None = None
    device: str = "auto"
    seed: int = 0
    offline: bool = False
    fewer: float | None = None


@dataclass(frozen=True)
class _Build:
    folder: Path
    config: ModelConfig


def learn_otp(job: PruneJob, listener: Callable[[str], None]) -> OtpRecord:
    """Learn routers and write them; ``listener`` hears what is being done.

    The model is loaded as it is to run, and stays whole at every moment. Raises UsageError,
    CheckpointError, SourceError, DiskFullError, NetworkError, HubError.
    """
    manifest, config = open_checkpoint(job.folder)
    if config.top_k < 2:
        raise UsageError("this model chooses one expert for each token: there is nothing to skip")
    device, build = choose(job.device), _Build(job.folder, config)
    size = _size(job, build, device.kind)
    listener("reading the calibration text")
    text = calibrate(build, job.text, size, job.seed, job.offline)
    listener("loading the model")
    model = load_model(job.folder, device.id)
    skipped = job.skipped
    if job.fewer is not None:
        skipped = _slots_for(job.fewer, ActivationCosts.of(model), config)
    check_share(skipped, config.top_k)

    def tell(layer: int) -> None:
        listener(f"layer {layer + 1} of {config.num_layers}")

    with torch.inference_mode():
        fitted = [fit_router(layer) for layer in measure_damage(model, text.tokens, tell)]
    foretold = [layer.foretold for layer in fitted]
    price = price_for(foretold, skipped)
    record = OtpRecord(
        price, skipped_share(foretold, price), text.origin, size.samples, size.window
    )
    routers = torch.stack([layer.router for layer in fitted]).cpu()
    with say_when_full(job.folder):
        _write(job.folder, manifest, OtpPruning(routers, price), record)
    return record


def _slots_for(fewer: float, costs: ActivationCosts, config: ModelConfig) -> float:
    """The share of the slots without which a share ``fewer`` of the activated parameters goes."""
    experts = config.num_layers * config.top_k * costs.expert_params
    return fewer * (costs.dense_params + experts) / experts


def _size(job: PruneJob, build: _Build, device_kind: str) -> CalibrationSize:
    size = calibration_size(build, job.samples, job.window, device_kind)
    if job.samples is not None:
        return size
    return replace(size, samples=max(1, min(size.samples, _MOST_TOKENS // size.window)))


def _write(folder: Path, manifest: Manifest, learned: OtpPruning, record: OtpRecord) -> None:
    """Killed in between, it leaves a model without OTP."""
    files = {name: file for name, file in manifest.files.items() if name != OTP_FILE}
    if manifest.otp is not None:
        write_manifest(folder, replace(manifest, files=files, otp=None))
    path = save_tensors(folder / OTP_FILE, learned.tensors())
    files[OTP_FILE] = file_record(path)
    write_manifest(folder, replace(manifest, files=files, otp=record))
    open_manifest(folder)
