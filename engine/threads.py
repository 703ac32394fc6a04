"""How many threads a model's products are worth."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.config import ModelConfig

SMALLEST_SHARED = 1024
"""Hidden size from which on a product is worth waking a second thread for."""


def useful_threads(config: ModelConfig) -> int:
    """How many threads a step of the model is worth, at most as many as torch uses."""
    return torch.get_num_threads() if config.hidden_size >= SMALLEST_SHARED else 1


@contextmanager
def threads_for(config: ModelConfig) -> Iterator[None]:
    """Use one thread while a small model runs.

    Its products are over before a second thread has woken up, and on a busy machine waiting for
    that one is most of the time: compressing the demo took 280 s on two threads and 30 s on one,
    and it decoded 60 tokens/s on two and 800 on one.
    """
    before = torch.get_num_threads()
    if before > 1 and config.hidden_size < SMALLEST_SHARED:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
