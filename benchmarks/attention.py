"""Attention of prompts on a CPU: what it costs to know what each token receives.

    python -m benchmarks.attention [--quick] [--json]

Medians of milliseconds for one layer, all ways in turn: torch's own attention, which tells nothing;
ours without and with the sums of the map, keys and values as they are and of 8 bits; and the map
made in plain torch, 256 queries at a time. Heads of Mixtral 8x7B and of the demo. `--quick`: up to
2,048 keys.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import assets
from benchmarks.machine import machine
from engine.budget import QUERY_BLOCK
from engine.cache import Stored, round_to_codes
from engine.config import MIXTRAL_8X7B, ModelConfig
from engine.mixing import Prompt

_REPEATS = 5
_LONG = 4096
"""Tokens of a prompt from which on one timed turn is enough: it takes half a minute."""

_SHAPES = ((512, 0), (2048, 0), (256, 2048 - 256), (256, 8192 - 256), (8192, 0))
"""New tokens, and those before them."""


@dataclass(frozen=True)
class Row:
    """Milliseconds, medians; ``against_map``: the map's over ours, median of the ratios."""

    model: str
    tokens: int
    keys: int
    torch: float
    ours: float
    ours_with_sums: float
    ours_8_bits: float
    map: float
    against_map: float


def row(name: str, config: ModelConfig, tokens: int, start: int) -> Row:
    """One layer's attention of ``tokens`` after ``start`` others."""
    kv_heads, dim = config.num_kv_heads, config.head_dim
    repeat = config.num_heads // kv_heads
    queries = torch.randn(1, tokens, kv_heads, repeat, dim).permute(0, 2, 3, 1, 4)
    keys, values = torch.randn(2, 1, kv_heads, start + tokens, dim)
    rounded = [Stored(*round_to_codes(x)) for x in (keys, values)]
    prompt = Prompt(queries, Stored(keys), Stored(values), start, None)
    ways: list[Callable[[], object]] = [
        lambda: _torch(queries, keys, values, start),
        prompt.mix,
        prompt.mix_with_sums,
        Prompt(queries, rounded[0], rounded[1], start, None).mix_with_sums,
        lambda: _map(queries, keys, values, start),
    ]
    times: list[list[float]] = [[] for _ in ways]
    with torch.inference_mode():
        for turn in range(1 + (_REPEATS if tokens < _LONG else 1)):
            for way, mine in zip(ways, times, strict=True):
                began = time.perf_counter()
                way()
                if turn:
                    mine.append(1000 * (time.perf_counter() - began))
    ratios = [other / ours for ours, other in zip(times[2], times[4], strict=True)]
    torch_, ours, ours_with_sums, ours_8_bits, map_ = map(statistics.median, times)
    return Row(
        name,
        tokens,
        start + tokens,
        torch_,
        ours,
        ours_with_sums,
        ours_8_bits,
        map_,
        statistics.median(ratios),
    )


def _torch(queries: Tensor, keys: Tensor, values: Tensor, start: int) -> Tensor:
    heads = queries.flatten(1, 2)  # [1, N, T, D]
    mask = None
    if start:
        mask = torch.ones(heads.shape[2], keys.shape[2], dtype=torch.bool).tril_(start)
    return F.scaled_dot_product_attention(
        heads, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=True
    )


def _map(queries: Tensor, keys: Tensor, values: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Mixed values, and the sums over queries, by the map of all heads."""
    received = torch.zeros(keys.shape[2])
    outs = []
    for first in range(0, queries.shape[3], QUERY_BLOCK):
        block = queries[..., first : first + QUERY_BLOCK, :]  # [1, KV, R, Tq, D]
        end = start + first + block.shape[3]
        seen = torch.ones(block.shape[3], end, dtype=torch.bool).tril_(start + first)
        scores = block @ keys[:, :, None, :end].transpose(-1, -2) * keys.shape[-1] ** -0.5
        attention = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        outs.append(attention @ values[:, :, None, :end])
        received[:end] += attention.mean(dim=(0, 1, 2)).sum(dim=0)
    return torch.cat(outs, dim=3), received


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 2,048 keys")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    demo = ModelConfig.from_folder(assets.DEMO_DIR)
    found = [
        row(name, config, tokens, start)
        for name, config in (("demo", demo), ("Mixtral 8x7B", MIXTRAL_8X7B))
        for tokens, start in _SHAPES
        if start + tokens <= (2048 if options.quick else 8192)
        and (config is MIXTRAL_8X7B or start + tokens <= 2048)
    ]
    if options.json:
        print(json.dumps({"machine": machine(), "rows": [asdict(row) for row in found]}))
        return
    print(f"{machine()}, {torch.get_num_threads()} threads, milliseconds\n")
    print("| heads | tokens | keys | torch | ours | with sums | 8 bits | map | map / with sums |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row_ in found:
        cells = (row_.torch, row_.ours, row_.ours_with_sums, row_.ours_8_bits, row_.map)
        times = " | ".join(f"{cell:.1f}" for cell in cells)
        print(f"| {row_.model} | {row_.tokens} | {row_.keys} | {times} | {row_.against_map:.2f} |")


if __name__ == "__main__":
    main()
