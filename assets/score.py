"""Measure a model of the small world: `python -m assets.score [FOLDER]`.

Perplexity on held-out chats, exact answers per skill, and facts found far back. The functions take
callables, so that the same code scores the 16-bit demo and any compressed form of it.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, MixtralForCausalLM

from assets import DEMO_DIR, corpus
from assets.corpus import Message, SkillItem

Logits = Callable[[Tensor], Tensor]
"""Token ids [batch, length] int64 to logits [batch, length, vocab]."""
Generate = Callable[[Sequence[Sequence[Message]]], Sequence[str]]
"""Chats that end with the user's turn to the texts of the replies, greedily decoded."""

RECALL_DISTANCES: Final = (100, 300, 600)
MAX_REPLY_TOKENS: Final = 128
"""Longer than every right answer."""
_BATCH: Final = 25


@dataclass(frozen=True)
class Count:
    """How many of `total` items were answered exactly."""

    right: int
    total: int

    @property
    def share(self) -> float:
        """The share answered exactly, 0 to 1."""
        return self.right / self.total


def exact(answer_text: str, item: SkillItem) -> bool:
    """Whether the whole reply is the right answer, white space around it aside."""
    return answer_text.strip() == item.answer.strip()


def answers(generate: Generate, items: Sequence[SkillItem]) -> dict[str, Count]:
    """Exact answers per skill."""
    right: dict[str, list[bool]] = {}
    for start in range(0, len(items), _BATCH):
        batch = items[start : start + _BATCH]
        replies = generate([item.messages for item in batch])
        for item, reply in zip(batch, replies, strict=True):
            right.setdefault(item.skill, []).append(exact(reply, item))
    return {skill: Count(sum(marks), len(marks)) for skill, marks in right.items()}


def factual_share(scores: dict[str, Count]) -> float:
    """The share of exact answers over the factual skills together, 0 to 1."""
    counts = [scores[skill] for skill in corpus.FACTUAL_SKILLS if skill in scores]
    return sum(count.right for count in counts) / sum(count.total for count in counts)


@torch.inference_mode()
def perplexity(logits: Logits, windows: npt.NDArray[np.int64], batch: int = 4) -> float:
    """Perplexity over windows [count, length] of token ids, every token but each first."""
    total, tokens = 0.0, 0
    for start in range(0, len(windows), batch):
        ids = torch.from_numpy(windows[start : start + batch])
        predicted = logits(ids)[:, :-1].flatten(0, 1).float()
        total += F.cross_entropy(predicted, ids[:, 1:].flatten(), reduction="sum").item()
        tokens += ids[:, 1:].numel()
    return math.exp(total / tokens)


@torch.inference_mode()
def expert_shares(model: Any, windows: npt.NDArray[np.int64]) -> Tensor:
    """Slots given to each expert as a multiple of its layer's mean: [layers, experts], float32.

    `model`: a transformers MixtralForCausalLM; `windows`: token ids [count, length].
    """
    config = model.config
    counts = torch.zeros(config.num_hidden_layers, config.num_local_experts)
    for window in windows:
        ids = torch.from_numpy(window)[None]
        router_logits = model(ids, output_router_logits=True).router_logits
        for layer, scores in enumerate(router_logits):
            chosen = scores.topk(config.num_experts_per_tok, dim=-1).indices.flatten()
            counts[layer] += chosen.bincount(minlength=config.num_local_experts)
    return counts / counts.mean(dim=1, keepdim=True)


def transformers_logits(model: Any) -> Logits:
    """The logits of a transformers model, as `perplexity` wants them."""

    def logits(ids: Tensor) -> Tensor:
        result: Tensor = model(ids).logits
        return result

    return logits


def transformers_generate(model: Any, tokenizer: Any) -> Generate:
    """Greedy replies of a transformers model, a batch at a time, padded on the left."""

    @torch.inference_mode()
    def generate(chats: Sequence[Sequence[Message]]) -> list[str]:
        prompts = [list(tokenizer.apply_chat_template(chat)["input_ids"]) for chat in chats]
        longest = max(map(len, prompts))
        eos = tokenizer.eos_token_id
        ids = torch.tensor([[eos] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        )
        output = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=MAX_REPLY_TOKENS,
            do_sample=False,
            pad_token_id=eos,
        )
        return [tokenizer.decode(row[longest:], skip_special_tokens=True) for row in output]

    return generate


def _groups(model: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of an expert weight tensor and a view of it in groups of 128 along the input."""
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            yield parameter.data, parameter.data.reshape(-1, 128)


def round_experts(model: Any, bits: int) -> None:
    """Round the experts of a transformers Mixtral, in place, to the nearest of 2^bits levels.

    Minimum to maximum of each group of 128 weights along the input: the crudest quantizer there
    is, used to see whether the model has anything to lose.
    """
    levels = 2**bits - 1
    for weight, groups in _groups(model):
        low, high = groups.aminmax(dim=1, keepdim=True)
        scale = ((high - low) / levels).clamp_min(1e-8)
        weight.copy_((((groups - low) / scale).round() * scale + low).view_as(weight))


@dataclass(frozen=True)
class Report:
    """Everything measured of one checkpoint."""

    perplexity: float
    rounded_ratio: float
    """Held-out perplexity with experts rounded to 2 bits, over that without."""
    factual: float
    skills: dict[str, Count]
    recall: dict[int, Count]
    shares: list[tuple[float, float]]
    """Per layer, the smallest and largest share of an expert, in means."""


def score(folder: Path, per_skill: int, recalls: int, count: int, seed: int = 0) -> Report:
    """Measure the checkpoint in `folder` on `count` held-out windows and all kinds of items."""
    model = MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(DEMO_DIR)
    length = model.config.max_position_embeddings
    windows = corpus.windows(tokenizer, "heldout", seed, count, length)
    plain = perplexity(transformers_logits(model), windows)
    generate = transformers_generate(model, tokenizer)
    skills = answers(generate, corpus.skill_items(seed, per_skill))
    recall = {
        distance: answers(generate, corpus.recall_items(tokenizer, seed, recalls, distance))[
            "recall"
        ]
        for distance in RECALL_DISTANCES
    }
    shares = expert_shares(model, windows)
    round_experts(model, bits=2)
    return Report(
        perplexity=plain,
        rounded_ratio=perplexity(transformers_logits(model), windows) / plain,
        factual=factual_share(skills),
        skills=skills,
        recall=recall,
        shares=[(row.min().item(), row.max().item()) for row in shares],
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=DEMO_DIR)
    parser.add_argument("--per-skill", type=int, default=100)
    parser.add_argument("--recall", type=int, default=100, help="items per distance")
    parser.add_argument("--windows", type=int, default=32, help="held-out windows")
    options = parser.parse_args(arguments)
    report = score(options.folder, options.per_skill, options.recall, options.windows)
    print(json.dumps(asdict(report), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
