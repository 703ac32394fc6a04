"""Where calibration text comes from: the beginning of C4 by way of a small hub, or a file."""

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import assets
from assets import corpus
from compress.calibration import (
    CPU_SIZE,
    DEMO_SIZE,
    PAPER_SIZE,
    CalibrationSize,
    calibrate,
    calibration_size,
    demo_tokenizer,
    read_documents,
)
from compress.hub import c4
from compress.hub.connection import Patience
from compress.source import Source
from engine.config import ModelConfig
from engine.errors import HubError, McChatError, NetworkError, SourceError
from engine.tokenizer import Tokenizer
from tests.hub_for_tests import Hub, connect, running_hub
from tests.unit.tokenizers_for_tests import SPECIAL, byte_level

SIZE = CalibrationSize(samples=5, window=64)
DOCUMENTS = [
    f"Document {number}\u2028has " + " ".join(random.Random(number).choices("abcdé", k=60))
    for number in range(400)
]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a shard of C4 whose pieces are kilobytes."""
    shard = tmp_path / "hub" / "datasets" / c4.REPOSITORY / c4.FILE
    shard.parent.mkdir(parents=True)
    lines = [json.dumps({"text": text, "url": "x"}, ensure_ascii=False) for text in DOCUMENTS]
    shard.write_bytes(gzip.compress("\n".join([*lines, ""]).encode(), mtime=0))
    monkeypatch.setattr(c4, "_SIZES", (1500, 3000, 1 << 20))
    monkeypatch.setattr(Patience, "limit", 0.3)
    monkeypatch.setattr(Patience, "first_delay", 0.02)
    with running_hub(tmp_path / "hub") as hub:
        connect(hub, monkeypatch, tmp_path)
        yield hub


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A model with a tokenizer and no text of its own, as far as calibration looks at one."""
    folder = tmp_path / "model"
    folder.mkdir()
    byte_level().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(SPECIAL))
    config = replace(ModelConfig.from_folder(assets.DEMO_DIR), hidden_size=4096, max_context=4096)
    return cast(Source, SimpleNamespace(folder=folder, config=config))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def shard_requests(hub: Hub) -> list[str | None]:
    return [request.range for request in hub.requests]


def refused(kind: type[McChatError], *arguments: Any, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        calibrate(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_only_the_first_bytes_of_the_shard_are_read(hub: Hub, source: Source, cache: Path) -> None:
    small = CalibrationSize(2, 64)
    drawn = calibrate(source, None, small, 0, cache=cache)
    assert shard_requests(hub) == ["bytes=0-1499"]
    assert hub.bytes_sent == 1500
    assert drawn.tokens.shape == (2, 64)
    assert drawn.tokens.dtype == torch.int64
    assert drawn.origin.startswith("allenai/c4 en, first 2 documents of shard 0 (sha256 ")
    again = calibrate(source, None, small, 0, cache=cache, offline=True)
    assert torch.equal(again.tokens, drawn.tokens)
    assert len(hub.requests) == 1


def test_windows_are_pieces_of_the_first_documents(hub: Hub, source: Source, cache: Path) -> None:
    tokenizer = Tokenizer.from_folder(source.folder)
    ids: list[int] = []
    for document in DOCUMENTS:
        ids += [1, *tokenizer.encode(document)]
        if len(ids) >= 2 * SIZE.samples * SIZE.window:
            break
    windows = {tuple(ids[start : start + 64]) for start in range(0, len(ids) - 63, 64)}
    drawn = calibrate(source, None, SIZE, 0, cache=cache).tokens.tolist()
    assert len({tuple(window) for window in drawn}) == SIZE.samples
    assert {tuple(window) for window in drawn} <= windows
    assert calibrate(source, None, SIZE, 1, cache=cache).tokens.tolist() != drawn


def test_more_is_read_when_it_is_needed_and_changes_nothing(
    hub: Hub, source: Source, cache: Path
) -> None:
    first = calibrate(source, None, SIZE, 0, cache=cache)
    large = calibrate(source, None, CalibrationSize(200, 64), 0, cache=cache)
    assert len(shard_requests(hub)) == 3
    assert large.origin != first.origin
    assert torch.equal(calibrate(source, None, SIZE, 0, cache=cache).tokens, first.tokens)
    assert len(shard_requests(hub)) == 3
    assert list(c4.documents(cache)) == DOCUMENTS


@pytest.mark.parametrize("fault", ["cut", "no ranges"])
def test_a_bad_connection_gives_the_same_documents(hub: Hub, cache: Path, fault: str) -> None:
    if fault == "cut":
        hub.faults.cut_after = 700
    else:
        hub.faults.ignore_range = True
    assert list(c4.documents(cache)) == DOCUMENTS


def test_too_few_documents_are_said(hub: Hub, source: Source, cache: Path) -> None:
    assert "fewer --samples" in refused(
        SourceError, source, None, CalibrationSize(1000, 64), 0, cache=cache
    )


def test_without_a_network_a_text_is_asked_for(hub: Hub, source: Source, cache: Path) -> None:
    assert "--text FILE" in refused(NetworkError, source, None, SIZE, 0, True, cache)
    assert not hub.requests
    hub.faults.reset = True
    assert "--text FILE" in refused(NetworkError, source, None, SIZE, 0, cache=cache)
    hub.faults.reset = False
    hub.faults.altered = {c4.FILE}
    assert "damaged" in refused(HubError, source, None, SIZE, 0, cache=cache)
    assert not list(cache.glob("*"))


def test_a_text_of_ones_own_needs_no_network(hub: Hub, source: Source, tmp_path: Path) -> None:
    lines = tmp_path / "text.jsonl"
    lines.write_text(
        "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in DOCUMENTS)
    )
    assert read_documents(lines) == DOCUMENTS
    assert calibrate(source, lines, SIZE, 0).tokens.shape == (5, 64)
    assert not hub.requests


def test_default_sizes_follow_model_and_device(source: Source) -> None:
    assert calibration_size(source, None, None) == PAPER_SIZE
    assert calibration_size(source, None, None, "cpu") == CPU_SIZE
    assert calibration_size(source, 7, 33, "cpu") == CalibrationSize(7, 33)
    narrow = SimpleNamespace(
        folder=source.folder, config=replace(source.config, hidden_size=512, max_context=256)
    )
    assert calibration_size(cast(Source, narrow), None, None, "cpu") == CalibrationSize(128, 256)
    demo = SimpleNamespace(folder=assets.DEMO_DIR, config=ModelConfig.from_folder(assets.DEMO_DIR))
    assert calibration_size(cast(Source, demo), None, None, "cpu") == DEMO_SIZE


def test_the_demo_speaks_the_ids_of_transformers() -> None:
    theirs, ours = AutoTokenizer.from_pretrained(assets.DEMO_DIR), demo_tokenizer()
    for split in ("train", "heldout"):
        expected = corpus.windows(theirs, split, 3, 8, 256)
        assert np.array_equal(corpus.windows(ours, split, 3, 8, 256), expected)
    assert corpus.recall_items(ours, 0, 4, 100) == corpus.recall_items(theirs, 0, 4, 100)
