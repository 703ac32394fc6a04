"""What `mc-chat eval` prints for people."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from app import units

if TYPE_CHECKING:
    from compress.evaluation import Divergence, Estimate, Evaluation, RecallGrid

_ERROR = "_stderr"


def report_lines(found: "Evaluation") -> Iterator[str]:
    """The report, line by line."""
    yield f"perplexity {found.perplexity:.3f} over {found.tokens} tokens"
    yield f"{units.share(found.prune_ratio)} of the expert slots skipped"
    if found.token_by_token is not None:
        again = found.token_by_token
        yield (
            f"perplexity {again.perplexity:.3f} token by token, "
            f"{units.share(again.prune_ratio)} of the expert slots skipped"
        )
    if found.against is not None:
        yield from _against_lines(found.against)
    for task, rows in found.tasks.items():
        yield from _task_lines(task, rows)
    if found.recall_grid is not None:
        yield from _grid_lines(found.recall_grid)


def _against_lines(found: "Divergence") -> Iterator[str]:
    yield f"against the original, {found.windows} windows (95 % intervals):"
    yield f"  perplexity of the original  {found.reference_perplexity:.3f}"
    yield f"  perplexity, times original  {_interval(found.ratio, '.4f')}"
    yield f"  KL divergence, mean         {_interval(found.kl.mean, '.5f')} nats"
    yield f"  KL divergence, median       {found.kl.median:.5f} nats"
    yield f"  KL divergence, 99 % below   {found.kl.percentile_99:.5f} nats"
    yield f"  same most likely token      {_interval(found.top1_agreement, '.2%')}"


def _interval(estimate: "Estimate", form: str) -> str:
    low, high = format(estimate.low, form), format(estimate.high, form)
    return f"{estimate.value:{form}}  ({low} to {high})"


def _task_lines(task: str, rows: dict[str, float]) -> Iterator[str]:
    for row, value in rows.items():
        if ":" not in task:  # the demo's own
            yield f"{task}: {row:<20} {units.share(value)}"
        elif _ERROR not in row:
            name, _, filtered = row.partition(",")
            error = rows.get(f"{name}{_ERROR}{',' * bool(filtered)}{filtered}")
            yield f"{task}: {row:<20} {value:.4f}" + (f" ± {error:.4f}" if error else "")


def _grid_lines(grid: "RecallGrid") -> Iterator[str]:
    yield f"facts recalled, {grid.items} prompts in each cell, by length and depth:"
    yield "  tokens" + "".join(f"{depth:>7.0%}" for depth in grid.depths)
    for length, shares in zip(grid.lengths, grid.shares, strict=True):
        yield f"  {length:>6}" + "".join(f"{share:>7.0%}" for share in shares)
