"""The pictures of the method show what the program does."""

import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from docs import charts, figures
from docs.figures import Allocation, Errors, Ratios, Token, Weights
from engine.checkpoint import load_model
from engine.counters import Counters
from engine.pruning import OdpPruning
from engine.tokenizer import Tokenizer
from tests.checkpoints_for_tests import EXPERT_BITS, write_tiny_checkpoint

SHARES = tuple(1 / figures.BINS for _ in range(figures.BINS))


def drawn() -> Iterator[tuple[str, int]]:
    """Each picture, and how many marks it must have."""
    errors = ((4.0, 2.0, 1.0), (8.0, 3.0, 1.0))
    yield charts.widths([Allocation(2.0, EXPERT_BITS), Allocation(1.5, EXPERT_BITS)]), 16
    yield charts.errors(Errors(0, errors, (2, 3))), 0
    yield charts.ratios(Ratios(1, SHARES, 0.4, 0.41)), 0
    tokens = [Token("<s>", ("protected", "one")), Token("Ġ&", ("both", "one"))]
    yield charts.tokens(tokens), 4 + 3  # and the legend's
    yield charts.turned(Weights(SHARES, 0.5), Weights(SHARES, 0.36)), 0


def test_pictures_are_svg_that_says_what_it_is_and_the_same_every_time() -> None:
    for (picture, marks), (again, _) in zip(drawn(), drawn(), strict=True):
        assert picture == again
        root = ElementTree.fromstring(picture)
        named = {child.tag.rpartition("}")[2]: child for child in root}
        assert named["title"].text
        assert "prefers-color-scheme: dark" in (named["style"].text or "")
        cells = [
            child for child in root if child.get("class") in {"on-pale", "on-dark"} and child.text
        ]
        assert len(cells) == marks


def test_layers_and_experts_are_named_as_in_the_checkpoint() -> None:
    (widths, _), (errors, _), *_ = drawn()
    assert [f"layer {layer}<" in widths for layer in range(3)] == [True, True, False]
    assert "Layer 0: " in errors
    assert [f"expert {expert}<" in errors for expert in range(3)] == [True, True, False]


def test_turned_weights_are_normal_and_were_not() -> None:
    before, after = figures.turned(layer=1, expert=0, group_size=128)
    assert after.missed == pytest.approx(1 - 2 / math.pi, abs=0.01)
    assert before.missed > after.missed + 0.05
    assert sum(after.shares) == pytest.approx(1, abs=1e-5)


def test_a_prompts_fates_are_what_the_engine_counts(tmp_path: Path) -> None:
    manifest = write_tiny_checkpoint(tmp_path)
    model = load_model(tmp_path)
    found = figures.fates(model, tmp_path, manifest)
    ids = figures.prompt_ids(Tokenizer.from_folder(tmp_path), figures.TALK)
    counters = Counters(model)
    odp = OdpPruning.from_records(manifest.layers)
    model.forward(torch.tensor([ids]), pruning=odp, counters=counters)
    for layer, skipped in enumerate(counters.read().skipped):
        fates = [token.fates[layer] for token in found]
        assert fates.count("one") == skipped > 0
        assert fates.count("protected") == max(1, int(0.02 * len(ids)))


def test_ratios_are_cut_where_the_threshold_is(tmp_path: Path) -> None:
    manifest = write_tiny_checkpoint(tmp_path)
    found = figures.ratios(load_model(tmp_path), manifest, 0)
    below = sum(found.shares[: int(found.threshold * figures.BINS)])
    assert below - 1e-6 <= found.below <= below + max(found.shares)
