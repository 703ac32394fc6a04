"""What an original says of a text, with one of its layers in memory at a time.

The 16-bit Mixtral 8x7B has 93 GB, one of its layers 2.9: the machine that compresses it can measure
it, too.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compress.evaluation.likelihood import Predictions, windows_together
from compress.evaluation.scratch import scratch_array
from engine.attention import Rope
from engine.config import ModelConfig
from engine.linear import FloatLinear
from engine.model import Norm
from engine.original import OriginalFolder, original_layer
from engine.threads import threads_for


def predictions_layerwise(
    folder: Path,
    windows: Tensor,
    device: torch.device | str = "cpu",
    listener: Callable[[str], None] = lambda layer: None,
) -> Iterator[Predictions]:
    """Of windows [N, T], a few at a time, by the original in ``folder``, in float32.

    The residual streams lie in a file meanwhile, 4 bytes for each token and channel. ``listener``
    hears of each layer before it is read. Raises SourceError, DiskFullError.
    """
    config, stored = ModelConfig.from_folder(folder), OriginalFolder(folder)

    def read(name: str) -> Tensor:
        tensor = stored.get(name).to(device)
        # Experts, nearly all of a layer, stay as they are stored; what comes of them is the same.
        return tensor if ".experts." in name else tensor.float()

    embed = stored.get("model.embed_tokens.weight")
    shape = (*windows.shape, config.hidden_size)
    stream = torch.from_numpy(scratch_array(shape, np.float32, "what goes from layer to layer"))
    stream.copy_(embed[windows])  # [N, T, H]
    parts = torch.split(stream, windows_together(windows))
    rope = Rope(config, torch.device(device), torch.float32).at(0, windows.shape[1])
    for index in range(config.num_layers):
        listener(f"layer {index + 1} of {config.num_layers}")
        layer = original_layer(config, index, read)
        with threads_for(config):
            for part in parts:
                part.copy_(layer.forward(part.to(device), rope))
        del layer  # before the next one comes
    norm = Norm(read("model.norm.weight"), config.rms_norm_eps)
    head_name = "model.embed_tokens.weight" if config.tie_embeddings else "lm_head.weight"
    head = FloatLinear(read(head_name))
    for tokens, part in zip(torch.split(windows, windows_together(windows)), parts, strict=True):
        with threads_for(config):
            logits = head.forward(norm.forward(part.to(device)))  # [B, T, V]
        yield Predictions(tokens[:, 1:].to(device), logits[:, :-1])
