"""How good a model is, compressed or original, and how far from the one it was made from.

Every model is measured by the same code on the same tokens, so that only the weights differ.
`docs/evaluation.md` says what each figure is.
"""

from compress.evaluation.bootstrap import Estimate
from compress.evaluation.comparison import Comparison, compare
from compress.evaluation.demo_tasks import (
    DEMO_SEED,
    DEMO_TASKS,
    ITEMS_PER_SKILL,
    RECALL_DISTANCE,
    RECALL_ITEMS,
    answer_shares,
    run_task,
)
from compress.evaluation.divergence import (
    Divergence,
    KlDivergence,
    Reference,
    diverge,
    record,
    record_folder,
)
from compress.evaluation.likelihood import Perplexity, perplexity
from compress.evaluation.needle import NEEDLE, NeedleTask, RecallGrid
from compress.evaluation.replies import greedy_replies
from compress.evaluation.report import Evaluation, PruningMode, Scope, evaluate, pruning_of
from compress.evaluation.windows import DEMO_WINDOWS, evaluation_windows

__all__ = [
    "DEMO_SEED",
    "DEMO_TASKS",
    "DEMO_WINDOWS",
    "ITEMS_PER_SKILL",
    "NEEDLE",
    "RECALL_DISTANCE",
    "RECALL_ITEMS",
    "Comparison",
    "Divergence",
    "Estimate",
    "Evaluation",
    "KlDivergence",
    "NeedleTask",
    "Perplexity",
    "PruningMode",
    "RecallGrid",
    "Reference",
    "Scope",
    "answer_shares",
    "compare",
    "diverge",
    "evaluate",
    "evaluation_windows",
    "greedy_replies",
    "perplexity",
    "pruning_of",
    "record",
    "record_folder",
    "run_task",
]
