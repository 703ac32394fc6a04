"""Checkpoints whose routers and head are packed: loading, counting, refusing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import fit
from benchmarks.random_checkpoint import write_random_checkpoint
from engine import budget
from engine.budget import AS_IT_IS
from engine.checkpoint import load_model
from engine.config import MIXTRAL_8X7B
from engine.counters import ActivationCosts
from engine.errors import CheckpointError
from engine.linear import FloatLinear, PackedLinear
from engine.manifest import MANIFEST_NAME, RestBits, open_manifest, read_manifest
from engine.packing import dequantize
from tests.checkpoints_for_tests import EXPERT_BITS, GROUP_SIZE, write_tiny_checkpoint
from tests.unit.test_fit import SLICE

EVERY = [RestBits(4, 16), RestBits(16, 8), RestBits(16, 4), RestBits(4, 8)]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path / "packed", rest_bits=RestBits(4, 8))
    return tmp_path / "packed"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what mc.json says."""
    path = folder / MANIFEST_NAME
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize("rest", EVERY, ids=str)
def test_a_model_equals_itself_with_plain_router_and_head(tmp_path: Path, rest: RestBits) -> None:
    write_tiny_checkpoint(tmp_path, rest_bits=rest)
    model = load_model(tmp_path)
    plain = replace(model, layers=list(model.layers))
    if rest.router != 16:
        for index, layer in enumerate(model.layers):
            assert isinstance(layer.router, PackedLinear)
            router = FloatLinear(dequantize(layer.router.matrix))
            plain.layers[index] = replace(layer, router=router)
    if rest.head != 16:
        assert isinstance(model.head, PackedLinear)
        plain = replace(plain, head=FloatLinear(dequantize(model.head.matrix)))
    tokens = torch.randint(0, 96, (2, 19))
    torch.testing.assert_close(model.forward(tokens), plain.forward(tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rest", [AS_IT_IS, *EVERY], ids=str)
def test_a_loaded_checkpoint_takes_exactly_what_was_promised(
    tmp_path: Path, rest: RestBits
) -> None:
    write_tiny_checkpoint(tmp_path, rest_bits=rest)
    model = load_model(tmp_path)
    need = budget.compressed_budget(model.config, EXPERT_BITS, GROUP_SIZE, 77, "cpu", rest)
    assert model.memory_bytes() == need.weights
    stored = sum(
        tensor.nbytes
        for path in tmp_path.glob("*.safetensors")
        for name, tensor in load_file(path).items()
        if not name.startswith("experts.")
    )
    assert budget.dense_bytes(model.config, GROUP_SIZE, "cuda", rest) == stored


@pytest.mark.parametrize("rest", [RestBits(4, 4), RestBits(16, 8)], ids=str)
def test_the_whole_promise_holds(tmp_path: Path, rest: RestBits) -> None:
    """With a vocabulary that makes the head more than the experts, as in no Mixtral."""
    config = replace(SLICE, vocab_size=16_384)
    write_random_checkpoint(tmp_path / "slice", config, (4, 3, 2, 1, 1, 2, 3, 4), 128, rest)
    row = fit.fit(tmp_path / "slice", 2048, torch.device("cpu"))
    assert abs(row.error) < 0.01


def test_what_the_options_save_on_mixtral() -> None:
    def weights(rest: RestBits) -> int:
        return budget.dense_bytes(MIXTRAL_8X7B, 128, "cuda", rest)

    head = 32_000 * 4096
    as_it_is = weights(AS_IT_IS)
    for bits in (4, 8):
        # Two 16-bit numbers for each 128 weights.
        assert as_it_is - weights(RestBits(head=bits)) == head * (16 - bits - 32 / 128) / 8
    # 8 rows take a tile of 32, and so more than in 16 bits.
    rows = 32 * 4096 * (4 + 32 / 128) / 8
    assert weights(RestBits(router=4)) - as_it_is == 32 * (rows - 8 * 4096 * 2)


def test_a_gpu_needs_room_for_the_dequantized_head() -> None:
    """Its reference kernels dequantize the whole matrix, and the head is larger than any other."""

    def workspace(rest: RestBits) -> int:
        return budget.workspace_bytes(MIXTRAL_8X7B, 8192, "cuda", rest)

    more = 4096 * (32_000 - 14_336) * (4 + 4 + 4)
    assert workspace(RestBits(head=8)) - workspace(AS_IT_IS) == more
    assert workspace(RestBits(router=4)) == workspace(AS_IT_IS)


def test_activated_bytes_are_those_of_the_packed_matrices(packed: Path, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "plain")
    plain = ActivationCosts.of(load_model(tmp_path / "plain"))
    costs = ActivationCosts.of(load_model(packed))
    # Groups of 32 with two 16-bit numbers: a bit more per weight; routers have 32 rows for 4.
    routers = 2 * 64 * (32 * (4 + 1) / 8 - 4 * 4)
    head = 2048 * 64 * ((8 + 1) / 8 - 2)
    assert costs.dense_bytes - plain.dense_bytes == routers + head
    assert costs.dense_params == plain.dense_params


# --- what mc.json says ----------------------------------------------------------------------------


def test_the_widths_are_in_the_manifest_and_come_back(packed: Path) -> None:
    found = open_manifest(packed)
    assert found.recipe.rest == RestBits(4, 8)
    assert found.to_json() == (packed / MANIFEST_NAME).read_text()


def test_what_stays_in_16_bits_is_not_mentioned(tmp_path: Path) -> None:
    """So that earlier versions, which know no such widths, can read what they could make."""
    write_tiny_checkpoint(tmp_path)
    assert '_bits": 16' not in (tmp_path / MANIFEST_NAME).read_text()
    assert read_manifest(tmp_path).recipe.rest == AS_IT_IS


@pytest.mark.parametrize("key", ["router_bits", "head_bits"])
@pytest.mark.parametrize("value", [0, -4, 3, 12, 32, 2**70, True, "4", None, 4.0])
def test_widths_that_nothing_can_have_are_refused(packed: Path, key: str, value: object) -> None:
    rewrite(packed, lambda raw: raw["recipe"].update({key: value}))
    with pytest.raises(CheckpointError, match=r"mc\.json is damaged") as caught:
        load_model(packed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"router_bits": 16, "head_bits": 8}, r"layer-00.* has no tensor router\.weight"),
        ({"router_bits": 4, "head_bits": 16}, r"dense.* has no tensor head\.weight"),
        ({"router_bits": 4, "head_bits": 4}, r"head\.codes is .* instead of"),
    ],
)
def test_a_checkpoint_of_other_widths_than_it_says_is_named(
    packed: Path, changes: dict[str, int], said: str
) -> None:
    rewrite(packed, lambda raw: raw["recipe"].update(changes))
    with pytest.raises(CheckpointError, match=said):
        load_model(packed)


def test_a_packed_head_that_is_tied_is_refused(packed: Path) -> None:
    path = packed / "config.json"
    text = json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True})
    path.write_text(text)
    with pytest.raises(CheckpointError, match="ties to the embeddings"):
        open_manifest(packed)
