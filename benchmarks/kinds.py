"""Every kind of model on a CPU: the compiled step of a token, and the same kernels layer by layer.

    python -m benchmarks.kinds [--quick] [--json]

Three layers in each model's true width, a small vocabulary, experts with random codes of 2 and 3
bits, rotated. One thread, 256 tokens of context. What is compared is timed in turn within each
round; a ratio is the median of the rounds' own. `--quick`: one layer and fewer rounds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from benchmarks.gpu_checks import random_prunings
from benchmarks.machine import machine
from benchmarks.random_checkpoint import random_model
from engine.architectures.architecture import Traits
from engine.attention import AttentionStatistics
from engine.cache import KVCache
from engine.config import ModelConfig
from engine.model import Model
from engine.pruning import Pruning, Routing

CONTEXT = 256
TOKENS = 3
"""Of a round."""

_OLMOE = ModelConfig(2048, 2048, 1024, 3, 16, 16, 128, 64, 8, 1e4, 1e-5, 4096)
KINDS = {
    "Mixtral": ModelConfig(2048, 4096, 14_336, 3, 32, 8, 128, 8, 2, 1e6, 1e-5, 4096),
    "OLMoE-1B-7B": replace(_OLMOE, traits=Traits(norms="all", renormalised=False)),
    "Qwen3-30B-A3B": replace(
        _OLMOE,
        intermediate_size=768,
        num_heads=32,
        num_kv_heads=4,
        num_experts=128,
        traits=Traits(norms="head"),
    ),
    "Qwen1.5-MoE-A2.7B": replace(
        _OLMOE,
        intermediate_size=1408,
        num_experts=60,
        top_k=4,
        traits=Traits(qkv_bias=True, renormalised=False, shared_size=5632),
    ),
}


@dataclass(frozen=True)
class Row:
    """Milliseconds a token, and how many times as fast the step is."""

    model: str
    pruning: str
    layers: float
    step: float
    ratio: float


@dataclass(frozen=True)
class LayerByLayer:
    """A pruning that no rule tells: nothing compiled takes it."""

    inner: Pruning

    @property
    def needs_statistics(self) -> bool:
        """See `engine.pruning.Pruning`."""
        return self.inner.needs_statistics

    def decode_rule(self, num_layers: int) -> None:
        """No rule."""
        return None

    def prune(
        self, layer: int, routing: Routing, tokens: Tensor, attention: AttentionStatistics | None
    ) -> Routing:
        """As ``inner`` does."""
        return self.inner.prune(layer, routing, tokens, attention)


def rows(name: str, config: ModelConfig, rounds: int) -> Iterator[Row]:
    bits = tuple(2 + expert % 2 for expert in range(config.num_experts))
    model = random_model(config, bits, 128, "cpu", torch.float32, rotated=True)
    assert model.decoder.step(model) is not None
    cache = KVCache(config, CONTEXT + TOKENS)
    prunings = random_prunings(config.num_layers, config.hidden_size, config.top_k, "cpu")
    for words, pruning in prunings.items():
        ways = (LayerByLayer(pruning), pruning)
        times = [tuple(milliseconds(model, cache, way) for way in ways) for _ in range(rounds + 1)]
        layers, step = (statistics.median(column[1:]) for column in zip(*times, strict=True))
        ratio = statistics.median(slow / fast for slow, fast in times[1:])
        yield Row(name, words, layers, step, ratio)


def milliseconds(model: Model, cache: KVCache, pruning: Pruning) -> float:
    """Of a token."""
    cache.length = CONTEXT
    started = time.perf_counter()
    for token in range(TOKENS):
        model.forward(torch.tensor([[token]]), cache, pruning)
    return 1e3 * (time.perf_counter() - started) / TOKENS


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = []
    with torch.inference_mode():
        for name, config in KINDS.items():
            shape = replace(config, num_layers=1) if options.quick else config
            found += rows(name, shape, 3 if options.quick else 15)
    if options.json:
        print(json.dumps({"machine": machine(), "rows": [asdict(row) for row in found]}))
        return
    print(f"{machine()}, one thread\n\n| model | | layer by layer, ms | the step, ms | ratio |")
    print("|---|---|---|---|---|")
    for row in found:
        print(
            f"| {row.model} | {row.pruning} | {row.layers:.1f} | {row.step:.1f} | {row.ratio:.1f} |"
        )


if __name__ == "__main__":
    main()
