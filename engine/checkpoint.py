"""Loads a model from a folder: a compressed checkpoint or an original one."""

from pathlib import Path

import torch

from engine.errors import CheckpointError
from engine.manifest import is_compressed
from engine.model import Model
from engine.original import load_original


def load_model(folder: Path, device: torch.device | str = "cpu") -> Model:
    """Load the model in ``folder``, compressed (it has an mc.json) or original.

    Raises CheckpointError or SourceError with one line on what is wrong.
    """
    device = torch.device(device)
    if is_compressed(folder):
        raise CheckpointError("reading compressed checkpoints is not there yet")
    return load_original(folder, device)
