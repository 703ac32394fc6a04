"""The most likely replies to prompts, many at a time."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from compress.evaluation.likelihood import BATCH_WINDOWS, new_cache
from engine.budget import KvBits
from engine.model import Model
from engine.pruning import NO_PRUNING, Pruning
from engine.tokenizer import Tokenizer

MAX_REPLY_TOKENS = 128
"""Longer than every right answer of the demo."""

_LOOK_EVERY = 8
"""Tokens between two looks for a reply's end that only its text shows."""

Finished = Callable[[list[int]], bool]
"""Whether a reply's ids need no continuation."""


def greedy_replies(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    pruning: Pruning = NO_PRUNING,
    kv_bits: KvBits = 16,
) -> list[str]:
    """The text of the most likely reply to each prompt, up to `MAX_REPLY_TOKENS` tokens."""
    ids = greedy_ids(model, prompts, MAX_REPLY_TOKENS, pruning, kv_bits)
    return [tokenizer.decode(reply) for reply in ids]


@torch.inference_mode()
def greedy_ids(
    model: Model,
    prompts: Sequence[Sequence[int]],
    limit: int,
    pruning: Pruning = NO_PRUNING,
    kv_bits: KvBits = 16,
    finished: Finished | None = None,
) -> list[list[int]]:
    """The most likely reply to each prompt, without the end token.

    It ends after ``limit`` tokens, where the context does, or soon after ``finished``.
    """
    replies: list[list[int]] = [[] for _ in prompts]
    for chosen in same_length(prompts):
        tokens = torch.tensor([list(prompts[index]) for index in chosen])  # [B, T]
        answers = _greedy(model, tokens, limit, pruning, kv_bits, finished)
        for index, ids in zip(chosen, answers, strict=True):
            replies[index] = ids
    return replies


def same_length(sequences: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices of sequences of one length, `BATCH_WINDOWS` at most: they need no padding."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, sequence in enumerate(sequences):
        by_length[len(sequence)].append(index)
    for same in by_length.values():
        for start in range(0, len(same), BATCH_WINDOWS):
            yield same[start : start + BATCH_WINDOWS]


def _greedy(
    model: Model,
    tokens: Tensor,
    limit: int,
    pruning: Pruning,
    kv_bits: KvBits,
    finished: Finished | None,
) -> list[list[int]]:
    """Greedy replies to prompts [B, T]."""
    batch, length = tokens.shape
    limit = min(limit, model.config.max_context - length)
    cache = new_cache(model, batch, length + limit, kv_bits)
    step = tokens.to(model.embed.device)
    ends = torch.tensor(model.config.eos_ids, device=step.device)
    ended = torch.zeros(batch, dtype=torch.bool, device=step.device)
    drawn: list[Tensor] = []
    for count in range(1, limit + 1):
        logits = model.forward(step, cache, pruning, last_only=True)  # [B, 1, V]
        step = logits.argmax(-1)  # [B, 1]
        drawn.append(step)
        ended |= torch.isin(step[:, 0], ends)
        if finished is not None and count % _LOOK_EVERY == 0:
            marks = [finished(row) for row in _rows(drawn)]
            ended |= torch.tensor(marks, device=step.device)
        if ended.all():
            break
    return [_until(row, model.config.eos_ids) for row in _rows(drawn)]


def _rows(drawn: list[Tensor]) -> list[list[int]]:
    """The ids of each sequence, of tokens [B, 1] in their order."""
    rows: list[list[int]] = torch.cat(drawn, dim=1).tolist()
    return rows


def _until(row: list[int], ends: tuple[int, ...]) -> list[int]:
    """The tokens before the first end token."""
    for position, token in enumerate(row):
        if token in ends:
            return row[:position]
    return row
