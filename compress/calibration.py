"""The text that calibrates: windows of tokens, from the demo's own corpus or from a file."""

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import assets
from assets import corpus
from assets.facts import Split
from compress.source import Source
from engine.errors import SourceError, UsageError
from engine.tokenizer import Tokenizer


@dataclass(frozen=True)
class Calibration:
    """``tokens`` int64 [N, T], and where they are from, in words that name no path."""

    tokens: Tensor
    origin: str


@dataclass(frozen=True)
class CalibrationSize:
    """``samples`` windows of ``window`` tokens."""

    samples: int
    window: int


DEMO_SIZE = CalibrationSize(samples=64, window=512)
"""Enough for 4,000 tokens per expert and input group of the demo, in seconds."""
PAPER_SIZE = CalibrationSize(samples=128, window=2048)


def speaks_demo(folder: Path) -> bool:
    """Whether a model, original or compressed, has the demo's tokenizer, and so its corpus."""
    tokenizer, demo = folder / "tokenizer.json", assets.DEMO_DIR / "tokenizer.json"
    return tokenizer.is_file() and tokenizer.read_bytes() == demo.read_bytes()


def calibration_size(source: Source, samples: int | None, window: int | None) -> CalibrationSize:
    """What was asked for, or the default for this source, within the model's context.

    Raises UsageError.
    """
    default = DEMO_SIZE if speaks_demo(source.folder) else PAPER_SIZE
    longest = source.config.max_context
    size = CalibrationSize(
        default.samples if samples is None else samples,
        min(default.window, longest) if window is None else window,
    )
    if size.samples < 1:
        raise UsageError(f"--samples {size.samples} is not possible: take at least 1")
    if not 2 <= size.window <= longest:
        raise UsageError(
            f"--window {size.window} is not possible: this model takes 2 to {longest} tokens"
        )
    return size


def calibrate(source: Source, text: Path | None, size: CalibrationSize, seed: int) -> Calibration:
    """Draw the calibration windows.

    Raises UsageError when there is no text, SourceError when it is unreadable or too short.
    """
    if text is not None:
        tokens = text_windows(text, Tokenizer.from_folder(source.folder), size, seed)
        digest = hashlib.sha256(text.read_bytes()).hexdigest()[:12]
        return Calibration(tokens, f"{text.name} (sha256 {digest})")
    if speaks_demo(source.folder):
        return Calibration(demo_windows("train", size, seed), "demo corpus, train split")
    raise UsageError("this model brings no calibration text: give one with --text FILE")


def demo_tokenizer() -> Any:
    """The demo's tokenizer, as its corpus generator wants it."""
    # Imported here: it takes seconds, and models with a text of their own do without.
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(assets.DEMO_DIR)


def demo_windows(split: Split, size: CalibrationSize, seed: int) -> Tensor:
    """Windows [N, T] of the demo's corpus."""
    windows = corpus.windows(demo_tokenizer(), split, seed, size.samples, size.window)
    return torch.from_numpy(windows)


def text_windows(path: Path, tokenizer: Tokenizer, size: CalibrationSize, seed: int) -> Tensor:
    """Draw windows [N, T] from a file without overlap, in the file's order.

    Raises SourceError when it holds too few tokens.
    """
    ids = tokenize(path, tokenizer)
    available = len(ids) // size.window
    if available < size.samples:
        raise SourceError(
            f"{path} has {len(ids)} tokens, {size.samples} windows of {size.window} need "
            f"{size.samples * size.window}: take a longer text, or fewer --samples"
        )
    chosen = sorted(random.Random(seed).sample(range(available), size.samples))
    return ids.view(-1)[: available * size.window].view(available, size.window)[chosen]


def tokenize(path: Path, tokenizer: Tokenizer) -> Tensor:
    """All tokens of a text file, int64 [n], each document with its BOS.

    A plain text is one document; of JSON lines, each line's "text" is one. Raises SourceError.
    """
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids: list[int] = []
    for document in read_documents(path):
        ids += start + tokenizer.encode(document)
    return torch.tensor(ids, dtype=torch.int64)


def read_documents(path: Path) -> list[str]:
    """The documents of a plain text (one) or of JSON lines with a "text" key. SourceError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SourceError(f"there is no text file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read as UTF-8 text: {error}") from None
    if path.suffix not in (".jsonl", ".json"):
        return [text]
    try:
        return [json.loads(line)["text"] for line in text.splitlines() if line.strip()]
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f'{path} is not JSON lines with a "text" key: {error!r}') from None
