"""The whole promise against everything that torch allocates on a CPU; see benchmarks/fit.py."""

import dataclasses
from pathlib import Path

import pytest
import torch

import assets
from benchmarks import fit
from benchmarks.random_checkpoint import write_random_checkpoint
from engine import budget
from engine.budget import KvBits
from engine.config import MIXTRAL_8X7B, ModelConfig

CPU = torch.device("cpu")
SLICE = dataclasses.replace(
    MIXTRAL_8X7B,
    vocab_size=512,
    hidden_size=256,
    intermediate_size=1024,
    num_layers=1,
    num_heads=8,
    num_kv_heads=2,
    head_dim=32,
)


def test_the_demo_takes_what_was_promised() -> None:
    config = ModelConfig.from_folder(assets.DEMO_DIR)
    row = fit.fit(assets.DEMO_DIR, config.max_context, CPU)
    assert abs(row.error) < 0.01


@pytest.mark.parametrize("kv_bits", [16, 8])
@pytest.mark.parametrize(
    ("context", "window", "map_elements"),
    [
        (300, None, budget.MAP_ELEMENTS),
        (2048, None, budget.MAP_ELEMENTS),
        (32_768, None, budget.MAP_ELEMENTS),
        (8192, 4096, 1 << 20),  # a map in blocks of queries and of heads
    ],
)
def test_a_slice_with_random_codes_takes_what_was_promised(
    context: int,
    window: int | None,
    map_elements: int,
    kv_bits: KvBits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget, "MAP_ELEMENTS", map_elements)
    row = fit.fit(written(tmp_path, window), context, CPU, kv_bits)
    assert abs(row.error) < 0.01


def test_a_promise_holds_if_all_tokens_go_to_one_expert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "MAP_ELEMENTS", 1 << 12)  # the experts' half is the larger one
    row = fit.fit(written(tmp_path, None), 256, CPU)
    assert 0 <= row.error < 0.6, "tokens spread over the experts in truth"


def written(folder: Path, window: int | None) -> Path:
    """A slice with random codes."""
    config = dataclasses.replace(SLICE, sliding_window=window)
    write_random_checkpoint(folder / "slice", config, (4, 3, 2, 1, 1, 2, 3, 4), 128)
    return folder / "slice"
