"""A model beside its reference, against float64 over the logits of transformers' own models."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import MixtralForCausalLM

import assets
from compress.evaluation import Scope, compare, diverge, evaluate, perplexity, record
from engine.checkpoint import load_model
from engine.errors import DiskFullError, UsageError
from engine.model import Model
from engine.pruning import RatioPruning
from tests.unit.models_for_tests import save_tiny_mixtral
from tests.unit.tokenizers_for_tests import SPECIAL, byte_level, sentencepiece_like

VOCABULARY = 320
COUNT, LENGTH = 5, 24


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where records lie."""
    monkeypatch.setenv("MC_CHAT_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "cache"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "original"
    save_tiny_mixtral(path, vocab_size=VOCABULARY, eos_token_id=2)
    byte_level().save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(SPECIAL))
    return path


@pytest.fixture(scope="module")
def changed(folder: Path) -> Path:
    """The same with noise on every weight."""
    path = folder.with_name("changed")
    shutil.copytree(folder, path)
    model = MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def windows() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, VOCABULARY, (COUNT, LENGTH), generator=generator)


def log_probabilities(folder: Path, windows: Tensor) -> Tensor:
    """transformers', float64 [N, T - 1, V]."""
    model = MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(windows).logits[:, :-1].double().log_softmax(-1)


def test_every_figure_is_the_definition(folder: Path, changed: Path, windows: Tensor) -> None:
    found = diverge(load_model(changed), record(load_model(folder), windows))
    theirs, ours = log_probabilities(folder, windows), log_probabilities(changed, windows)
    targets = windows[:, 1:, None]
    kl = (theirs.exp() * (theirs - ours)).sum(-1)  # [N, T - 1]
    difference = (theirs - ours).gather(-1, targets).mean()
    same = (theirs.argmax(-1) == ours.argmax(-1)).double().mean()
    assert 0.01 < kl.mean() < 1  # or it would show nothing
    assert 0.2 < same < 1
    assert found.kl.mean.value == pytest.approx(float(kl.mean()), rel=2e-3)
    assert found.kl.median == pytest.approx(float(kl.median()), rel=0.05)
    assert found.kl.percentile_99 == pytest.approx(float(kl.quantile(0.99)), rel=2e-3)
    assert found.log_ratio.value == pytest.approx(float(difference), abs=1e-5)
    assert found.ratio.value == pytest.approx(float(difference.exp()), abs=1e-5)
    assert found.top1_agreement.value == pytest.approx(float(same), abs=1e-6)
    for folder_, figure in ((folder, found.reference_perplexity), (changed, found.perplexity)):
        assert figure == pytest.approx(perplexity(load_model(folder_), windows).perplexity)
    for estimate in (found.kl.mean, found.log_ratio, found.ratio, found.top1_agreement):
        assert estimate.low <= estimate.value <= estimate.high
    assert found.log_ratio.low < found.log_ratio.high
    assert (found.windows, found.tokens) == (COUNT, COUNT * (LENGTH - 1))


def test_a_model_agrees_with_itself(folder: Path, windows: Tensor) -> None:
    model = load_model(folder)
    found = diverge(model, record(model, windows))
    assert found.ratio.value == pytest.approx(1.0, abs=1e-12)
    assert found.top1_agreement.value == 1.0
    assert abs(found.kl.mean.value) < 1e-6


def test_confident_models_are_recorded_without_loss(folder: Path, windows: Tensor) -> None:
    """Logits far apart: in float16 they would overflow, or lose what their differences say."""

    class Louder(Model):
        def logits(self, x: Tensor) -> Tensor:
            return 2e4 + 20.0 * super().logits(x)

    model = load_model(folder)
    parts = (model.config, model.layers, model.embed, model.norm, model.head, model.dtype)
    loud = Louder(*parts)
    found = diverge(loud, record(loud, windows))
    assert found.top1_agreement.value == 1.0
    assert 0 <= found.kl.mean.value < 1e-2


def test_the_record_takes_what_it_says_and_leaves_nothing(
    folder: Path, windows: Tensor, cache: Path
) -> None:
    reference = record(load_model(folder), windows)
    assert reference.nbytes == COUNT * (LENGTH - 1) * VOCABULARY * 2
    assert reference.logits.max() == 0
    assert np.isfinite(reference.logits).all()
    assert list(cache.iterdir()) == []  # without a name it cannot be left behind


def test_pruning_shows(folder: Path, windows: Tensor) -> None:
    model = load_model(folder)
    everything = RatioPruning((2.0,) * model.config.num_layers)
    found = diverge(model, record(model, windows), everything)
    assert found.prune_ratio == 0.5
    assert found.kl.mean.low > 0


def test_what_cannot_be_compared_is_refused(
    folder: Path, windows: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(folder)
    with pytest.raises(UsageError, match="one window"):
        record(model, windows[:1])
    save_tiny_mixtral(tmp_path / "other", vocab_size=VOCABULARY + 1)
    with pytest.raises(UsageError, match=r"321 and 320"):
        diverge(load_model(tmp_path / "other"), record(model, windows))
    with pytest.raises(UsageError, match="another one"):
        compare(folder, record(model, windows))
    monkeypatch.setattr(
        "compress.evaluation.scratch.shutil.disk_usage",
        lambda path: SimpleNamespace(free=9),
    )
    with pytest.raises(DiskFullError, match="make room"):
        record(model, windows)


def test_evaluate_compares_on_the_same_tokens(folder: Path, changed: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("ab cd, ef! " * 40)
    scope = Scope(text, window=32, against=folder, token_by_token=True)
    found = evaluate(changed, scope)
    assert found.against is not None
    assert found.against.reference_perplexity == evaluate(folder, Scope(text, 32)).perplexity
    assert found.perplexity == found.against.perplexity
    assert found.perplexity == pytest.approx(evaluate(changed, Scope(text, 32)).perplexity)
    assert found.token_by_token is not None
    assert found.token_by_token.perplexity == pytest.approx(found.perplexity, rel=1e-4)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    sentencepiece_like().save(str(other / "tokenizer.json"))
    with pytest.raises(UsageError, match="other tokens"):
        evaluate(other, scope)


def test_a_build_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.evaluation.demo_tasks.RECALL_ITEMS", 8)
    demo = load_model(assets.DEMO_DIR)
    generator = torch.Generator().manual_seed(0)
    windows = torch.randint(3, demo.config.vocab_size, (2, 16), generator=generator)
    found = compare(assets.DEMO_DIR, record(demo, windows), tasks=("recall",))
    assert found.divergence.ratio.value == pytest.approx(1.0)
    assert found.tasks["recall"]["300"] > 0.8
