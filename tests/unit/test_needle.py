"""Needles: where they lie, how long the prompts are, and the grid and its picture."""

import itertools
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import assets
from assets import corpus
from compress.calibration import demo_tokenizer
from compress.evaluation import needle as needles
from compress.evaluation.heat_map import draw
from compress.evaluation.needle import Needle, NeedleTask, RecallGrid, TextHaystack
from engine.checkpoint import load_model
from engine.errors import SourceError, UsageError
from engine.tokenizer import Tokenizer
from tests.unit.tokenizers_for_tests import SPECIAL, byte_level, ours

LENGTH = 400


def place(messages: tuple[dict[str, str], ...], index: int, tokenizer: Tokenizer) -> float:
    """How much of a chat lies before a message, 0 to 1."""
    before, whole = (len(tokenizer.encode_turns(part)) for part in (messages[:index], messages))
    return before / whole


def test_the_demos_needles_lie_at_their_depth() -> None:
    tokenizer = Tokenizer.from_folder(assets.DEMO_DIR)
    depths = (0.0, 0.5, 1.0)
    found = [corpus.needle_items(demo_tokenizer(), 3, 4, LENGTH, depth) for depth in depths]
    for items in zip(*found, strict=True):
        assert len({item.answer for item in items}) == 1
        bags = [sorted(message["content"] for message in item.messages) for item in items]
        assert bags[0] == bags[1] == bags[2]
        acknowledged = [
            next(i for i, m in enumerate(item.messages) if m["content"].startswith("I will remem"))
            for item in items
        ]
        assert acknowledged[0] == 1
        assert acknowledged[2] == len(items[2].messages) - 2
        assert place(items[1].messages, acknowledged[1], tokenizer) == pytest.approx(0.5, abs=0.15)
        for item in items:
            length = len(tokenizer.encode_turns(item.messages))
            assert 0.8 * LENGTH < length <= LENGTH


def test_the_demo_finds_its_needles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needles, "ITEMS", 6)
    monkeypatch.setattr(needles, "_LENGTHS", (0.2,))
    monkeypatch.setattr(needles, "_DEPTHS", (0.5,))
    model, tokenizer = load_model(assets.DEMO_DIR), Tokenizer.from_folder(assets.DEMO_DIR)
    found = NeedleTask.of(assets.DEMO_DIR, None, 1024).run(model, tokenizer)
    assert found.lengths == (192,)
    assert found.shares[0][0] >= 0.8


def test_shares_stand_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that reads the last half of a prompt, and of long prompts nothing."""
    tokenizer = ours("byte-level")
    asked: list[tuple[int, float]] = []

    def haystack(length: int, depth: float) -> list[Needle]:
        asked.append((length, depth))
        return [Needle([{"role": "user", "content": "?"}], answer) for answer in ("12", "34")]

    def replies(model: object, tokenizer: object, prompts: list[list[int]], *rest: object) -> list:
        length, depth = asked[-1]
        return ["It is 12.", "34" if depth >= 0.5 else "43"] if length < 900 else ["", ""]

    monkeypatch.setattr(needles, "greedy_replies", replies)
    heard: list[str] = []
    lengths = NeedleTask.of(assets.DEMO_DIR, None, 1264).lengths
    assert lengths == (150, 300, 600, 900, 1200)
    model: Any = None
    found = NeedleTask(lengths, haystack).run(model, tokenizer, listener=heard.append)
    assert found.shares[2] == (0.5, 0.5, 1.0, 1.0, 1.0)
    assert found.shares[3] == found.shares[4] == (0.0,) * 5
    assert asked == list(itertools.product(found.lengths, found.depths))
    assert heard[1] == "150 tokens, depth 25%"


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece-like"])
def test_a_text_is_a_haystack(kind: str) -> None:
    tokenizer = ours(kind)
    text = "".join(f"Sentence {number} is here. " for number in range(400))
    haystack = TextHaystack(tokenizer, text)
    for depth in (0.0, 0.5, 1.0):
        found = haystack(1200, depth)
        assert len(found) == needles.ITEMS
        for item in found:
            (message,) = item.messages
            content = message["content"]
            assert content.count(item.answer) == 1
            assert 1100 < len(tokenizer.encode_turns(item.messages)) <= 1200
            before = content[: content.index("The secret number")]
            assert len(before) / len(content) == pytest.approx(0.1 + 0.75 * depth, abs=0.1)
            assert before.rstrip().endswith(".")  # between sentences
    assert [item.answer for item in haystack(1200, 0.0)] == [item.answer for item in found]


def test_what_is_no_haystack_is_refused(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(SPECIAL))
    text = tmp_path / "text.txt"
    text.write_text("a short one")
    with pytest.raises(UsageError, match="1024 tokens, not 512"):
        NeedleTask.of(tmp_path, text, 512)
    with pytest.raises(UsageError, match="--text"):
        NeedleTask.of(tmp_path, None, 2048)
    with pytest.raises(SourceError, match="has 11 tokens, the longest prompt 1984"):
        NeedleTask.of(tmp_path, text, 2048)


def test_the_picture_has_every_share_in_its_cell() -> None:
    grid = RecallGrid((100, 200, 400), (0.0, 1.0), ((1.0, 0.9), (0.5, 0.25), (0.0, 0.1)), 10)
    svg = ElementTree.fromstring(draw(grid, "a <model> & its recall"))
    space = "{http://www.w3.org/2000/svg}"
    texts = {node.text: node.attrib for node in svg.iter(f"{space}text")}
    assert "a <model> & its recall" in texts
    assert {"100", "200", "400", "length of the prompt in tokens"} <= set(texts)

    def at(share: str) -> tuple[float, float]:
        return float(texts[share]["x"]), float(texts[share]["y"])

    assert at("50%")[0] == at("25%")[0] == float(texts["200"]["x"])
    assert at("90%")[1] == at("25%")[1] == at("10%")[1] > at("50%")[1]
    fills = [node.attrib["fill"] for node in svg.iter(f"{space}rect")][1:]
    assert len(fills) == len(set(fills)) == 6
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    for attributes in texts.values():
        assert 0 < float(attributes["x"]) < width
        assert 0 < float(attributes["y"]) < height
