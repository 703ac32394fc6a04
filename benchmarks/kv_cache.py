"""What a KV cache of 8 bits costs in quality, and saves in bytes.

    python -m benchmarks.kv_cache [MODEL_FOLDER] [--quick] [--json]

Perplexity on the demo's held-out text and facts recalled from 300 tokens before, with keys and
values as they are and rounded; of the original demo, or of a folder that speaks its language.
`--quick`: a quarter of the windows and items.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import assets
from assets import corpus
from benchmarks.machine import machine
from compress.calibration import demo_tokenizer
from compress.evaluation import (
    DEMO_SEED,
    RECALL_DISTANCE,
    RECALL_ITEMS,
    answer_shares,
    evaluation_windows,
    perplexity,
)
from engine.budget import KvBits, kv_cache_bytes
from engine.checkpoint import load_model
from engine.config import MIXTRAL_8X7B
from engine.model import Model
from engine.tokenizer import Tokenizer


@dataclass(frozen=True)
class Row:
    """``recall``: share of facts, 0 to 1; bytes per token of this model on a CPU, and of Mixtral
    8x7B on a GPU at 32,768 tokens."""

    kv_bits: int
    perplexity: float
    recall: float
    bytes_per_token: int
    mixtral_bytes: int


def rows(folder: Path, quick: bool) -> list[Row]:
    """One for each width of the cache."""
    model, tokenizer = load_model(folder), Tokenizer.from_folder(folder)
    return [_row(folder, model, tokenizer, bits, quick) for bits in reversed(get_args(KvBits))]


def _row(folder: Path, model: Model, tokenizer: Tokenizer, bits: KvBits, quick: bool) -> Row:
    part = 4 if quick else 1
    windows = evaluation_windows(folder, model.config, None, None)
    items = corpus.recall_items(demo_tokenizer(), DEMO_SEED, RECALL_ITEMS // part, RECALL_DISTANCE)
    (recall,) = answer_shares(model, tokenizer, items, kv_bits=bits).values()
    return Row(
        kv_bits=bits,
        perplexity=perplexity(model, windows[: len(windows) // part], kv_bits=bits).perplexity,
        recall=recall,
        bytes_per_token=kv_cache_bytes(model.config, 1, "cpu", bits),
        mixtral_bytes=kv_cache_bytes(MIXTRAL_8X7B, MIXTRAL_8X7B.max_context, "cuda", bits),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=assets.DEMO_DIR)
    parser.add_argument("--quick", action="store_true", help="a quarter of the text")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = rows(options.folder, options.quick)
    if options.json:
        table = [asdict(row) for row in found]
        print(json.dumps({"machine": machine(), "model": options.folder.name, "rows": table}))
        return
    print(f"{options.folder.name}, {machine()}\n")
    print("| KV cache | perplexity | recall | bytes a token, CPU | Mixtral 8x7B at 32k, GPU |")
    print("|---|---|---|---|---|")
    for row in found:
        print(
            f"| {row.kv_bits} bits | {row.perplexity:.5f} | {row.recall:.0%} | "
            f"{row.bytes_per_token} | {row.mixtral_bytes / 1e9:.2f} GB |"
        )


if __name__ == "__main__":
    main()
