"""The text that calibrates: windows of tokens, from a file, C4, or the demo's own corpus."""

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor

import assets
from assets import corpus
from assets.facts import Split
from engine.config import ModelConfig
from engine.errors import SourceError, UsageError
from engine.integrity import cache_dir
from engine.tokenizer import Tokenizer


class Calibrated(Protocol):
    """What a text is for: an original, or a model made of one."""

    @property
    def folder(self) -> Path:
        """Where its tokenizer is."""

    @property
    def config(self) -> ModelConfig:
        """Its shape."""


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
CPU_SIZE = CalibrationSize(samples=4, window=2048)
"""For models too wide for the paper's size on a processor: hours instead of weeks."""
_WIDE = 1024
"""From this hidden size on a model is too wide for that."""
_DRAWN_FROM = 2
"""Times as many tokens of C4 as are used are drawn from: chance has a choice, the reading ends."""


def speaks_demo(folder: Path) -> bool:
    """Whether a model, original or compressed, has the demo's tokenizer, and so its corpus."""
    tokenizer, demo = folder / "tokenizer.json", assets.DEMO_DIR / "tokenizer.json"
    return tokenizer.is_file() and tokenizer.read_bytes() == demo.read_bytes()


def calibration_size(
    source: Calibrated, samples: int | None, window: int | None, device_kind: str = "cuda"
) -> CalibrationSize:
    """What was asked for, or the default for this source and device, within the model's context.

    Raises UsageError.
    """
    default = _default_size(source, device_kind)
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


def _default_size(source: Calibrated, device_kind: str) -> CalibrationSize:
    if speaks_demo(source.folder):
        return DEMO_SIZE
    if device_kind == "cpu" and source.config.hidden_size >= _WIDE:
        return CPU_SIZE
    return PAPER_SIZE


def calibrate(
    source: Calibrated,
    text: Path | None,
    size: CalibrationSize,
    seed: int,
    offline: bool = False,
    cache: Path | None = None,
) -> Calibration:
    """Draw the calibration windows: from ``text``, the demo's corpus for the demo, else from C4.

    The same arguments give the same windows. ``cache`` keeps what is read of C4, None: in the
    user's cache. Raises SourceError when a text is unreadable or too short, NetworkError and
    HubError when C4 cannot be had.
    """
    if text is not None:
        tokens = text_windows(text, Tokenizer.from_folder(source.folder), size, seed)
        digest = hashlib.sha256(text.read_bytes()).hexdigest()[:12]
        return Calibration(tokens, f"{text.name} (sha256 {digest})")
    if speaks_demo(source.folder):
        return Calibration(demo_windows("train", size, seed), "demo corpus, train split")
    return _c4_windows(Tokenizer.from_folder(source.folder), size, seed, offline, cache)


def _c4_windows(
    tokenizer: Tokenizer, size: CalibrationSize, seed: int, offline: bool, cache: Path | None
) -> Calibration:
    """From as many of C4's first documents as it takes, however many more are in the cache."""
    # Imported here: a job with a text of its own needs no network code.
    from compress.hub import c4

    needed = _DRAWN_FROM * size.samples * size.window
    digest, ids, count = hashlib.sha256(), list[int](), 0
    for document in c4.documents(cache or cache_dir(), offline):
        ids += _document_ids(document, tokenizer)
        digest.update(document.encode())
        count += 1
        if len(ids) >= needed:
            break
    origin = f"{c4.ORIGIN}, first {count} documents of shard 0 (sha256 {digest.hexdigest()[:12]})"
    return Calibration(_draw(ids, size, seed, c4.ORIGIN), origin)


class CorpusTokenizer:
    """The demo's tokenizer as its corpus generator calls it: transformers' interface and ids."""

    def __init__(self) -> None:
        self._backend = Backend.from_file(str(assets.DEMO_DIR / "tokenizer.json"))

    def __call__(self, text: str | list[str], add_special_tokens: bool) -> dict[str, Any]:
        """`input_ids`: the ids of a text, or of each of several."""
        special = add_special_tokens
        if isinstance(text, str):
            return {"input_ids": self._backend.encode(text, add_special_tokens=special).ids}
        encoded = self._backend.encode_batch(text, add_special_tokens=special)
        return {"input_ids": [encoding.ids for encoding in encoded]}


def demo_tokenizer() -> CorpusTokenizer:
    """The demo's tokenizer, as its corpus generator wants it."""
    return CorpusTokenizer()


def demo_windows(split: Split, size: CalibrationSize, seed: int) -> Tensor:
    """Windows [N, T] of the demo's corpus."""
    windows = corpus.windows(demo_tokenizer(), split, seed, size.samples, size.window)
    return torch.from_numpy(windows)


def text_windows(path: Path, tokenizer: Tokenizer, size: CalibrationSize, seed: int) -> Tensor:
    """Draw windows [N, T] from a file without overlap, in the file's order.

    Raises SourceError when it holds too few tokens.
    """
    return _draw(_ids(path, tokenizer), size, seed, str(path))


def _draw(ids: list[int], size: CalibrationSize, seed: int, origin: str) -> Tensor:
    available = len(ids) // size.window
    if available < size.samples:
        raise SourceError(
            f"{origin} has {len(ids)} tokens, {size.samples} windows of {size.window} need "
            f"{size.samples * size.window}: take a longer text, or fewer --samples"
        )
    chosen = sorted(random.Random(seed).sample(range(available), size.samples))
    windows = torch.tensor(ids[: available * size.window], dtype=torch.int64)
    return windows.view(available, size.window)[chosen]


def tokenize(path: Path, tokenizer: Tokenizer) -> Tensor:
    """All tokens of a text file, int64 [n], each document with its BOS.

    A plain text is one document; of JSON lines, each line's "text" is one. Raises SourceError.
    """
    return torch.tensor(_ids(path, tokenizer), dtype=torch.int64)


def _ids(path: Path, tokenizer: Tokenizer) -> list[int]:
    documents = (_document_ids(document, tokenizer) for document in read_documents(path))
    return [token for ids in documents for token in ids]


def _document_ids(document: str, tokenizer: Tokenizer) -> list[int]:
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return start + tokenizer.encode(document)


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
        # Not splitlines: texts may hold characters that it takes for ends of lines.
        return [json.loads(line)["text"] for line in text.split("\n") if line.strip()]
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f'{path} is not JSON lines with a "text" key: {error!r}') from None
