"""Everything that `mc-chat eval` measures of one model, and of two."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from compress.calibration import speaks_demo
from compress.evaluation.demo_tasks import DEMO_TASKS, run_task
from compress.evaluation.divergence import Divergence, Reference, diverge, record_folder
from compress.evaluation.layerwise import predictions_layerwise
from compress.evaluation.likelihood import Perplexity, perplexity, perplexity_of
from compress.evaluation.needle import NEEDLE, NeedleTask, RecallGrid
from compress.evaluation.windows import evaluation_windows
from engine.budget import KvBits
from engine.checkpoint import load_model
from engine.config import ModelConfig
from engine.errors import UsageError
from engine.manifest import is_compressed, read_manifest
from engine.model import Model
from engine.otp import NO_OTP, OtpPruning
from engine.pruning import NO_PRUNING, OdpPruning, Pruning
from engine.tokenizer import Tokenizer

if TYPE_CHECKING:
    from compress.evaluation.harness import HarnessTasks

PruningMode = Literal["odp", "otp", "off"]
HARNESS = "harness:"
"""What the names of lm_eval's tasks begin with: `harness:arc_easy,winogrande`."""

Listener = Callable[[str], None]


@dataclass(frozen=True)
class Scope:
    """What of a model is measured, and how.

    Perplexity is on ``text``, or on the demo's held-out split for a model that speaks its
    language; ``window`` is in tokens. ``tasks`` are the demo's, `needle`, and lm_eval's, which
    ``task_folder`` may add to. ``token_by_token`` measures perplexity a second time, as decoding
    does. ``against``: the folder of the model to compare with. ``kv_bits`` 8 rounds keys and
    values.
    """

    text: Path | None = None
    window: int | None = None
    tasks: tuple[str, ...] = ()
    task_folder: Path | None = None
    pruning: PruningMode = "off"
    kv_bits: KvBits = 16
    token_by_token: bool = False
    against: Path | None = None

    @property
    def only_text(self) -> bool:
        """Whether nothing but perplexity is wanted, of the model as it is."""
        others = (self.tasks, self.token_by_token, self.against, self.kv_bits == 8)
        return not any(others)

    @property
    def own_tasks(self) -> list[str]:
        """Those that need no lm_eval."""
        return [task for task in self.tasks if not task.startswith(HARNESS)]

    @property
    def harness_tasks(self) -> list[str]:
        """The names of lm_eval's."""
        lists = [task.removeprefix(HARNESS) for task in self.tasks if task.startswith(HARNESS)]
        return [name for names in lists for name in names.split(",") if name]


@dataclass(frozen=True)
class Evaluation:
    """What was measured. ``tasks[task][row]`` is the share answered right, 0 to 1; of lm_eval's
    tasks, which keep their prefix, whatever the figure of that name is."""

    perplexity: float
    tokens: int
    prune_ratio: float
    tasks: dict[str, dict[str, float]] = field(default_factory=dict)
    token_by_token: Perplexity | None = None
    recall_grid: RecallGrid | None = None
    against: Divergence | None = None


def evaluate(
    folder: Path,
    scope: Scope,
    device: torch.device | str = "cpu",
    listener: Listener = lambda what: None,
) -> Evaluation:
    """Measure the model in ``folder``; ``listener`` hears what is being measured.

    Raises UsageError, SourceError, CheckpointError, DiskFullError.
    """
    _check_tasks(folder, scope)
    needle = _find_needle(folder, scope)
    harness = _find_harness(scope, listener)
    pruning = pruning_of(folder, scope.pruning, device)
    windows = _windows(folder, scope)
    if scope.only_text and not is_compressed(folder):
        figure = perplexity_of(predictions_layerwise(folder, windows, device, listener))
        return Evaluation(figure, windows[:, 1:].numel(), 0.0)
    reference = None
    if scope.against is not None:
        reference = record_folder(
            scope.against, windows, device, lambda step: listener(f"the original: {step}")
        )
    listener("loading the model")
    model, tokenizer = load_model(folder, device), Tokenizer.from_folder(folder)
    listener("perplexity")
    measured, against = _whole_windows(model, windows, reference, pruning, scope.kv_bits)
    stepwise = None
    if scope.token_by_token:
        listener("perplexity token by token")
        stepwise = perplexity(model, windows, pruning, stepwise=True, kv_bits=scope.kv_bits)
    grid = None
    if needle is not None:
        grid = needle.run(
            model, tokenizer, pruning, scope.kv_bits, lambda cell: listener(f"needle: {cell}")
        )
    return Evaluation(
        perplexity=measured.perplexity,
        tokens=measured.tokens,
        prune_ratio=measured.prune_ratio,
        tasks=_tasks(model, tokenizer, scope, pruning, harness, listener),
        token_by_token=stepwise,
        recall_grid=grid,
        against=against,
    )


def _whole_windows(
    model: Model,
    windows: Tensor,
    reference: Reference | None,
    pruning: Pruning,
    kv_bits: KvBits,
) -> tuple[Perplexity, Divergence | None]:
    """Perplexity, and what there is to say beside a reference, in one pass."""
    if reference is None:
        return perplexity(model, windows, pruning, kv_bits=kv_bits), None
    found = diverge(model, reference, pruning, kv_bits)
    return Perplexity(found.perplexity, found.tokens, found.prune_ratio), found


def _tasks(
    model: Model,
    tokenizer: Tokenizer,
    scope: Scope,
    pruning: Pruning,
    harness: "HarnessTasks | None",
    listener: Listener,
) -> dict[str, dict[str, float]]:
    """Of every task but the needle."""
    found = {}
    for task in DEMO_TASKS:
        if task in scope.own_tasks:
            listener(task)
            found[task] = run_task(task, model, tokenizer, pruning, scope.kv_bits)
    if harness is not None:
        rows = harness.run(
            model,
            tokenizer,
            pruning,
            scope.kv_bits,
            lambda done, total: listener(f"harness: {done} of {total} requests"),
        )
        found |= {f"{HARNESS}{name}": figures for name, figures in rows.items()}
    return found


def _check_tasks(folder: Path, scope: Scope) -> None:
    """Before anything is loaded. Raises UsageError."""
    known = (*DEMO_TASKS, NEEDLE)
    for task in scope.own_tasks:
        if task not in known:
            raise UsageError(f"no task {task!r}; available: {', '.join(known)}, {HARNESS}NAME")
    if set(DEMO_TASKS) & set(scope.own_tasks) and not speaks_demo(folder):
        raise UsageError(
            f"{' and '.join(DEMO_TASKS)} ask about the demo's small world; this model is another "
            "one"
        )


def _find_needle(folder: Path, scope: Scope) -> NeedleTask | None:
    """None where it is not wanted. Raises UsageError, SourceError."""
    if NEEDLE not in scope.own_tasks:
        return None
    longest = ModelConfig.from_folder(folder).max_context
    return NeedleTask.of(folder, scope.text, min(longest, scope.window or longest))


def _find_harness(scope: Scope, listener: Listener) -> "HarnessTasks | None":
    """lm_eval's tasks, None where none is wanted. Raises UsageError."""
    if not scope.harness_tasks:
        return None
    if find_spec("lm_eval") is None:
        raise UsageError(f"{HARNESS} tasks need lm-evaluation-harness: pip install 'mc-chat[eval]'")
    listener("loading lm-evaluation-harness")
    from compress.evaluation.harness import HarnessTasks

    return HarnessTasks.find(scope.harness_tasks, scope.task_folder)


def _windows(folder: Path, scope: Scope) -> Tensor:
    """The windows for the model, and for what it is compared with: the same tokens for both.

    Raises UsageError where the two cut the text into other tokens.
    """
    config = ModelConfig.from_folder(folder)
    windows = evaluation_windows(folder, config, scope.text, scope.window)
    if scope.against is not None:
        other = ModelConfig.from_folder(scope.against)
        theirs = evaluation_windows(scope.against, other, scope.text, windows.shape[1])
        if not torch.equal(windows, theirs):
            raise UsageError(
                f"{scope.against} cuts this text into other tokens: compare a model with the one "
                "it was made from"
            )
    return windows


def pruning_of(folder: Path, mode: PruningMode, device: torch.device | str = "cpu") -> Pruning:
    """The pruning that a model has learned. Raises UsageError where it has none."""
    if mode == "off":
        return NO_PRUNING
    if not is_compressed(folder):
        raise UsageError("pruning is learned on compressed models; measure this with off")
    manifest = read_manifest(folder)
    if mode == "odp":
        return OdpPruning.from_records(manifest.layers)
    learned = OtpPruning.load(folder, manifest, ModelConfig.from_folder(folder), device)
    if learned is None:
        raise UsageError(NO_OTP)
    return learned
