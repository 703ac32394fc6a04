"""lm-evaluation-harness on tiny local tasks, against its own adapter and plain sums."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MixtralForCausalLM, PreTrainedTokenizerFast

pytest.importorskip("lm_eval", reason="needs lm-eval, the extra mc-chat[eval]")

import datasets
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from compress.evaluation import Scope, evaluate, pruning_of
from compress.evaluation.harness import HarnessModel, HarnessTasks
from engine.checkpoint import load_model
from engine.errors import SourceError, UsageError
from engine.model import Model
from engine.pruning import RatioPruning
from engine.tokenizer import Tokenizer
from tests.unit.models_for_tests import save_tiny_mixtral, write_compressed
from tests.unit.tokenizers_for_tests import SPECIAL, byte_level

CONTEXT = 48
WORDS = "ab abba cab, a bad cab! "

TASKS = {
    "choice": """
        task: little_choice
        output_type: multiple_choice
        doc_to_text: "Q: {{question}} A:"
        doc_to_choice: "{{choices}}"
        doc_to_target: "{{answer}}"
        metric_list: [{metric: acc}, {metric: acc_norm}]
    """,
    "text": """
        task: little_text
        output_type: loglikelihood_rolling
        doc_to_text: ""
        doc_to_target: "{{text}}"
        metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
    """,
    "reply": """
        task: little_reply
        output_type: generate_until
        doc_to_text: "{{question}}"
        doc_to_target: "{{answer}}"
        generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 12}
        metric_list: [{metric: exact_match}]
    """,
}
QUESTIONS = [
    {"question": "abba cab?", "choices": [" ab", " abba", " bad cab"], "answer": 1},
    {"question": "a bad", "choices": [" cab", " b"], "answer": 0},
    {"question": "abba " * 20, "choices": [" cab", " ab ab"], "answer": 0},
]
TEXTS = [{"text": WORDS * 9}, {"text": "ab"}, {"text": WORDS}]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the user's caches, and without lm_eval's own tasks, which take seconds to read."""

    def few(include_path: str) -> TaskManager:
        return TaskManager(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr("compress.evaluation.harness.TaskManager", few)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_tiny_mixtral(
        path, vocab_size=320, eos_token_id=2, max_position_embeddings=CONTEXT, initializer_range=0.3
    )
    byte_level().save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(SPECIAL))
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder)


@pytest.fixture(scope="module")
def adapter(folder: Path, model: Model) -> HarnessModel:
    return HarnessModel(model, Tokenizer.from_folder(folder))


@pytest.fixture(scope="module")
def theirs(folder: Path) -> HFLM:
    """lm_eval's own adapter around transformers' model."""
    return their_adapter(folder)


def their_adapter(folder: Path, **options: Any) -> HFLM:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **SPECIAL)
    model = MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        device="cpu",
        batch_size=3,
        max_length=CONTEXT,
        **options,
    )


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Each of the three kinds; the data beside the YAML."""
    path = tmp_path / "tasks"
    path.mkdir()
    for name, text in TASKS.items():
        data = f"{name}.jsonl"
        shared = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        lines = "\n".join(line.strip() for line in text.strip().splitlines())
        (path / f"{name}.yaml").write_text(f"{lines}\n{shared}test_split: test\n")
    write_lines(path / "choice.jsonl", QUESTIONS)
    write_lines(path / "text.jsonl", TEXTS)
    write_lines(path / "reply.jsonl", [{"question": "ab", "answer": "never"}])
    return path


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=args) for args in arguments]


def log_probabilities(model: Model, ids: list[int]) -> Tensor:
    """float64 [T, V]."""
    with torch.inference_mode():
        return model.forward(torch.tensor([ids]))[0].double().log_softmax(-1)


PAIRS = [
    ("abba cab", " ab"),
    ("abba cab ", "ab"),
    ("", "ab cab"),
    ("a", " bad cab! ab"),
    ("b", "b"),
    ("abba " * 30, " cab"),
    ("cab", " ab cab" * 8),
]


def test_continuations_are_scored_as_by_lm_eval_itself(adapter: HarnessModel, theirs: HFLM) -> None:
    ours = adapter.loglikelihood(requests(*PAIRS))
    expected = theirs.loglikelihood(requests(*PAIRS))
    for (score, greedy), (their_score, their_greedy) in zip(ours, expected, strict=True):
        assert score == pytest.approx(their_score, abs=1e-3)
        assert greedy == their_greedy


def test_a_continuation_is_the_sum_of_its_tokens(
    adapter: HarnessModel, model: Model, folder: Path
) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    before, after = tokenizer.encode("abba cab"), tokenizer.encode(" ab")
    ids = [tokenizer.bos_id, *before, *after]
    likely = log_probabilities(model, ids[:-1])
    expected = sum(likely[at - 1, ids[at]] for at in range(1 + len(before), len(ids)))
    ((score, greedy),) = adapter.loglikelihood(requests(("abba cab", " ab")))
    assert score == pytest.approx(float(expected), abs=1e-4)
    best = likely.argmax(-1)[-len(after) :].tolist()
    assert greedy == (best == after)
    favourite = tokenizer.decode([int(likely[len(before)].argmax())])
    ((_, greedy),) = adapter.loglikelihood(requests(("abba cab", favourite)))
    assert greedy


def test_a_whole_text_counts_every_token_once(
    adapter: HarnessModel, model: Model, folder: Path
) -> None:
    """lm_eval's adapter without a second BOS does the same; with it, it predicts BOS, too."""
    texts = [row["text"] for row in TEXTS]
    found = adapter.loglikelihood_rolling(requests(*((text,) for text in texts)))
    plain = their_adapter(folder, add_bos_token=False)
    expected = plain.loglikelihood_rolling(requests(*((text,) for text in texts)))
    assert found == pytest.approx(expected, abs=1e-2)
    tokenizer = Tokenizer.from_folder(folder)
    ids = tokenizer.encode(WORDS)
    likely = log_probabilities(model, [tokenizer.bos_id, *ids][:-1])
    assert found[2] == pytest.approx(float(likely[range(len(ids)), ids].sum()), abs=1e-3)
    assert len(tokenizer.encode(texts[0])) > 2 * CONTEXT


def test_replies_are_those_of_lm_eval_itself(adapter: HarnessModel, theirs: HFLM) -> None:
    reply = adapter.generate_until(requests(("ab", {"until": [], "max_gen_toks": 30})))[0]
    assert len(reply) > 10
    stop = reply[7:9]
    wishes = {"until": [stop], "max_gen_toks": 30, "do_sample": False, "temperature": 0.0}
    asked = requests(*((text, wishes) for text in ("ab", "a bad cab", "abba " * 30)))
    ours = adapter.generate_until(asked)
    assert ours[0] == reply[: reply.index(stop)]
    assert ours == theirs.generate_until(asked)


def test_what_it_cannot_do_is_said(adapter: HarnessModel) -> None:
    with pytest.raises(UsageError, match="greedy"):
        adapter.generate_until(requests(("ab", {"do_sample": True, "temperature": 1.0})))
    with pytest.raises(UsageError, match=f"context is {CONTEXT}"):
        adapter.generate_until(requests(("ab", {"until": ["x"]})))
    with pytest.raises(UsageError, match=f"context is {CONTEXT}"):
        adapter.loglikelihood(requests(("ab", " ab cab" * 40)))


def test_the_three_kinds_of_task(
    folder: Path, model: Model, adapter: HarnessModel, tasks: Path, capfd: Any
) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    (reply,) = adapter.generate_until(requests(("ab", {"until": ["\n\n"], "max_gen_toks": 12})))
    write_lines(tasks / "reply.jsonl", [{"question": "ab", "answer": reply}])
    names = ["little_choice", "little_text", "little_reply"]
    heard: list[tuple[int, int]] = []
    capfd.readouterr()
    found = HarnessTasks.find(names, tasks).run(
        model, tokenizer, listener=lambda *progress: heard.append(progress)
    )
    assert capfd.readouterr() == ("", "")
    assert set(found) == set(names)
    right = []
    for row in QUESTIONS:
        question = f"Q: {row['question']} A:"
        pairs = [(question, f" {choice}") for choice in row["choices"]]
        scores = [score for score, _ in adapter.loglikelihood(requests(*pairs))]
        right.append(scores.index(max(scores)) == row["answer"])
    assert found["little_choice"]["acc"] == pytest.approx(sum(right) / len(right))
    assert "acc_stderr" in found["little_choice"]
    likelihood = sum(adapter.loglikelihood_rolling(requests(*((r["text"],) for r in TEXTS))))
    size = sum(len(row["text"].encode()) for row in TEXTS)
    words = sum(len(re.split(r"\s+", row["text"])) for row in TEXTS)
    bits = -likelihood / size / math.log(2)
    assert found["little_text"]["bits_per_byte"] == pytest.approx(bits, rel=1e-4)
    per_word = math.exp(-likelihood / words)
    assert found["little_text"]["word_perplexity"] == pytest.approx(per_word, rel=1e-3)
    assert found["little_reply"]["exact_match"] == 1.0
    assert (len(QUESTIONS[0]["choices"]) + 4,) * 2 in heard


def test_compressed_and_pruned_models_are_asked_alike(
    folder: Path, tasks: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    write_compressed(folder, small, (3, 2, 2, 1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (small / name).write_bytes((folder / name).read_bytes())
    text = tmp_path / "text.txt"
    text.write_text(WORDS * 20)
    scope = Scope(text, tasks=("harness:little_text,little_choice",), task_folder=tasks, window=32)
    found = {path: evaluate(path, scope).tasks for path in (folder, small)}
    rows = [tasks_["harness:little_text"]["bits_per_byte"] for tasks_ in found.values()]
    assert list(found[small]) == ["harness:little_text", "harness:little_choice"]
    assert abs(rows[0] - rows[1]) > 0.01
    model, tokenizer = load_model(small), Tokenizer.from_folder(small)
    one = RatioPruning((2.0,) * model.config.num_layers)
    pruned = HarnessTasks.find(["little_text"], tasks).run(model, tokenizer, one)
    assert abs(pruned["little_text"]["bits_per_byte"] - rows[1]) > 0.01
    assert pruning_of(small, "odp").needs_statistics


def test_tasks_that_cannot_be_run_are_one_line(folder: Path, model: Model, tasks: Path) -> None:
    with pytest.raises(UsageError, match="no task 'hellaswagger'"):
        HarnessTasks.find(["little_text", "hellaswagger"], tasks)
    with pytest.raises(UsageError, match="no folder"):
        HarnessTasks.find(["little_text"], tasks / "none")
    (tasks / "text.jsonl").unlink()
    with pytest.raises(SourceError, match="little_text") as error:
        HarnessTasks.find(["little_text"], tasks).run(model, Tokenizer.from_folder(folder))
    assert "\n" not in str(error.value)
    write_lines(tasks / "text.jsonl", [{"other": 1}])
    with pytest.raises(SourceError, match="little_text"):
        HarnessTasks.find(["little_text"], tasks).run(model, Tokenizer.from_folder(folder))
