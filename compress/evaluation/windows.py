"""The text that a model is measured on, cut as the papers cut it."""

from pathlib import Path

import torch
from torch import Tensor

from compress.calibration import CalibrationSize, demo_windows, read_documents, speaks_demo
from compress.evaluation.demo_tasks import DEMO_SEED
from engine.config import ModelConfig
from engine.errors import SourceError, UsageError
from engine.tokenizer import Tokenizer

DEMO_WINDOWS = 32
_DEFAULT_WINDOW = 2048
_BETWEEN_DOCUMENTS = "\n\n"


def evaluation_windows(
    folder: Path, config: ModelConfig, text: Path | None, window: int | None
) -> Tensor:
    """The windows [N, T] to measure on: of a text, or the demo's held-out ones.

    A text is one stream of tokens, its documents joined by blank lines, with one BOS at the very
    beginning; it is cut into windows one after the other, and what is left at the end is dropped.
    Raises UsageError for an impossible window or no text, SourceError for a text too short.
    """
    longest = config.max_context
    length = min(_DEFAULT_WINDOW, longest) if window is None else window
    if not 2 <= length <= longest:
        raise UsageError(f"--window {length} is not possible: this model takes 2 to {longest}")
    if text is None:
        if not speaks_demo(folder):
            raise UsageError("this model brings no text to measure on: give one with --text FILE")
        return demo_windows("heldout", CalibrationSize(DEMO_WINDOWS, length), DEMO_SEED)
    ids = _stream(text, Tokenizer.from_folder(folder))
    count = len(ids) // length
    if not count:
        raise SourceError(f"{text} has {len(ids)} tokens, fewer than one window of {length}")
    return ids[: count * length].view(count, length)


def _stream(text: Path, tokenizer: Tokenizer) -> Tensor:
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids = tokenizer.encode(_BETWEEN_DOCUMENTS.join(read_documents(text)))
    return torch.tensor(start + ids, dtype=torch.int64)
