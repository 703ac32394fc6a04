"""How good a model is: perplexity, and the demo's exact answers. For compressed and original alike.

Every model is measured by the same code on the same tokens, so that only the weights differ.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from assets import corpus
from assets.corpus import SkillItem
from compress.calibration import (
    CalibrationSize,
    demo_tokenizer,
    demo_windows,
    speaks_demo,
    tokenize,
)
from engine.budget import KvBits
from engine.cache import KVCache
from engine.checkpoint import load_model
from engine.counters import Counters
from engine.errors import SourceError, UsageError
from engine.manifest import is_compressed, read_manifest
from engine.model import Model
from engine.pruning import NO_PRUNING, OdpPruning, Pruning
from engine.tokenizer import Tokenizer

PruningMode = Literal["odp", "off"]
TASKS = ("skills", "recall")

DEMO_WINDOWS = 32
DEMO_SEED = 0
"""The held-out windows and items on which every table of the demo is made."""
ITEMS_PER_SKILL = 50
RECALL_DISTANCE = 300
RECALL_ITEMS = 50
MAX_REPLY_TOKENS = 128
"""Longer than every right answer of the demo."""

_DEFAULT_WINDOW = 2048
_BATCH_TOKENS = 4096
_BATCH_WINDOWS = 32
"""Windows, or replies, that decode side by side."""


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log likelihood over ``tokens`` predicted tokens.

    ``prune_ratio``: skipped expert slots / routed slots, 0 to 1.
    """

    perplexity: float
    tokens: int
    prune_ratio: float


@dataclass(frozen=True)
class Evaluation:
    """What `mc-chat eval` reports. ``tasks[task][row]`` is the share answered exactly, 0 to 1."""

    perplexity: float
    tokens: int
    prune_ratio: float
    tasks: dict[str, dict[str, float]]


def evaluate(
    folder: Path,
    text: Path | None = None,
    window: int | None = None,
    tasks: Sequence[str] = (),
    pruning: PruningMode = "off",
    listener: Callable[[str], None] | None = None,
    kv_bits: KvBits = 16,
) -> Evaluation:
    """Measure the model in ``folder``.

    Perplexity is on ``text``, or on the demo's held-out split for a model that speaks its
    language; ``window`` is in tokens. ``listener`` hears what is being measured; ``kv_bits`` 8
    rounds keys and values. Raises UsageError, SourceError, CheckpointError.
    """
    tell = listener or _silent
    unknown = [task for task in tasks if task not in TASKS]
    if unknown:
        raise UsageError(f"no task {unknown[0]!r}; available: {', '.join(TASKS)}")
    if tasks and not speaks_demo(folder):
        raise UsageError("the tasks ask about the demo's small world; this model is another one")
    tell("loading the model")
    model = load_model(folder)
    mode = pruning_of(folder, pruning)
    tell("perplexity")
    windows = evaluation_windows(folder, model, text, window)
    measured = perplexity(model, windows, mode, kv_bits=kv_bits)
    scores = {}
    tokenizer = Tokenizer.from_folder(folder)
    for task in tasks:
        tell(task)
        scores[task] = run_task(task, model, tokenizer, mode, kv_bits)
    return Evaluation(measured.perplexity, measured.tokens, measured.prune_ratio, scores)


def _silent(what: str) -> None:
    """Nobody listens."""


def pruning_of(folder: Path, mode: PruningMode) -> Pruning:
    """The pruning that a model's own thresholds give. Raises UsageError where it has none."""
    if mode == "off":
        return NO_PRUNING
    if not is_compressed(folder):
        raise UsageError("ODP's thresholds are learned by compressing; measure this with off")
    return OdpPruning.from_records(read_manifest(folder).layers)


def evaluation_windows(folder: Path, model: Model, text: Path | None, window: int | None) -> Tensor:
    """The windows [N, T] to measure on: all of a text without overlap, or the demo's held-out.

    Raises UsageError for an impossible window or no text, SourceError for a text too short.
    """
    longest = model.config.max_context
    length = min(_DEFAULT_WINDOW, longest) if window is None else window
    if not 2 <= length <= longest:
        raise UsageError(f"--window {length} is not possible: this model takes 2 to {longest}")
    if text is None:
        if not speaks_demo(folder):
            raise UsageError("this model brings no text to measure on: give one with --text FILE")
        return demo_windows("heldout", CalibrationSize(DEMO_WINDOWS, length), DEMO_SEED)
    ids = tokenize(text, Tokenizer.from_folder(folder))
    count = len(ids) // length
    if not count:
        raise SourceError(f"{text} has {len(ids)} tokens, fewer than one window of {length}")
    return ids[: count * length].view(count, length)


@torch.inference_mode()
def perplexity(
    model: Model,
    windows: Tensor,
    pruning: Pruning = NO_PRUNING,
    *,
    stepwise: bool = False,
    kv_bits: KvBits = 16,
) -> Perplexity:
    """Perplexity over windows [N, T] int64 of every token but each window's first.

    ``stepwise`` feeds one token at a time through the KV cache, as decoding does; the protection
    of pruning then sees no later token. Without pruning both ways agree. With ``kv_bits`` 8 keys
    and values are rounded, as a cache of that width does.
    """
    counters = Counters(model)
    if stepwise:
        run, size = _run_stepwise, _BATCH_WINDOWS
    else:
        run, size = _run_whole, max(1, _BATCH_TOKENS // windows.shape[1])
    batches = torch.split(windows, size)
    loss = sum(run(model, batch, pruning, counters, kv_bits) for batch in batches)
    tokens = windows[:, 1:].numel()
    return Perplexity(math.exp(loss / tokens), tokens, counters.read().prune_ratio)


def _cache(model: Model, batch: int, length: int, kv_bits: KvBits) -> KVCache:
    return KVCache(model.config, length, batch, model.embed.device, model.dtype, kv_bits)


def _run_whole(
    model: Model, tokens: Tensor, pruning: Pruning, counters: Counters, kv_bits: KvBits
) -> float:
    """Summed negative log likelihood of windows [B, T], each in one forward pass."""
    cache = (
        None if kv_bits == 16 else _cache(model, len(tokens), tokens.shape[1], kv_bits)
    )  # only to round
    logits = model.forward(tokens, cache, pruning, counters)[:, :-1]  # [B, T - 1, V]
    return _loss(logits, tokens[:, 1:])


def _run_stepwise(
    model: Model, tokens: Tensor, pruning: Pruning, counters: Counters, kv_bits: KvBits
) -> float:
    """The same token by token."""
    batch, length = tokens.shape
    cache = _cache(model, batch, length, kv_bits)
    loss = 0.0
    for at in range(length - 1):
        step = tokens[:, at : at + 1]
        logits = model.forward(step, cache, pruning, counters)  # [B, 1, V]
        loss += _loss(logits, tokens[:, at + 1 : at + 2])
    return loss


def _loss(logits: Tensor, targets: Tensor) -> float:
    summed = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")
    return float(summed)


def run_task(
    task: str,
    model: Model,
    tokenizer: Tokenizer,
    pruning: Pruning = NO_PRUNING,
    kv_bits: KvBits = 16,
) -> dict[str, float]:
    """Share of exact answers by row: by skill, or by how many tokens back the fact was told."""
    if task == "skills":
        items = corpus.skill_items(DEMO_SEED, ITEMS_PER_SKILL)
        return answer_shares(model, tokenizer, items, pruning, kv_bits)
    items = corpus.recall_items(demo_tokenizer(), DEMO_SEED, RECALL_ITEMS, RECALL_DISTANCE)
    (share,) = answer_shares(model, tokenizer, items, pruning, kv_bits).values()
    return {str(RECALL_DISTANCE): share}


def answer_shares(
    model: Model,
    tokenizer: Tokenizer,
    items: Sequence[SkillItem],
    pruning: Pruning = NO_PRUNING,
    kv_bits: KvBits = 16,
) -> dict[str, float]:
    """Share of the items of each skill that are answered exactly, white space around aside."""
    prompts = [tokenizer.encode_turns(item.messages) for item in items]
    replies = greedy_replies(model, tokenizer, prompts, pruning, kv_bits)
    right: dict[str, list[bool]] = defaultdict(list)
    for item, reply in zip(items, replies, strict=True):
        right[item.skill].append(reply.strip() == item.answer.strip())
    return {skill: sum(marks) / len(marks) for skill, marks in right.items()}


@torch.inference_mode()
def greedy_replies(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    pruning: Pruning = NO_PRUNING,
    kv_bits: KvBits = 16,
) -> list[str]:
    """The most likely reply to each prompt, prompts of one length side by side (no padding)."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_length[len(prompt)].append(index)
    replies = [""] * len(prompts)
    for same in by_length.values():
        for start in range(0, len(same), _BATCH_WINDOWS):
            chosen = same[start : start + _BATCH_WINDOWS]
            tokens = torch.tensor([list(prompts[index]) for index in chosen])  # [B, T]
            answers = _greedy(model, tokens, pruning, kv_bits)
            for index, ids in zip(chosen, answers, strict=True):
                replies[index] = tokenizer.decode(ids)
    return replies


def _greedy(model: Model, tokens: Tensor, pruning: Pruning, kv_bits: KvBits) -> list[list[int]]:
    """Greedy replies to prompts [B, T], without the end token."""
    batch, length = tokens.shape
    limit = min(MAX_REPLY_TOKENS, model.config.max_context - length)
    cache = _cache(model, batch, length + limit, kv_bits)
    ends = torch.tensor(model.config.eos_ids, device=tokens.device)
    drawn = []
    ended = torch.zeros(batch, dtype=torch.bool, device=tokens.device)
    step = tokens
    for _ in range(limit):
        logits = model.forward(step, cache, pruning, last_only=True)  # [B, 1, V]
        step = logits.argmax(-1)  # [B, 1]
        drawn.append(step)
        ended |= torch.isin(step[:, 0], ends)
        if ended.all():
            break
    rows = torch.cat(drawn, dim=1).tolist()
    return [_until(row, model.config.eos_ids) for row in rows]


def _until(row: list[int], ends: tuple[int, ...]) -> list[int]:
    """The tokens before the first end token."""
    for position, token in enumerate(row):
        if token in ends:
            return row[:position]
    return row
