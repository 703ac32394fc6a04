"""One build beside its original, for tables: as much as takes a few seconds on the demo."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.calibration import speaks_demo
from compress.evaluation.demo_tasks import DEMO_TASKS, run_task
from compress.evaluation.divergence import Divergence, Reference, diverge
from engine.checkpoint import load_model
from engine.errors import UsageError
from engine.pruning import NO_PRUNING, Pruning
from engine.tokenizer import Tokenizer


@dataclass(frozen=True)
class Comparison:
    """``divergence`` from the original; ``tasks[task][row]`` is the share answered exactly."""

    divergence: Divergence
    tasks: dict[str, dict[str, float]]


def compare(
    folder: Path,
    reference: Reference,
    tasks: Sequence[str] = DEMO_TASKS,
    pruning: Pruning = NO_PRUNING,
) -> Comparison:
    """Measure the build in ``folder`` beside what was recorded of its original.

    One `record` serves all builds of a table. Without ``tasks`` it works for any model. Raises
    UsageError for another vocabulary, or for tasks about the demo's world and another model.
    """
    if tasks and not speaks_demo(folder):
        raise UsageError("the tasks ask about the demo's small world; this model is another one")
    model, tokenizer = load_model(folder), Tokenizer.from_folder(folder)
    return Comparison(
        divergence=diverge(model, reference, pruning),
        tasks={task: run_task(task, model, tokenizer, pruning) for task in tasks},
    )
