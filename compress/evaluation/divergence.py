"""A model against the one it was made from: what the original says of every token is kept in a
file, so that the two need not be in memory together and one record serves many builds."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from compress.evaluation.bootstrap import Estimate, mean_over_windows
from compress.evaluation.layerwise import predictions_layerwise
from compress.evaluation.likelihood import Predictions, predictions
from compress.evaluation.scratch import scratch_array
from engine.budget import KvBits
from engine.checkpoint import load_model
from engine.config import ModelConfig
from engine.counters import Counters
from engine.errors import UsageError
from engine.manifest import is_compressed
from engine.model import Model
from engine.pruning import NO_PRUNING, Pruning

_LOWEST = float(np.finfo(np.float16).min)


@dataclass(frozen=True)
class Reference:
    """What a model says of windows [N, T].

    ``losses`` float64 [N, T - 1] are its negative log likelihoods in nats. ``logits`` float16
    [N, T - 1, V], in a file, are its logits less the largest of each token: rounding then hardly
    touches the likely tokens, and what softmax makes of them is a distribution again.
    """

    windows: Tensor
    losses: NDArray[np.float64]
    logits: NDArray[np.float16]

    @property
    def perplexity(self) -> float:
        """Of the reference itself."""
        return math.exp(self.losses.mean())

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self.logits.nbytes


def record(model: Model, windows: Tensor) -> Reference:
    """Record what ``model``, unpruned, says of windows [N, T], N at least 2.

    Raises UsageError for a single window, of which no interval can be told, DiskFullError where
    the file does not fit.
    """
    return _write(predictions(model, windows), windows, model.config.vocab_size)


def record_folder(
    folder: Path,
    windows: Tensor,
    device: torch.device | str = "cpu",
    listener: Callable[[str], None] = lambda step: None,
) -> Reference:
    """The same of the model in ``folder``; an original is never in memory as a whole.

    ``listener`` hears where it is. Raises SourceError, CheckpointError, and what `record` does.
    """
    if is_compressed(folder):
        return record(load_model(folder, device), windows)
    batches = predictions_layerwise(folder, windows, device, listener)
    return _write(batches, windows, ModelConfig.from_folder(folder).vocab_size)


@torch.inference_mode()
def _write(batches: Iterable[Predictions], windows: Tensor, vocabulary: int) -> Reference:
    if len(windows) < 2:
        raise UsageError(
            "one window has no confidence interval: take a longer text, or a smaller --window"
        )
    shape = (*windows[:, 1:].shape, vocabulary)
    found = scratch_array(shape, np.float16, "what the original says of every token")
    losses, rows = list[Tensor](), iter(torch.from_numpy(found))
    for batch in batches:
        losses.append(batch.losses().cpu())
        for logits in batch.logits.float():  # [T - 1, V]
            shifted = logits - logits.amax(-1, keepdim=True)
            next(rows).copy_(shifted.clamp_(min=_LOWEST))
    return Reference(windows, torch.cat(losses).double().numpy(), found)


@dataclass(frozen=True)
class KlDivergence:
    """KL divergence from the reference to the model, in nats per predicted token: ``mean`` with
    its interval over windows, ``median`` and ``percentile_99`` over tokens."""

    mean: Estimate
    median: float
    percentile_99: float


@dataclass(frozen=True)
class Divergence:
    """A model beside its reference on the same windows, with 95 % intervals over windows.

    ``ratio``: perplexity over the reference's, ``log_ratio`` its logarithm, the mean difference of
    the negative log likelihoods. ``top1_agreement``: share of tokens for which both find the same
    token the most likely. ``record_bytes``: what the reference took on the disk meanwhile.
    """

    perplexity: float
    reference_perplexity: float
    ratio: Estimate
    log_ratio: Estimate
    kl: KlDivergence
    top1_agreement: Estimate
    prune_ratio: float
    windows: int
    tokens: int
    record_bytes: int


@torch.inference_mode()
def diverge(
    model: Model, reference: Reference, pruning: Pruning = NO_PRUNING, kv_bits: KvBits = 16
) -> Divergence:
    """Compare ``model`` with what was recorded. Raises UsageError for another vocabulary."""
    recorded_vocabulary = reference.logits.shape[2]
    if model.config.vocab_size != recorded_vocabulary:
        raise UsageError(
            f"the models have vocabularies of {model.config.vocab_size} and {recorded_vocabulary}: "
            "compare a model with the one it was made from"
        )
    counters = Counters(model)
    batches = predictions(model, reference.windows, pruning, counters, kv_bits)
    compared, start = list[tuple[Tensor, Tensor, Tensor]](), 0
    for batch in batches:
        end = start + len(batch.targets)
        windows = zip(batch.targets, batch.logits, reference.logits[start:end], strict=True)
        compared += [_compare(*window) for window in windows]
        start = end
    losses, kl, same = (torch.stack(rows).double().numpy() for rows in zip(*compared, strict=True))
    log_ratio = mean_over_windows((losses - reference.losses).mean(axis=1))
    median, percentile_99 = np.quantile(kl, (0.5, 0.99))
    return Divergence(
        perplexity=math.exp(losses.mean()),
        reference_perplexity=reference.perplexity,
        ratio=log_ratio.exp(),
        log_ratio=log_ratio,
        kl=KlDivergence(mean_over_windows(kl.mean(axis=1)), float(median), float(percentile_99)),
        top1_agreement=mean_over_windows(same.mean(axis=1)),
        prune_ratio=counters.read().prune_ratio,
        windows=len(losses),
        tokens=losses.size,
        record_bytes=reference.nbytes,
    )


def _compare(
    targets: Tensor, logits: Tensor, recorded_logits: NDArray[np.float16]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one window: losses, KL divergences and whether both agree on the first, [T - 1] each.

    ``targets`` are [T - 1], both logits [T - 1, V].
    """
    ours = logits.float().log_softmax(-1)
    theirs = torch.from_numpy(recorded_logits).to(logits.device).float().log_softmax(-1)
    losses = -ours.gather(-1, targets[:, None])[:, 0]
    kl = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    same = ours.argmax(-1) == theirs.argmax(-1)
    return losses.cpu(), kl.cpu(), same.cpu()
