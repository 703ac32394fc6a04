"""An original, layer by layer, against transformers' model."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MixtralForCausalLM

from compress.evaluation import layerwise, record, record_folder
from compress.evaluation.layerwise import predictions_layerwise
from compress.evaluation.likelihood import perplexity, perplexity_of
from engine.checkpoint import load_model
from engine.errors import SourceError
from engine.model import Layer
from tests.unit.models_for_tests import save_tiny_mixtral

WINDOWS = torch.randint(3, 96, (5, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_CHAT_HOME", str(tmp_path / "home"))
    # Several batches.
    monkeypatch.setattr("compress.evaluation.likelihood.BATCH_TOKENS", 80)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"sliding_window": 8}])
def test_it_is_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = tmp_path / "original"
    reference = save_tiny_mixtral(folder, **changes)
    with torch.inference_mode():
        expected = reference(WINDOWS).logits[:, :-1]
        batches = list(predictions_layerwise(folder, WINDOWS))
    assert [len(batch.targets) for batch in batches] == [2, 2, 1]
    found = torch.cat([batch.logits for batch in batches])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(torch.cat([batch.targets for batch in batches]), WINDOWS[:, 1:])


def test_16_bit_weights_say_what_the_whole_model_says(tmp_path: Path) -> None:
    save_tiny_mixtral(tmp_path / "float")
    folder = tmp_path / "half"
    MixtralForCausalLM.from_pretrained(tmp_path / "float", dtype=torch.bfloat16).save_pretrained(
        folder
    )
    model = load_model(folder)
    whole = perplexity(model, WINDOWS).perplexity
    assert perplexity_of(predictions_layerwise(folder, WINDOWS)) == pytest.approx(whole, rel=1e-6)
    one, other = record(model, WINDOWS), record_folder(folder, WINDOWS)
    assert other.losses == pytest.approx(one.losses, abs=1e-4)
    assert other.logits == pytest.approx(one.logits, abs=1e-2)


def test_one_layer_at_a_time_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, made, heard = tmp_path / "original", list[Any](), list[str]()
    save_tiny_mixtral(folder, num_hidden_layers=4)
    original_layer = layerwise.original_layer

    def watched(*arguments: Any) -> Layer:
        gc.collect()
        assert not any(layer() for layer in made)
        layer = original_layer(*arguments)
        made.append(weakref.ref(layer))
        return layer

    monkeypatch.setattr(layerwise, "original_layer", watched)
    list(predictions_layerwise(folder, WINDOWS, listener=heard.append))
    assert len(made) == 4
    assert heard[-1] == "layer 4 of 4"


def test_a_damaged_original_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "original"
    save_tiny_mixtral(folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(SourceError):
        record_folder(folder, WINDOWS)
