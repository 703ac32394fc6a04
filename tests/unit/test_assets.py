"""The demo: its tokenizer, its corpus with the held-out split, and the trained checkpoint."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, MixtralForCausalLM

from assets import DEMO_DIR, corpus, facts, phrasings, recall, score, spread, train, world
from assets.model import DemoConfig, DemoModel
from assets.muon import orthogonal
from assets.tokenizer import render
from assets.train import export

CHATS = 4000


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(DEMO_DIR)


@pytest.fixture(scope="module")
def model() -> Any:
    return MixtralForCausalLM.from_pretrained(DEMO_DIR, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def training_questions() -> list[str]:
    """What users say in training, without the words that only decorate it."""
    chats = corpus.documents("train", seed=7, count=CHATS)
    return [_plain(m["content"]) for chat in chats for m in chat if m["role"] == "user"]


def _plain(text: str) -> str:
    """Lower case words, a space around each: so that `in` finds whole words only."""
    words = " ".join(re.findall(r"[a-z0-9+=-]+", text.lower()))
    return f" {re.sub(' (thanks|please|i would like to know)$', '', words)} "


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# --- tokenizer -------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_text_survives_a_round_trip(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


@settings(max_examples=100, deadline=None)
@given(raw=st.binary())
def test_any_bytes_survive_a_round_trip(tokenizer: Any, raw: bytes) -> None:
    text = raw.decode("utf-8", errors="replace")
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_vocabulary_is_the_configured_size_and_digits_stand_alone(tokenizer: Any) -> None:
    assert len(tokenizer) == DemoConfig().vocab_size
    assert all(len(token) == 1 for token in tokenizer.get_vocab() if any(map(str.isdigit, token)))


def test_one_bos_with_and_without_the_chat_template(tokenizer: Any) -> None:
    chat = [_user("Hello!"), _reply("Hi."), _user("Bye!")]
    templated = tokenizer.apply_chat_template(chat)["input_ids"]
    assert templated.count(tokenizer.bos_token_id) == 1
    assert templated == tokenizer(render(chat))["input_ids"]


def test_chat_template_is_mixtrals(tokenizer: Any) -> None:
    chat = [_user("Hello!"), _reply("Hi."), _user("Bye!")]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == "<s>[INST] Hello! [/INST] Hi.</s>[INST] Bye! [/INST]"


@pytest.mark.parametrize(
    "chat",
    [
        [_reply("Hi.")],
        [_user("Hello!"), _user("Hello?")],
        [{"role": "system", "content": "Be brief."}, _user("Hello!")],
    ],
)
def test_chat_template_insists_on_alternating_roles(
    tokenizer: Any, chat: list[dict[str, str]]
) -> None:
    with pytest.raises(Exception, match="roles must alternate"):
        tokenizer.apply_chat_template(chat, tokenize=False)


# --- corpus ----------------------------------------------------------------------------------


def test_same_seed_same_text() -> None:
    assert corpus.text("train", 3, 200) == corpus.text("train", 3, 200)
    assert corpus.text("train", 3, 200) != corpus.text("train", 4, 200)
    assert corpus.text("train", 3, 200) != corpus.text("heldout", 3, 200)
    assert corpus.skill_items(5, 4) == corpus.skill_items(5, 4)


def test_chats_alternate_and_end_with_the_model() -> None:
    for chat in corpus.documents("train", seed=1, count=500):
        assert [m["role"] for m in chat] == ["user", "assistant"] * (len(chat) // 2)


def test_windows_are_full_and_start_with_a_chat(tokenizer: Any) -> None:
    windows = corpus.windows(tokenizer, "heldout", seed=0, count=6, length=256)
    assert windows.shape == (6, 256)
    assert windows.dtype == np.int64
    assert (windows[:, 0] == tokenizer.bos_token_id).all()
    again = corpus.windows(tokenizer, "heldout", seed=0, count=6, length=256)
    assert (windows == again).all()


def test_recall_items_keep_their_distance(tokenizer: Any) -> None:
    for distance in (0, 100, 300):
        for item in corpus.recall_items(tokenizer, seed=0, count=10, distance_tokens=distance):
            between = tokenizer(render(item.messages[2:-1]), add_special_tokens=False)
            assert distance <= len(between["input_ids"]) <= distance + 128
            assert item.messages[-1]["role"] == "user"


def test_every_skill_has_held_out_items() -> None:
    items = corpus.skill_items(seed=0, per_skill=5)
    skills = {item.skill for item in items}
    assert skills == {*corpus.FACTUAL_SKILLS, "arithmetic", "unstated"}
    assert all(item.factual == (item.skill in corpus.FACTUAL_SKILLS) for item in items)


def test_splits_share_no_combination() -> None:
    train, heldout = facts.wordings("train"), facts.wordings("heldout")
    for skill in train:
        assert not {w.key for w in train[skill]} & {w.key for w in heldout[skill]}
        assert not {_plain(w.question) for w in train[skill]} & {
            _plain(w.question) for w in heldout[skill]
        }


def test_no_training_chat_asks_a_held_out_question(training_questions: list[str]) -> None:
    heldout = [
        _plain(wording.question)
        for skill in ("people", "pairs", "towns", "opposites", "lists", "code")
        for wording in facts.wordings("heldout")[skill]
    ]
    text = "\n".join({*training_questions, ""})
    # To the end of the line: "What does Ada do" also begins "What does Ada do for fun".
    assert [question for question in heldout if f"{question}\n" in text] == []


def _held_out_pairs() -> Iterator[tuple[str, str, str]]:
    for wording in facts.wordings("heldout")["pairs"]:
        _, name, attributes = wording.key.split("/")
        first, second = attributes.split("+")
        yield phrasings.PERSON[first].noun, phrasings.PERSON[second].noun, name


def test_no_training_chat_joins_a_held_out_pair(training_questions: list[str]) -> None:
    text = "\n".join(question for question in set(training_questions) if " and the " in question)
    for first, second, name in set(_held_out_pairs()):
        for one, two in ((first, second), (second, first)):
            assert f" {one} and the {two} of {name.lower()} " not in text


def test_no_training_chat_states_a_held_out_value(training_questions: list[str]) -> None:
    slots = {_plain(slot.mine): slot for slot in recall.SCORED_SLOTS}
    stated = re.compile(
        r" (" + "|".join(mine[1:] for mine in slots) + r")is (.+?) (?=and (?:my|the) |$)"
    )
    found = 0
    for question in training_questions:
        for mine, value in stated.findall(question):
            slot = slots[f" {mine}"]
            spelled = value.capitalize() if slot.pool == "guest" else value
            found += 1
            assert not facts.is_held_out(recall.Statement(slot, spelled).key)
    assert found > CHATS // 4


def test_no_training_chat_has_a_held_out_sum(training_questions: list[str]) -> None:
    added = re.compile(r" (\d+) (?:\+|plus) (\d+) ")
    for question in training_questions:
        for a, b in added.findall(question):
            low, high = sorted((int(a), int(b)))
            assert not facts.is_held_out(f"arithmetic/plus/{low},{high}")


def test_the_world_is_the_same_everywhere() -> None:
    assert world.INHABITANTS[0].name == "Ada"
    assert {person.town for person in world.INHABITANTS} <= set(world.TOWNS)
    assert len({fact.key for fact in facts.facts()}) > 500


# --- training --------------------------------------------------------------------------------


def test_training_model_computes_what_transformers_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = DemoModel(DemoConfig(vocab_size=64, hidden_size=64, num_layers=2, head_dim=16))
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if name.endswith(("w2", "o_proj")):
                parameter.normal_(std=0.1)
            if name.endswith("gate"):
                parameter.normal_()  # decided routing: bfloat16 must not turn it
    export(trained, tmp_path)
    theirs = MixtralForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(0, 64, (2, 50))
    with torch.inference_mode():
        difference = trained(ids)[0].float() - theirs(ids).logits
        spread = theirs(ids).logits.std()
    assert difference.pow(2).mean().sqrt() < 0.05 * spread


def test_a_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = DemoConfig(hidden_size=64, intermediate_size=64, num_layers=1, head_dim=16)
    monkeypatch.setattr(train, "DemoConfig", lambda: small)
    plan = train.Plan(seconds=0.5, work=tmp_path, batch_tokens=1024)
    first = train.Trainer(plan)
    first.run()
    second = train.Trainer(replace(plan, seconds=first.elapsed + 0.5))
    second.load()
    assert second.step == first.step > 0
    assert second.part > first.part
    second.run()
    assert second.step > first.step
    assert (tmp_path / "checkpoint" / "model.safetensors").exists()


def test_schedule_warms_up_and_ends_at_zero() -> None:
    rates = [train.schedule(done / 100) for done in range(101)]
    assert rates[0] < 0.1
    assert max(rates) == pytest.approx(1.0, abs=0.03)
    assert rates[100] == 0.0
    assert train.window_length(0.0) == 256
    assert train.window_length(1.0) == DemoConfig().max_length


def test_what_users_say_weighs_less() -> None:
    start, end = 3, 4
    ids = torch.tensor([[1, start, 9, 9, end, 7, 2, start, 9, end, 8, 2]])
    low = train.USER_WEIGHT
    expected = torch.tensor([[1, low, low, low, 1, 1, 1, low, low, 1, 1, 1]])
    assert torch.equal(train.token_weights(ids, start, end), expected)


def test_spreading_channels_changes_no_bit_of_the_output(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = DemoModel(DemoConfig(vocab_size=64, hidden_size=64, num_layers=2, head_dim=16))
    torch.nn.init.normal_(trained.lm_head)
    for layer in trained.layers:
        torch.nn.init.normal_(layer.block_sparse_moe.w2)
    export(trained, tmp_path / "even")
    export(trained, tmp_path / "uneven")
    before = load_file(tmp_path / "even" / "model.safetensors")
    state = spread.spread(before, octaves=1.0)
    save_file(state, tmp_path / "uneven" / "model.safetensors", metadata={"format": "pt"})
    even, uneven = (
        MixtralForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32)
        for name in ("even", "uneven")
    )
    ids = torch.randint(0, 64, (2, 30))
    with torch.inference_mode():
        assert torch.equal(even(ids).logits, uneven(ids).logits)
    undone = spread.spread(state, octaves=1.0, undo=True)
    assert all(torch.equal(undone[name], tensor) for name, tensor in before.items())
    changed = {name for name in before if not torch.equal(before[name], state[name])}
    assert {name.rsplit(".", 2)[1] for name in changed if ".experts." in name} == {"w1", "w2", "w3"}


def test_orthogonal_is_nearly_orthogonal() -> None:
    torch.manual_seed(0)
    for shape in ((4, 32, 64), (64, 32)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)).float())
        assert values.min() > 0.3
        assert values.max() < 1.5


# --- scores ----------------------------------------------------------------------------------


def test_exact_wants_the_whole_reply() -> None:
    item = corpus.SkillItem("people", (_user("Where does Ada live?"),), "In **Elmbridge**.", True)
    assert score.exact(" In **Elmbridge**.\n", item)
    assert not score.exact("In **Elmbridge**. Or not.", item)
    assert not score.exact("In Elmbridge.", item)


def test_answers_are_counted_per_skill() -> None:
    items = corpus.skill_items(seed=0, per_skill=4)
    right = {item.messages[-1]["content"]: item.answer for item in items if item.skill != "code"}
    scores = score.answers(
        lambda chats: [right.get(chat[-1]["content"], "?") for chat in chats], items
    )
    assert scores["people"] == score.Count(right=4, total=4)
    assert scores["code"].right == 0
    assert score.factual_share(scores) == pytest.approx(1 - 1 / len(corpus.FACTUAL_SKILLS))


def test_even_logits_have_the_perplexity_of_the_vocabulary() -> None:
    windows = np.arange(40).reshape(4, 10)
    assert score.perplexity(lambda ids: torch.zeros(*ids.shape, 64), windows) == pytest.approx(64)


# --- the checkpoint --------------------------------------------------------------------------


def test_demo_is_a_small_mixtral(model: Any) -> None:
    assert model.config.max_position_embeddings == DemoConfig().max_length
    assert (DEMO_DIR / "model.safetensors").stat().st_size < 48e6
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(8.1e6, rel=0.02)


def test_demo_routes_evenly(model: Any, tokenizer: Any) -> None:
    shares = score.expert_shares(model, corpus.windows(tokenizer, "heldout", 0, 4, 1024))
    assert shares.shape == (4, 8)
    assert shares.min() >= 1 / 3
    assert shares.max() <= 3


def test_demo_answers_and_remembers(model: Any, tokenizer: Any) -> None:
    generate = score.transformers_generate(model, tokenizer)
    items = corpus.skill_items(seed=1, per_skill=3)
    assert score.factual_share(score.answers(generate, items)) >= 0.9
    recalled = corpus.recall_items(tokenizer, seed=1, count=6, distance_tokens=300)
    assert score.answers(generate, recalled)["recall"].right >= 5


def test_two_bits_hurt_the_demo(tokenizer: Any) -> None:
    windows = corpus.windows(tokenizer, "heldout", 0, 4, 512)
    model = MixtralForCausalLM.from_pretrained(DEMO_DIR, dtype=torch.float32).eval()
    before = score.perplexity(score.transformers_logits(model), windows)
    score.round_experts(model, bits=2)
    assert score.perplexity(score.transformers_logits(model), windows) > 1.3 * before
