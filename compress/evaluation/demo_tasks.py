"""The demo's own questions: exact answers by skill, and facts told some way back."""

from collections import defaultdict
from collections.abc import Sequence

from assets import corpus
from assets.corpus import SkillItem
from compress.calibration import demo_tokenizer
from compress.evaluation.replies import greedy_replies
from engine.budget import KvBits
from engine.model import Model
from engine.pruning import NO_PRUNING, Pruning
from engine.tokenizer import Tokenizer

DEMO_TASKS = ("skills", "recall")

DEMO_SEED = 0
"""The held-out windows and items on which every table of the demo is made."""
ITEMS_PER_SKILL = 50
RECALL_DISTANCE = 300
RECALL_ITEMS = 50


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
