"""Perplexity and greedy replies against transformers and against plain loops."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import MixtralForCausalLM

from compress import calibration
from compress.calibration import CalibrationSize, read_documents, text_windows, tokenize
from compress.evaluation import Scope, evaluate, greedy_replies, perplexity, pruning_of
from engine.attention import AttentionStatistics
from engine.checkpoint import load_model
from engine.errors import SourceError, UsageError
from engine.model import Model
from engine.pruning import Routing
from tests.unit.models_for_tests import save_tiny_mixtral
from tests.unit.tokenizers_for_tests import SPECIAL, byte_level, ours

VOCABULARY = 320


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_tiny_mixtral(path, vocab_size=VOCABULARY, eos_token_id=2, initializer_range=0.1)
    byte_level().save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(SPECIAL))
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> MixtralForCausalLM:
    return MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def random_windows(count: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, VOCABULARY, (count, length), generator=generator)


def test_perplexity_is_transformers(model: Model, reference: MixtralForCausalLM) -> None:
    windows = random_windows(5, 40)
    with torch.inference_mode():
        losses = [float(reference(w[None], labels=w[None]).loss) for w in windows]
    expected = torch.tensor(losses).mean().exp()
    measured = perplexity(model, windows)
    assert measured.perplexity == pytest.approx(float(expected), rel=1e-4)
    assert measured.tokens == 5 * 39
    assert measured.prune_ratio == 0.0
    stepwise = perplexity(model, windows, stepwise=True)
    assert stepwise.perplexity == pytest.approx(measured.perplexity, rel=1e-4)


def test_prune_ratio_counts_skipped_slots(model: Model) -> None:
    class EveryOther:
        """Skips the second slot of every other token."""

        needs_statistics = False

        def decode_rule(self, num_layers: int) -> None:
            """It cannot be told by a threshold."""

        def prune(
            self,
            layer: int,
            routing: Routing,
            tokens: object,
            attention: AttentionStatistics | None,
        ) -> Routing:
            ids = routing.ids.clone()
            ids[::2, 1] = -1
            return Routing(ids, routing.weights)

    assert perplexity(model, random_windows(2, 20), EveryOther()).prune_ratio == 0.25


def test_greedy_replies_are_transformers(model: Model, reference: MixtralForCausalLM) -> None:
    tokenizer = ours("byte-level")
    rows = random_windows(5, 12).tolist()
    prompts = [row[:length] for row, length in zip(rows, (5, 9, 5, 12, 5), strict=True)]
    replies = greedy_replies(model, tokenizer, prompts)
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = reference.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=128, do_sample=False,
                eos_token_id=2, pad_token_id=2,
            )  # fmt: skip
        generated = out[0, len(prompt) :].tolist()
        ended = generated[: generated.index(2)] if 2 in generated else generated
        assert reply == tokenizer.decode(ended)


def test_text_is_cut_without_overlap(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("ab cd ef " * 40)
    tokenizer = ours("byte-level")
    ids = tokenize(text, tokenizer)
    assert ids[0] == tokenizer.bos_id
    evaluation = evaluate(folder, Scope(text, window=16))
    whole = ids[: len(ids) // 16 * 16].view(-1, 16)
    model = load_model(folder)
    with torch.inference_mode():
        logits = model.forward(whole)[:, :-1].flatten(0, 1)
    loss = F.cross_entropy(logits.double(), whole[:, 1:].flatten())
    assert evaluation.perplexity == pytest.approx(float(loss.exp()), rel=1e-5)
    assert evaluation.tokens == whole[:, 1:].numel()
    assert evaluation.tasks == {}


def test_calibration_windows_are_distinct_pieces_of_the_text(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(map(str, range(400))))
    tokenizer = ours("byte-level")
    ids = tokenize(text, tokenizer)
    windows = text_windows(text, tokenizer, CalibrationSize(10, 32), seed=1)
    starts = [next(i for i in range(0, len(ids), 32) if ids[i : i + 32].equal(w)) for w in windows]
    assert starts == sorted(set(starts))
    again = text_windows(text, tokenizer, CalibrationSize(10, 32), seed=1)
    other = text_windows(text, tokenizer, CalibrationSize(10, 32), seed=2)
    assert torch.equal(windows, again)
    assert not torch.equal(windows, other)
    with pytest.raises(SourceError, match="longer text"):
        text_windows(text, tokenizer, CalibrationSize(1000, 32), seed=1)


def test_documents_are_read_from_plain_text_and_json_lines(tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "one"}\n\n{"text": "two\\nlines", "other": 1}\n')
    assert read_documents(lines) == ["one", "two\nlines"]
    tokenizer = ours("byte-level")
    ids = tokenize(lines, tokenizer).tolist()
    assert ids.count(tokenizer.bos_id) == 2
    plain = tmp_path / "plain.txt"
    plain.write_text("one\n\ntwo")
    assert read_documents(plain) == ["one\n\ntwo"]


@pytest.mark.parametrize(
    ("name", "data"),
    [("bad.jsonl", b"{"), ("bad.jsonl", b'{"t": 1}'), ("bad.txt", b"\xff\xfe\x00"), ("none", None)],
)
def test_unreadable_text_is_one_line(tmp_path: Path, name: str, data: bytes | None) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(SourceError, match=name) as error:
        read_documents(path)
    assert "\n" not in str(error.value)


def test_what_cannot_be_measured_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--text"):
        evaluate(folder, Scope())
    with pytest.raises(UsageError, match="skills, recall, needle, harness:NAME"):
        evaluate(folder, Scope(tasks=("hellaswag",)))
    with pytest.raises(UsageError, match="another one"):
        evaluate(folder, Scope(tasks=("skills",)))
    with pytest.raises(UsageError, match="off"):
        pruning_of(folder, "odp")
    short = tmp_path / "short.txt"
    short.write_text("ab")
    with pytest.raises(SourceError, match="fewer than one window"):
        evaluate(folder, Scope(short, window=64))
    with pytest.raises(UsageError, match="--window"):
        evaluate(folder, Scope(short, window=100_000))


def test_the_demos_language_is_told_by_its_tokenizer(folder: Path, tmp_path: Path) -> None:
    assert calibration.speaks_demo(calibration.assets.DEMO_DIR)
    assert not calibration.speaks_demo(folder)
    assert not calibration.speaks_demo(tmp_path)
