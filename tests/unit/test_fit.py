"""The whole promise against everything that torch allocates on a CPU; see benchmarks/fit.py."""

import dataclasses
from pathlib import Path

import pytest
import torch

import assets
from benchmarks import fit
from benchmarks.random_checkpoint import write_random_checkpoint
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


@pytest.mark.parametrize(
    ("context", "peak"),
    [(256, "all tokens in one expert"), (2048, "one map"), (32_768, "a map in blocks")],
)
def test_a_slice_with_random_codes_takes_what_was_promised(
    tmp_path: Path, context: int, peak: str
) -> None:
    folder = tmp_path / "slice"
    write_random_checkpoint(folder, SLICE, (4, 3, 2, 1, 1, 2, 3, 4), 128)
    row = fit.fit(folder, context, CPU)
    if peak == "all tokens in one expert":
        # Tokens spread over the experts in truth: promised is the worst case.
        assert 0 <= row.error < 0.3
    else:
        assert abs(row.error) < 0.01
